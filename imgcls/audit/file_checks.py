"""What is wrong with files and classes: a rule for each code of check.json, over the listing and the audit."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from imgcls.audit.audit import Audit
from imgcls.audit.issues import Issue, counted, file_issue, named, where
from imgcls.config.recipes import SKEWED_RATIO
from imgcls.data import decoding
from imgcls.data.listing import (
    EMPTY,
    FORBIDDEN,
    HIDDEN,
    LOOSE,
    NO_IMAGE,
    OUTSIDE,
    REPEATED,
    SPECIAL,
    Listing,
    single_class_cure,
)
from imgcls.errors import shorten

HUGE_PX = 50_000_000
TINY_CLASS = 10  # images: of fewer, validation gets one, and nothing can be said of the class

# Files of pictures that are not read, and what makes them readable.
_PLUGINS = {".jxl": "pip install pillow-jxl-plugin"}
_CONVERT = {
    **dict.fromkeys(
        (".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"), "export as JPEG (pip install rawpy)"
    ),
    **dict.fromkeys((".psd", ".xcf", ".ai", ".eps", ".pdf"), "export as PNG"),
    **dict.fromkeys((".svg",), "render to PNG (pip install cairosvg)"),
    **dict.fromkeys((".exr", ".hdr"), "convert to 16-bit PNG (pip install opencv-python)"),
    **dict.fromkeys((".dcm", ".dicom"), "convert to PNG (pip install pydicom)"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm"), "take frames out of it (ffmpeg)"),
}
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "MPO": (".jpg", ".jpeg", ".mpo"), "PNG": (".png", ".apng"),
    "GIF": (".gif",), "BMP": (".bmp", ".dib"), "DIB": (".bmp", ".dib"), "WEBP": (".webp",), "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"), "HEIF": (".heic", ".heif", ".hif"), "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"), "ICO": (".ico",), "JXL": (".jxl",), "PCX": (".pcx",), "TGA": (".tga",),
}  # fmt: skip


# Files that are no training images.


def _unreadable(listing: Listing, audit: Audit) -> Iterator[Issue]:
    broken = [i for i, reason in enumerate(audit.reasons) if reason is not None and reason not in decoding.TOO_LARGE]
    if broken or listing.skipped[FORBIDDEN]:
        reasons = Counter(audit.reasons[i] for i in broken)
        parts = [f"{reason}: {count}" for reason, count in reasons.most_common(5)]
        folders = [f"{path}/" for path in listing.skipped[FORBIDDEN]]
        parts += [f"no permission: {counted(len(folders), 'folder')}"] if folders else []
        files = named(audit, broken) + folders
        message = f"{counted(len(files), 'file')} unreadable ({', '.join(parts)}): {shorten(files)}"
        advice = "Replace files; training leaves them out."
        if folders:
            advice += " Change the permissions of folders; training refuses to start on them."
        yield Issue("unreadable", "error", len(files), files, message, advice)


def _huge(listing: Listing, audit: Audit) -> Iterator[Issue]:
    refused = [i for i, reason in enumerate(audit.reasons) if reason in decoding.TOO_LARGE]
    yield from file_issue(
        "huge_image", "error", named(audit, refused), "refused as larger than any photo",
        "Shrink or remove them; training leaves them out.",
    )  # fmt: skip
    pixels = audit.records["width"].astype(np.int64) * audit.records["height"]
    yield from file_issue(
        "huge_image", "info", where(audit, pixels > HUGE_PX), "of over 50 million px",
        "Store them smaller: the network sees a fraction of it, and decoding takes a second each.",
    )  # fmt: skip


def _wrong_extension(listing: Listing, audit: Audit) -> Iterator[Issue]:
    wrong = []
    for i in np.flatnonzero(audit.sound):
        suffix = os.path.splitext(audit.files[i].path)[1].lower()
        kind = audit.records["format"][i].decode()
        if suffix and suffix not in _SUFFIXES.get(kind, (suffix,)):
            wrong.append((int(i), f"{audit.files[i].path} is {kind}"))
    if wrong:
        shown = shorten(text for _, text in wrong)
        message = f"{counted(len(wrong), 'image')} of another format than the name says: {shown}"
        advice = "Rename them; they are read by what they hold, but other programs may refuse them."
        yield Issue("wrong_extension", "warning", len(wrong), named(audit, (i for i, _ in wrong)), message, advice)


def _unsupported(listing: Listing, audit: Audit) -> Iterator[Issue]:
    known = _PLUGINS | _CONVERT
    cures = defaultdict(list)
    for path in listing.skipped[NO_IMAGE]:
        suffix = os.path.splitext(path)[1].lower()
        if suffix in known:
            cures[f"{suffix}: {known[suffix]}"].append(path)
    files = [path for paths in cures.values() for path in paths]
    yield from file_issue(
        "unsupported",
        "warning",
        files,
        "of a kind that is not read",
        f"What helps: {'; '.join(sorted(cures))}.",
        noun="picture",
    )


def _stray(listing: Listing, audit: Audit) -> Iterator[Issue]:
    known = {*_PLUGINS, *_CONVERT}
    lost = listing.skipped[LOOSE] + listing.skipped[OUTSIDE]
    other = [p for p in listing.skipped[NO_IMAGE] if os.path.splitext(p)[1].lower() not in known]
    other += listing.skipped[SPECIAL] + listing.skipped[REPEATED]
    if lost or other:
        parts = [f"{counted(len(lost), 'image')} outside the class folders"] if lost else []
        parts += [f"{counted(len(other), 'other entry', 'other entries')}"] if other else []
        message = f"{' and '.join(parts)}: {shorten(lost + other)}"
        advice = "Move images into the folder of their class; the rest is left out."
        yield Issue("stray_file", "warning" if lost else "info", len(lost + other), lost + other, message, advice)


def _hidden(listing: Listing, audit: Audit) -> Iterator[Issue]:
    yield from file_issue(
        "hidden", "info", listing.skipped[HIDDEN], "", "They are left out.", noun="hidden or system file"
    )


# Classes.


def _classes(listing: Listing, audit: Audit) -> Iterator[Issue]:
    yield from file_issue(
        "empty_class", "warning", [f"{name}/" for name in listing.skipped[EMPTY]], "without an image",
        "Add images or remove the folder; it is no class.", noun="class folder",
    )  # fmt: skip
    names = sorted(name for name, count in _usable(audit).items() if count)
    if len(names) < 2:
        message = f"two classes or more are needed, with images that can be used in: {shorten(names) or 'none'}"
        yield Issue("single_class", "error", 1, [], message, single_class_cure(listing))


def _usable(audit: Audit) -> Counter:
    """Class -> images that it would have to train on, 0 included."""
    learned = [(i, file.label) for i, file in enumerate(audit.files) if file.split in (None, "train")]
    counts = Counter({label: 0 for _, label in learned})
    counts.update(label for i, label in learned if i not in audit.excluded)
    return counts


def _sizes(listing: Listing, audit: Audit) -> Iterator[Issue]:
    counts = _usable(audit)
    least = 1 if any(file.split == "validation" for file in audit.files) else 2
    tiny = {name: count for name, count in counts.items() if count < TINY_CLASS}
    if tiny:
        shown = shorten(f"{name} {count}" for name, count in tiny.items())
        refused = min(tiny.values()) < least
        advice = "Add images; of so few, nothing certain can be learned or said. --folds 5 judges small sets better."
        if refused:
            advice = f"Training needs {least} of each at least, sound and not left out: add images or remove the class."
        yield Issue(
            "tiny_class", "error" if refused else "warning", len(tiny), [f"{name}/" for name in sorted(tiny)],
            f"classes with fewer than {TINY_CLASS} images to train on: {shown}", advice,
        )  # fmt: skip
    counts = +counts
    if len(counts) > 1 and max(counts.values()) > SKEWED_RATIO * min(counts.values()):
        (large, most), (small, fewest) = counts.most_common()[0], counts.most_common()[-1]
        yield Issue(
            "imbalance", "warning", 1, [f"{large}/", f"{small}/"],
            f"{most / fewest:.1f} : 1 between the classes {large} ({most} images) and {small} ({fewest})",
            "Training weighs the classes by itself (--class_weights balanced; or try --sampler balanced). Judge by "
            "macro F1, and collect images of small classes.",
        )  # fmt: skip


def _class_names(listing: Listing, audit: Audit) -> Iterator[Issue]:
    alike = _alike(listing.classes)
    if alike:
        files = [f"{name}/" for group in alike for name in group]
        shown = shorten(" = ".join(group) for group in alike)
        yield Issue(
            "likely_same_class", "warning", len(files), files, f"names that may mean the same class: {shown}",
            "Merge the folders if they do.", alike,
        )  # fmt: skip
    of_split = defaultdict(set)
    for file in listing.files:
        of_split[file.split].add(file.label)
    train = of_split.pop("train", set()) | of_split.pop(None, set())
    for split, found in of_split.items():
        odd = sorted(found - train) + sorted(train - found)
        if odd:
            parts = [f"{shorten(found - train)} only in {split}"] if found - train else []
            parts += [f"{shorten(train - found)} missing in {split}"] if train - found else []
            yield Issue(
                "class_mismatch", "error" if found - train or split == "validation" else "warning", len(odd),
                [f"{name}/" for name in odd], f"train and {split} have different classes: {'; '.join(parts)}",
                "Name the folders alike, or move images.",
            )  # fmt: skip


def _alike(names: Sequence[str]) -> list[list[str]]:
    """Names that differ in case, accents of Latin letters, separators between words or a plural ending only."""
    spelled = defaultdict(list)
    for name in names:
        letters = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", name)).casefold()
        spelled[re.sub(r"(?<=\w)[\s_-]+(?=[^\W\d])|(?<=[^\W\d])[\s_-]+(?=\w)", "", letters)].append(name)
    for key in sorted(spelled):
        for many in (f"{key}s", f"{key}es", f"{key[:-1]}ies" if key.endswith("y") else None):
            if many in spelled and len(key) > 2 and not key[-1].isdigit():
                spelled[key] += spelled.pop(many)
    return [sorted(group) for group in spelled.values() if len(group) > 1]


RULES = (
    _unreadable, _huge, _wrong_extension, _unsupported, _stray, _hidden, _classes, _sizes, _class_names,
)  # fmt: skip
