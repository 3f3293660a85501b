"""Checks of image content and of duplicates: a function for each code of check.json, of the audit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from imgcls.audit.audit import Audit
from imgcls.audit.issues import Issue, file_issue, group_issue, sound_paths
from imgcls.audit.shortcuts import find_shortcuts
from imgcls.data.listing import Listing
from imgcls.errors import shorten

TINY_PX = 32  # shorter side
ELONGATED = 2.0  # longer side divided by shorter: a center crop is half of the picture
BORDER = 0.15  # fraction of the area
GRAY_CHROMA = 8  # levels between the colour channels: JPEG adds a few
# cleanvision's published scores and thresholds (0.3.7)
DARK, BRIGHT, LOW_ENTROPY = 0.32, 0.95, 3.0
BLURRED = 1.75  # of `sharpness`


def _exact_duplicate(listing: Listing, audit: Audit) -> Iterator[Issue]:
    yield from group_issue(
        "exact_duplicate",
        "warning",
        audit,
        [group for group in audit.exact_duplicates if _have_one_class_and_split(audit, group)],
        "are the same file byte for byte",
        "Training uses one of each.",
    )


def _have_one_class_and_split(audit: Audit, group: Iterable[int]) -> bool:
    """Whether duplicates have one class and one split; otherwise another check reports them."""
    return len({(audit.files[i].label, audit.files[i].split or "train") for i in group}) == 1


def _label_conflict(listing: Listing, audit: Audit) -> Iterator[Issue]:
    yield from group_issue(
        "label_conflict",
        "error",
        audit,
        [group for group in audit.duplicates if len({audit.files[i].label for i in group}) > 1],
        "show the same picture under several classes",
        "Decide which class is right and remove the others; training excludes those that are the same file.",
    )


def _leak(listing: Listing, audit: Audit) -> Iterator[Issue]:
    yield from group_issue(
        "leak",
        "error",
        audit,
        list(audit.leaks()),
        "show the same picture in two splits",
        "Accuracy would be too high; training excludes the copy in the split that is not evaluated.",
    )


def _near_duplicate(listing: Listing, audit: Audit) -> Iterator[Issue]:
    exact = {tuple(group) for group in audit.exact_duplicates}
    yield from group_issue(
        "near_duplicate",
        "warning",
        audit,
        [g for g in audit.duplicates if tuple(g) not in exact and _have_one_class_and_split(audit, g)],
        "are copies of one picture each (re-encoded, resized, brightened, cropped a little, mirrored or taken in a "
        "burst)",
        "They are put into the same split, so that accuracy stays correct; remove some if there are many.",
    )


def _exif_rotated(listing: Listing, audit: Audit) -> Iterator[Issue]:
    yield from file_issue(
        "exif_rotated",
        "info",
        sound_paths(audit, audit.records["orientation"] > 1),
        "stored rotated",
        "They are turned upright here; programs that ignore EXIF see them rotated.",
    )


def _odd_mode(listing: Listing, audit: Audit) -> Iterator[Issue]:
    records = audit.records
    mode = records["mode"]
    is_gray = np.isin(mode, [b"1", b"L", b"LA"]) | (~records["alpha"] & (records["chroma"] <= GRAY_CHROMA))
    is_wide = np.array([name.startswith((b"I", b"F")) for name in mode], bool)
    mostly_gray = (is_gray & audit.sound).sum() > audit.sound.sum() / 2
    masks = {
        "with transparency (laid on white)": records["alpha"],
        "CMYK": mode == b"CMYK",
        "16-bit (scaled)": is_wide,
        "in colour among grayscale" if mostly_gray else "grayscale among colour": (is_gray ^ mostly_gray) & ~is_wide,
    }
    paths_of = {kind: sound_paths(audit, mask) for kind, mask in masks.items()}
    files = sorted({path for paths in paths_of.values() for path in paths})
    if files:
        parts = ", ".join(f"{len(paths)} {kind}" for kind, paths in paths_of.items() if paths)
        advice = "All are read as RGB. Check whether they belong to one class: the model would learn the mode instead."
        yield Issue("odd_mode", "info", len(files), files, f"{parts}: {shorten(files)}", advice)


def _dimensions(listing: Listing, audit: Audit) -> Iterator[Issue]:
    width, height = (audit.records[side].astype(float) for side in ("width", "height"))
    short, long = np.minimum(width, height), np.maximum(width, height)
    tiny = sound_paths(audit, short < TINY_PX)
    all_tiny = len(tiny) > audit.sound.sum() / 2
    yield from file_issue(
        "tiny_image",
        "info" if all_tiny else "warning",
        tiny,
        f"smaller than {TINY_PX} px on a side",
        "Use a small --image_px, such as 64." if all_tiny else "Thumbnails by mistake? Replace or remove them.",
    )
    elongated = audit.sound & (long > ELONGATED * np.maximum(short, 1))
    lost = 1 - np.median((short / np.maximum(long, 1))[elongated]) if elongated.any() else 0
    yield from file_issue(
        "extreme_aspect",
        "warning",
        sound_paths(audit, elongated),
        f"over {ELONGATED:.0f} times as long as wide (a center crop loses {lost:.0%})",
        "Use --aspect squash or --aspect pad to show the network the whole image, or crop them to the object.",
    )


def _statistics(listing: Listing, audit: Audit) -> Iterator[Issue]:
    records = audit.records
    flat = records["entropy"] < LOW_ENTROPY
    dark, bright = records["dark"] < DARK, records["bright"] > BRIGHT
    blurred = (records["sharpness"] < BLURRED) & ~flat & ~dark & ~bright
    checks = (
        ("dark", dark, "almost black", "Brighten, replace or remove them."),
        ("bright", bright & ~flat, "almost white", "Darken, replace or remove them."),
        ("low_information", flat, "with almost no content", "Check them: blank pages, lens caps, covers?"),
        ("blurry", blurred, "blurred", "Remove those that a person could not classify either."),
    )
    for code, mask, message, advice in checks:
        yield from file_issue(code, "warning", sound_paths(audit, mask), message, advice)
    yield from file_issue(
        "constant_border",
        "info",
        sound_paths(audit, (records["border"] >= BORDER) & ~flat),
        f"with bars of one colour over at least {BORDER:.0%} of the area",
        "Crop the bars off if they come from a screen or a scanner.",
    )


def _shortcut(listing: Listing, audit: Audit) -> Iterator[Issue]:
    width, height = (audit.records[side][audit.sound].astype(float) for side in ("width", "height"))
    properties = {
        "width": width,
        "height": height,
        "aspect": width / np.maximum(height, 1),
        "size": np.sqrt(width * height),
        "mode": np.unique(audit.records["mode"][audit.sound], return_inverse=True)[1],
        "file type": np.unique(audit.records["format"][audit.sound], return_inverse=True)[1],
    }
    labels = np.array([audit.files[i].label for i in np.flatnonzero(audit.sound).tolist()])
    shortcuts = find_shortcuts(labels, properties) if len(labels) else []
    if shortcuts:
        details = shorten(f"{s.label} by {s.feature} ({s.balanced_accuracy:.2f})" for s in shortcuts)
        yield Issue(
            "shortcut",
            "warning",
            len(shortcuts),
            [f"{shortcut.label}/" for shortcut in shortcuts],
            f"classes recognised by file properties alone (balanced accuracy; chance is 0.5): {details}",
            "A model learns that instead. Make the files of all classes in the same way: same size, format, source.",
        )


CHECKS = (_exact_duplicate, _label_conflict, _leak, _exif_rotated, _odd_mode, _dimensions, _shortcut)
FULL_CHECKS = (_near_duplicate, _statistics)  # not reported in training
