"""Checks of files and classes: a function for each code of check.json, of the listing and the audit."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from imgcls.audit.audit import Audit
from imgcls.audit.issues import Issue, counted, file_issue, paths_at, sound_paths
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
TINY_CLASS = 10  # images: with fewer, validation gets one, and its accuracy says nothing

# Image files that imgcls does not read, and how to make them readable: a plugin, or a conversion.
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


def _unreadable(listing: Listing, audit: Audit) -> Iterator[Issue]:
    broken = [i for i, reason in enumerate(audit.reasons) if reason is not None and reason not in decoding.TOO_LARGE]
    if broken or listing.skipped[FORBIDDEN]:
        reasons = Counter(audit.reasons[i] for i in broken)
        parts = [f"{reason}: {count}" for reason, count in reasons.most_common(5)]
        folders = [f"{path}/" for path in listing.skipped[FORBIDDEN]]
        parts += [f"no permission: {counted(len(folders), 'folder')}"] if folders else []
        files = paths_at(audit, broken) + folders
        message = f"{counted(len(files), 'file')} unreadable ({', '.join(parts)}): {shorten(files)}"
        advice = "Replace the files; training excludes them."
        if folders:
            advice += " Change the permissions of the folders; training does not start without it."
        yield Issue("unreadable", "error", len(files), files, message, advice)


def _huge(listing: Listing, audit: Audit) -> Iterator[Issue]:
    too_large = [i for i, reason in enumerate(audit.reasons) if reason in decoding.TOO_LARGE]
    yield from file_issue(
        "huge_image", "error", paths_at(audit, too_large), "refused as larger than any photo",
        "Shrink or remove them; training excludes them.",
    )  # fmt: skip
    pixels = audit.records["width"].astype(np.int64) * audit.records["height"]
    yield from file_issue(
        "huge_image", "info", sound_paths(audit, pixels > HUGE_PX), "of over 50 million px",
        "Store them smaller: the network sees a fraction of the pixels, and decoding takes a second each.",
    )  # fmt: skip


def _wrong_extension(listing: Listing, audit: Audit) -> Iterator[Issue]:
    names: dict[int, str] = {}
    for i in np.flatnonzero(audit.sound).tolist():
        suffix = os.path.splitext(audit.files[i].path)[1].lower()
        kind = audit.records["format"][i].decode()
        if suffix and suffix not in _SUFFIXES.get(kind, (suffix,)):
            names[i] = f"{audit.files[i].path} is {kind}"
    if names:
        message = f"{counted(len(names), 'image')} of another format than the suffix says: {shorten(names.values())}"
        advice = "Rename them; imgcls reads them by their content, but other programs may refuse them."
        yield Issue("wrong_extension", "warning", len(names), paths_at(audit, names), message, advice)


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
        "in a format that imgcls does not read",
        f"To read them: {'; '.join(sorted(cures))}.",
        noun="picture",
    )


def _stray(listing: Listing, audit: Audit) -> Iterator[Issue]:
    known = {*_PLUGINS, *_CONVERT}
    loose = listing.skipped[LOOSE] + listing.skipped[OUTSIDE]
    other = [p for p in listing.skipped[NO_IMAGE] if os.path.splitext(p)[1].lower() not in known]
    other += listing.skipped[SPECIAL] + listing.skipped[REPEATED]
    if loose or other:
        parts = [f"{counted(len(loose), 'image')} outside the class folders"] if loose else []
        parts += [f"{counted(len(other), 'other entry', 'other entries')}"] if other else []
        message = f"{' and '.join(parts)}: {shorten(loose + other)}"
        advice = "Move images into the folder of their class; training skips everything else."
        yield Issue("stray_file", "warning" if loose else "info", len(loose + other), loose + other, message, advice)


def _hidden(listing: Listing, audit: Audit) -> Iterator[Issue]:
    yield from file_issue(
        "hidden", "info", listing.skipped[HIDDEN], "", "They are skipped.", noun="hidden or system file"
    )


def _classes(listing: Listing, audit: Audit) -> Iterator[Issue]:
    yield from file_issue(
        "empty_class", "warning", [f"{name}/" for name in listing.skipped[EMPTY]], "without an image",
        "Add images or remove the folder; it is not a class.", noun="class folder",
    )  # fmt: skip
    names = sorted(name for name, count in _usable(audit).items() if count)
    if len(names) < 2:
        message = f"at least two classes with usable images are needed, got {shorten(names) or 'none'}"
        yield Issue("single_class", "error", 1, [], message, single_class_cure(listing))


def _usable(audit: Audit) -> Counter:
    """Class -> number of usable training images, including 0."""
    training = [(i, file.label) for i, file in enumerate(audit.files) if file.split in (None, "train")]
    counts = Counter({label: 0 for _, label in training})
    counts.update(label for i, label in training if i not in audit.excluded)
    return counts


def _sizes(listing: Listing, audit: Audit) -> Iterator[Issue]:
    counts = _usable(audit)
    least = 1 if any(file.split == "validation" for file in audit.files) else 2
    tiny = {name: count for name, count in counts.items() if count < TINY_CLASS}
    if tiny:
        sizes = shorten(f"{name} {count}" for name, count in tiny.items())
        refused = min(tiny.values()) < least
        advice = "Add images; with so few, no result is reliable. --folds 5 evaluates small data sets better."
        if refused:
            advice = f"Training needs at least {least} usable images of each class: add images or remove the class."
        yield Issue(
            "tiny_class", "error" if refused else "warning", len(tiny), [f"{name}/" for name in sorted(tiny)],
            f"classes with fewer than {TINY_CLASS} images to train on: {sizes}", advice,
        )  # fmt: skip
    counts = +counts
    if len(counts) > 1 and max(counts.values()) > SKEWED_RATIO * min(counts.values()):
        (large, most), (small, fewest) = counts.most_common()[0], counts.most_common()[-1]
        yield Issue(
            "imbalance", "warning", 1, [f"{large}/", f"{small}/"],
            f"{most / fewest:.1f} : 1 between the classes {large} ({most} images) and {small} ({fewest})",
            "Training weights the classes by default (--class_weights balanced; or try --sampler balanced). Look at "
            "macro F1, and collect images of small classes.",
        )  # fmt: skip


def _class_names(listing: Listing, audit: Audit) -> Iterator[Issue]:
    alike = _alike(listing.classes)
    if alike:
        files = [f"{name}/" for group in alike for name in group]
        names = shorten(" = ".join(group) for group in alike)
        yield Issue(
            "likely_same_class", "warning", len(files), files, f"names that may mean the same class: {names}",
            "Merge the folders if they do.", alike,
        )  # fmt: skip
    classes_of = defaultdict(set)
    for file in listing.files:
        classes_of[file.split].add(file.label)
    train = classes_of.pop("train", set()) | classes_of.pop(None, set())
    for split, classes in classes_of.items():
        odd = sorted(classes - train) + sorted(train - classes)
        if odd:
            parts = [f"{shorten(classes - train)} only in {split}"] if classes - train else []
            parts += [f"{shorten(train - classes)} missing in {split}"] if train - classes else []
            yield Issue(
                "class_mismatch", "error" if classes - train or split == "validation" else "warning", len(odd),
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
        for plural in (f"{key}s", f"{key}es", f"{key[:-1]}ies" if key.endswith("y") else None):
            if plural in spelled and len(key) > 2 and not key[-1].isdigit():
                spelled[key] += spelled.pop(plural)
    return [sorted(group) for group in spelled.values() if len(group) > 1]


CHECKS = (
    _unreadable, _huge, _wrong_extension, _unsupported, _stray, _hidden, _classes, _sizes, _class_names,
)  # fmt: skip
