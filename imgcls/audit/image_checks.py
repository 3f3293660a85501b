"""What is wrong with pictures and with copies of them: a rule for each code of check.json, over the audit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from imgcls.audit import shortcuts
from imgcls.audit.audit import Audit
from imgcls.audit.issues import Issue, file_issue, group_issue, where
from imgcls.data.listing import Listing
from imgcls.errors import shorten

TINY_PX = 32  # shorter side
STRETCHED = 2.0  # longer side over shorter: the middle square is half of the picture
BORDER = 0.15  # share of the area
GRAY_CHROMA = 8  # levels between the colour channels: JPEG leaves a few
# cleanvision's published scores and thresholds (0.3.7)
DARK, BRIGHT, LOW_ENTROPY = 0.32, 0.95, 3.0
BLURRED = 1.75  # of `sharpness`


# Copies.


def _exact(listing: Listing, audit: Audit) -> Iterator[Issue]:
    alone = [same for same in audit.exact if _of_one_kind(audit, same)]
    yield from group_issue(
        "exact_duplicate", "warning", audit, alone, "are the same file byte for byte",
        "Training keeps one of each.",
    )  # fmt: skip


def _of_one_kind(audit: Audit, group: Iterable[int]) -> bool:
    """Whether copies have one class and one split; if not, that is what is said of them."""
    return len({(audit.files[i].label, audit.files[i].split or "train") for i in group}) == 1


def _conflict(listing: Listing, audit: Audit) -> Iterator[Issue]:
    torn = [group for group in audit.copies if len({audit.files[i].label for i in group}) > 1]
    yield from group_issue(
        "label_conflict", "error", audit, torn, "show the same picture under several classes",
        "Decide which class is right and remove the others; training leaves out those that are the same file.",
    )  # fmt: skip


def _leak(listing: Listing, audit: Audit) -> Iterator[Issue]:
    leaks = list(audit.leaks())
    yield from group_issue(
        "leak", "error", audit, leaks, "show the same picture in two splits",
        "Accuracy would be too good; training leaves out the copy in the split that is not judged by.",
    )  # fmt: skip


def _near(listing: Listing, audit: Audit) -> Iterator[Issue]:
    exact = {tuple(same) for same in audit.exact}
    groups = [group for group in audit.copies if tuple(group) not in exact and _of_one_kind(audit, group)]
    yield from group_issue(
        "near_duplicate", "warning", audit, groups, "are copies of one picture each (re-encoded, "
        "resized, brightened, cropped a little, mirrored or taken in a burst)",
        "They land on one side of every split, so that accuracy stays honest; keep one of each if they crowd the set.",
    )  # fmt: skip


# Pictures.


def _rotated(listing: Listing, audit: Audit) -> Iterator[Issue]:
    yield from file_issue(
        "exif_rotated", "info", where(audit, audit.records["orientation"] > 1), "stored turned",
        "They are turned upright here; programs that ignore EXIF see them lying.",
    )  # fmt: skip


def _modes(listing: Listing, audit: Audit) -> Iterator[Issue]:
    records = audit.records
    mode = records["mode"]
    gray = np.isin(mode, [b"1", b"L", b"LA"]) | (~records["alpha"] & (records["chroma"] <= GRAY_CHROMA))
    wide = np.array([name.startswith((b"I", b"F")) for name in mode], bool)
    kinds = {
        "with transparency (laid on white)": records["alpha"],
        "CMYK": mode == b"CMYK",
        "16-bit (scaled)": wide,
    }
    mostly_gray = (gray & audit.sound).sum() > audit.sound.sum() / 2
    kinds["in colour among grayscale" if mostly_gray else "grayscale among colour"] = (gray ^ mostly_gray) & ~wide
    found = {kind: where(audit, wanted) for kind, wanted in kinds.items()}
    files = sorted({path for paths in found.values() for path in paths})
    if files:
        parts = ", ".join(f"{len(paths)} {kind}" for kind, paths in found.items() if paths)
        advice = "All are read as RGB. Look whether a class is told by it: the model would learn that."
        yield Issue("odd_mode", "info", len(files), files, f"{parts}: {shorten(files)}", advice)


def _dimensions(listing: Listing, audit: Audit) -> Iterator[Issue]:
    width, height = (audit.records[side].astype(float) for side in ("width", "height"))
    short, long = np.minimum(width, height), np.maximum(width, height)
    tiny = where(audit, short < TINY_PX)
    all_tiny = len(tiny) > audit.sound.sum() / 2
    yield from file_issue(
        "tiny_image", "info" if all_tiny else "warning", tiny, f"smaller than {TINY_PX} px on a side",
        "Take a small --image_px, such as 64." if all_tiny else "Thumbnails by mistake? Replace or remove them.",
    )  # fmt: skip
    stretched = audit.sound & (long > STRETCHED * np.maximum(short, 1))
    lost = 1 - np.median((short / np.maximum(long, 1))[stretched]) if stretched.any() else 0
    yield from file_issue(
        "extreme_aspect", "warning", where(audit, stretched),
        f"over {STRETCHED:.0f} times as long as wide (a square from the middle loses {lost:.0%})",
        "Give --aspect squash or --aspect pad to show the network all of them, or cut them to the object.",
    )  # fmt: skip


def _statistics(listing: Listing, audit: Audit) -> Iterator[Issue]:
    records = audit.records
    flat = records["entropy"] < LOW_ENTROPY
    dark, bright = records["dark"] < DARK, records["bright"] > BRIGHT
    rules = (
        ("dark", dark, "almost black", "Brighten, replace or remove them."),
        ("bright", bright & ~flat, "almost white", "Darken, replace or remove them."),
        ("low_information", flat, "of next to nothing", "Look at them: blank pages, lens caps, covers?"),
        (
            "blurry", (records["sharpness"] < BLURRED) & ~flat & ~dark & ~bright, "blurred",
            "Remove what a person could not name either.",
        ),
    )  # fmt: skip
    for code, wanted, message, advice in rules:
        yield from file_issue(code, "warning", where(audit, wanted), message, advice)
    yield from file_issue(
        "constant_border", "info", where(audit, (records["border"] >= BORDER) & ~flat),
        f"with bars of one colour over {BORDER:.0%} of the area or more",
        "Cut the bars off if they come from a screen or a scanner.",
    )  # fmt: skip


def _shortcut(listing: Listing, audit: Audit) -> Iterator[Issue]:
    width, height = (audit.records[side][audit.sound].astype(float) for side in ("width", "height"))
    facts = {
        "width": width,
        "height": height,
        "aspect": width / np.maximum(height, 1),
        "size": np.sqrt(width * height),
        "mode": np.unique(audit.records["mode"][audit.sound], return_inverse=True)[1],
        "file type": np.unique(audit.records["format"][audit.sound], return_inverse=True)[1],
    }
    labels = np.array([audit.files[i].label for i in np.flatnonzero(audit.sound)])
    found = shortcuts.find_shortcuts(labels, facts) if len(labels) else []
    if found:
        shown = shorten(f"{one.label} by {one.fact} ({one.balanced_accuracy:.2f})" for one in found)
        yield Issue(
            "shortcut", "warning", len(found), [f"{one.label}/" for one in found],
            f"classes told apart by how their files were made (balanced accuracy; chance is 0.5): {shown}",
            "A model learns that instead. Make the files of all classes in the same way: same size, format, source.",
        )  # fmt: skip


RULES = (_exact, _conflict, _leak, _rotated, _modes, _dimensions, _shortcut)
FULL_RULES = (_near, _statistics)  # what training does not ask for
