"""The page that shows what is in a data folder and what is wrong with it: one file, no request leaves it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from imgcls.audit.audit import Audit
from imgcls.audit.issues import Issue, counted
from imgcls.data.listing import Listing
from imgcls.report import html_page
from imgcls.report.html_page import escape
from imgcls.system import cpu

OF_CLASS, MOST_CLASSES = 8, 40  # pictures in a class's contact sheet; classes that have one
OF_PROBLEM, MOST_GROUPS, OF_GROUP = 16, 12, 6  # pictures of a problem, or groups of it and pictures of each
SPLITS = ("train", "validation", "test")


def render_audit_page(
    name: str, listing: Listing, audit: Audit, problems: Sequence[Issue], source: Callable[[int], str | bytes]
) -> str:
    """The whole page as HTML. source: position -> path or encoded bytes of an image of the audit."""
    place = {file.path: i for i, file in enumerate(audit.files)}
    sheets = _contact_sheets(listing, audit)
    shown = {i for sheet in sheets.values() for i in sheet}
    shown |= {place[path] for problem in problems for path in _shown_files(problem) if path in place}
    pictures = _Pictures(audit, sorted(shown), source)
    sound, classes = int(audit.sound.sum()), listing.classes
    parts = [
        f"<h1>{escape(name)}</h1>",
        f"<p>{counted(len(audit), 'image')} in {counted(len(classes), 'class', 'classes')}, {sound:,} of them sound. "
        f"{_verdict(problems)}</p>",
        "<h2>What is wrong</h2>" if problems else "",
        *(_problem(problem, place, pictures) for problem in problems),
        "<h2>Classes</h2>",
        _class_table(listing, audit),
        "<h2>Sizes</h2>",
        _charts(audit),
        "<h2>Examples</h2>" if sheets else "",
        *(f"<h3>{escape(label)}</h3>{_sheet(at, pictures)}" for label, at in sheets.items()),
    ]
    if len(classes) > len(sheets):
        parts.append(f"<p>and {len(classes) - len(sheets):,} classes more</p>")
    return html_page.document(f"{name}: data check", parts)


def _verdict(problems: Sequence[Issue]) -> str:
    counts = Counter(problem.severity for problem in problems)
    if not problems:
        return "Nothing is wrong with them."
    parts = [f'<span class="tag {s}">{n} {s if n == 1 else _PLURAL[s]}</span>' for s, n in counts.items()]
    return ", ".join(parts) + "."


_PLURAL = {"error": "errors", "warning": "warnings", "info": "notes"}


class _Pictures:
    """Small pictures, inlined; those that cannot be decoded show the reason."""

    def __init__(self, audit: Audit, at: Sequence[int], source: Callable[[int], str | bytes]):
        self.audit = audit
        readable = [i for i in at if audit.sound[i]]
        with ThreadPoolExecutor(cpu.available_cores()) as pool:
            self.encoded = dict(
                zip(readable, pool.map(lambda i: html_page.thumbnail(source(i)), readable), strict=True)
            )

    def figure(self, i: int, caption: str) -> str:
        return html_page.figure(self.encoded.get(i), caption, self.audit.reasons[i] or "changed meanwhile")


def _contact_sheets(listing: Listing, audit: Audit) -> dict[str, list[int]]:
    """Label -> positions of a few sound images, spread over the class."""
    members = defaultdict(list)
    for i in np.flatnonzero(audit.sound):
        members[audit.files[i].label].append(int(i))
    found = {}
    for label in listing.classes[:MOST_CLASSES]:
        at = members[label]
        step = max(1, len(at) // OF_CLASS)
        if at:
            found[label] = at[::step][:OF_CLASS]
    return found


def _shown_files(problem: Issue) -> Iterable[str]:
    if problem.groups:
        return [path for group in problem.groups[:MOST_GROUPS] for path in group[:OF_GROUP]]
    return problem.files[:OF_PROBLEM]


def _problem(problem: Issue, place: dict[str, int], pictures: _Pictures) -> str:
    head = (
        f'<h3><span class="tag {problem.severity}">{problem.severity}: {problem.code}</span></h3>'
        f"<p>{escape(problem.message)}.</p><p>{escape(problem.advice)}</p>"
    )
    if problem.groups:
        groups = [group[:OF_GROUP] for group in problem.groups[:MOST_GROUPS]]
        body = "".join(f'<div class="group">{_files(group, place, pictures)}</div>' for group in groups)
        left = len(problem.groups) - len(groups)
        return head + body + (f"<p>and {left:,} groups more</p>" if left else "")
    body = _files(problem.files[:OF_PROBLEM], place, pictures)
    left = len(problem.files) - OF_PROBLEM
    return head + body + (f"<p>and {left:,} more</p>" if left > 0 else "")


def _files(paths: Sequence[str], place: dict[str, int], pictures: _Pictures) -> str:
    """Pictures of images; other files by name."""
    figures = "".join(pictures.figure(place[path], path) for path in paths if path in place)
    others = ", ".join(escape(path) for path in paths if path not in place)
    return (f'<div class="sheet">{figures}</div>' if figures else "") + (f"<p>{others}</p>" if others else "")


def _sheet(at: Sequence[int], pictures: _Pictures) -> str:
    return f'<div class="sheet">{"".join(pictures.figure(i, pictures.audit.files[i].path) for i in at)}</div>'


def _class_table(listing: Listing, audit: Audit) -> str:
    counts: dict[str, Counter] = {label: Counter() for label in listing.classes}
    for i in np.flatnonzero(audit.sound):
        counts[audit.files[i].label][audit.files[i].split or "train"] += 1
    most = max((sum(of.values()) for of in counts.values()), default=1)
    splits = [split for split in SPLITS if any(of[split] for of in counts.values())]
    rows = []
    for label, of in counts.items():
        bars = "".join(f'<i style="width:{100 * of[split] / max(most, 1):.2f}%"></i>' for split in splits)
        numbers = "".join(f'<td class="n">{of[split]:,}</td>' for split in splits)
        rows.append(f'<tr><td>{escape(label)}</td>{numbers}<td><div class="bar">{bars}</div></td></tr>')
    several = len(splits) > 1
    heads = "".join(f"<th>{split if several else 'images'}</th>" for split in splits)
    return f"<table><tr><th>class</th>{heads}<th></th></tr>{''.join(rows)}</table>"


def _charts(audit: Audit) -> str:
    if not audit.sound.any():
        return "<p>No image could be read.</p>"
    width, height, size = (audit.records[name][audit.sound].astype(float) for name in ("width", "height", "file_bytes"))
    charts = (
        ("shorter side, px", np.minimum(width, height), True),
        ("longer side over shorter", np.maximum(width, height) / np.maximum(np.minimum(width, height), 1), False),
        ("width over height", width / np.maximum(height, 1), False),
        ("kB a file", size / 1000, True),
    )
    return f'<div class="charts">{"".join(_histogram(*chart) for chart in charts)}</div>'


def _histogram(name: str, values: np.ndarray, logarithmic: bool) -> str:
    """20 bars between the smallest and the largest value, with both written below, and the median in the title."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return f"<div><h3>{name}</h3><p>all {low:,.4g}</p></div>"
    scale = np.log(np.maximum(values, 1e-3)) if logarithmic else values
    counts, _ = np.histogram(scale, 20)
    bars = "".join(f'<i style="height:{90 * count / counts.max():.0f}px" title="{count:,}"></i>' for count in counts)
    axis = f'<div class="axis"><span>{low:,.4g}</span><span>{high:,.4g}</span></div>'
    title = f"{name} (median {np.median(values):,.4g})"
    return f'<div><h3>{title}</h3><div class="histogram">{bars}</div>{axis}</div>'
