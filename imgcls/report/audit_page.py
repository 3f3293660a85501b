"""The page of a data check: what is in a data folder, and what is wrong with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from imgcls.audit.audit import Audit
from imgcls.audit.issues import Issue, counted
from imgcls.data.listing import Listing
from imgcls.report import html_page
from imgcls.storage import run_folder
from imgcls.storage.run_folder import RunFolder
from imgcls.system import cpu

PER_CLASS, MAX_CLASSES = 8, 40  # example pictures of a class; classes that have some
PER_ISSUE, MAX_GROUPS, PER_GROUP = 16, 12, 6  # pictures of an issue; or groups of it, and pictures of each
SPLITS = ("train", "validation", "test")
HISTOGRAM_BINS, HISTOGRAM_PX = 20, 90


def write_audit(
    folder: RunFolder,
    name: str,
    listing: Listing,
    audit: Audit,
    issues: Sequence[Issue],
    open_source: Callable[[int], str | bytes],
) -> None:
    """Write check.json, exclude.csv and check.html. name: of the data; for the others see `render_audit_page`."""
    folder.write_json(run_folder.CHECK, [issue.row() for issue in issues])
    excluded = ((listing.files[i].path, reason) for i, reason in audit.excluded.items())
    folder.write_csv(run_folder.EXCLUDE, run_folder.EXCLUDE_COLUMNS, excluded)
    folder.write_text(run_folder.CHECK_PAGE, render_audit_page(name, listing, audit, issues, open_source))


def render_audit_page(
    name: str, listing: Listing, audit: Audit, issues: Sequence[Issue], open_source: Callable[[int], str | bytes]
) -> str:
    """The whole page as HTML. open_source: index -> path or encoded bytes of an image of the audit."""
    index = {file.path: i for i, file in enumerate(audit.files)}
    examples = _examples(listing, audit)
    needed = {i for indices in examples.values() for i in indices}
    needed |= {index[path] for issue in issues for path in _pictured_files(issue) if path in index}
    pictures = _Pictures(audit, sorted(needed), open_source)
    splits, class_rows = _classes(listing, audit)
    return html_page.render(
        "audit.html",
        title=f"{name}: data check",
        name=name,
        images=counted(len(audit), "image"),
        classes=counted(len(listing.classes), "class", "classes"),
        readable=int(audit.sound.sum()),
        verdict=_verdict(issues),
        issues=[_issue(issue, index, pictures) for issue in issues],
        splits=splits,
        class_rows=class_rows,
        histograms=_histograms(audit),
        examples=[(label, pictures.files(indices)) for label, indices in examples.items()],
        more_classes=len(listing.classes) - len(examples),
    )


def _verdict(issues: Sequence[Issue]) -> list[tuple[str, str]]:
    """Severity, and how many issues have it."""
    words = {"info": "note"}
    counts = Counter(issue.severity for issue in issues)
    return [(severity, counted(count, words.get(severity, severity))) for severity, count in counts.items()]


class _Pictures:
    """Small pictures of some images of an audit; those that cannot be decoded have the reason instead."""

    def __init__(self, audit: Audit, indices: Sequence[int], open_source: Callable[[int], str | bytes]):
        self.audit = audit
        readable = [i for i in indices if audit.sound[i]]
        with ThreadPoolExecutor(cpu.available_cores()) as pool:
            thumbnails = pool.map(lambda i: html_page.thumbnail(open_source(i)), readable)
            self.encoded = dict(zip(readable, thumbnails, strict=True))

    def files(self, indices: Iterable[int], others: Sequence[str] = ()) -> dict:
        """What the template's `sheet` shows: images, and the names of other files."""
        images = [
            {
                "path": self.audit.files[i].path,
                "encoded": self.encoded.get(i),
                "missing": self.audit.reasons[i] or "no longer readable",
            }
            for i in indices
        ]
        return {"images": images, "others": others}


def _examples(listing: Listing, audit: Audit) -> dict[str, list[int]]:
    """Class -> indices of a few readable images, spread over the class."""
    members = defaultdict(list)
    for i in np.flatnonzero(audit.sound).tolist():
        members[audit.files[i].label].append(i)
    examples = {}
    for label in listing.classes[:MAX_CLASSES]:
        indices = members[label]
        step = max(1, len(indices) // PER_CLASS)
        if indices:
            examples[label] = indices[::step][:PER_CLASS]
    return examples


def _pictured_files(issue: Issue) -> Iterable[str]:
    if issue.groups:
        return [path for group in issue.groups[:MAX_GROUPS] for path in group[:PER_GROUP]]
    return issue.files[:PER_ISSUE]


def _issue(issue: Issue, index: Mapping[str, int], pictures: _Pictures) -> dict:
    """What the template shows of an issue: files in groups, or files alone."""

    def files(paths: Sequence[str]) -> dict:
        indices = [index[path] for path in paths if path in index]
        return pictures.files(indices, [path for path in paths if path not in index])

    count, limit = (len(issue.groups), MAX_GROUPS) if issue.groups else (len(issue.files), PER_ISSUE)
    return {
        "severity": issue.severity,
        "code": issue.code,
        "message": issue.message,
        "advice": issue.advice,
        "groups": [files(group[:PER_GROUP]) for group in issue.groups[:MAX_GROUPS]],
        "files": None if issue.groups else files(issue.files[:PER_ISSUE]),
        "more": max(0, count - limit),
    }


def _classes(listing: Listing, audit: Audit) -> tuple[list[str], list[dict]]:
    """Splits that occur, and for each class the count and the width in percent of its bar of each split."""
    counts: dict[str, Counter] = {label: Counter() for label in listing.classes}
    for i in np.flatnonzero(audit.sound).tolist():
        counts[audit.files[i].label][audit.files[i].split or "train"] += 1
    largest = max((by_split.total() for by_split in counts.values()), default=1)
    splits = [split for split in SPLITS if any(by_split[split] for by_split in counts.values())]

    def bars(by_split: Counter) -> list[dict]:
        return [{"count": by_split[split], "width": 100 * by_split[split] / max(largest, 1)} for split in splits]

    return splits, [{"name": label, "bars": bars(by_split)} for label, by_split in counts.items()]


def _histograms(audit: Audit) -> list[dict]:
    if not audit.sound.any():
        return []
    width, height, size = (audit.records[name][audit.sound].astype(float) for name in ("width", "height", "file_bytes"))
    short, long = np.minimum(width, height), np.maximum(width, height)
    return [
        _histogram("shorter side, px", short, logarithmic=True),
        _histogram("longer side / shorter side", long / np.maximum(short, 1)),
        _histogram("width / height", width / np.maximum(height, 1)),
        _histogram("file size, kB", size / 1000, logarithmic=True),
    ]


def _histogram(name: str, values: np.ndarray, logarithmic: bool = False) -> dict:
    """Equally wide bins from the smallest to the largest value; no bars when all values are the same."""
    low, high = float(values.min()), float(values.max())
    histogram = {"name": name, "low": f"{low:,.4g}", "high": f"{high:,.4g}", "median": f"{np.median(values):,.4g}"}
    return histogram | {"bars": [] if low == high else list(_bars(values, logarithmic))}


def _bars(values: np.ndarray, logarithmic: bool) -> Iterator[dict]:
    scale = np.log(np.maximum(values, 1e-3)) if logarithmic else values
    counts, _ = np.histogram(scale, HISTOGRAM_BINS)
    for count in counts:
        yield {"count": int(count), "height": f"{HISTOGRAM_PX * count / counts.max():.0f}"}
