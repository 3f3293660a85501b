"""One thing that is wrong with a data folder, in words with what to do; how rules make such entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from imgcls.audit.audit import Audit
from imgcls.data.listing import Listing
from imgcls.errors import shorten

SEVERITIES = ("error", "warning", "info")
MOST_FILES = 1_000  # of a problem that are named; `count` counts all


@dataclass
class Issue:
    """One entry of check.json. groups: files that belong together, where the problem is about several at once."""

    code: str
    severity: str
    count: int
    files: list[str]
    message: str
    advice: str
    groups: list[list[str]] = field(default_factory=list)

    def row(self) -> dict:
        """As in check.json: files and groups cut to MOST_FILES."""
        return asdict(self) | {"files": self.files[:MOST_FILES], "groups": self.groups[:MOST_FILES]}

    def in_words(self) -> str:
        """One line."""
        return f"{self.severity}: {self.code}: {self.message}. {self.advice}"


def verdict(listing: Listing, audit: Audit, problems: Sequence[Issue]) -> str:
    """What a person wants to know, some lines."""
    classes = counted(len(listing.classes), "class", "classes")
    lines = [f"{counted(len(audit), 'image')} in {classes}, {int(audit.sound.sum()):,} of them sound"]
    for problem in problems:
        lines += [f"  {problem.severity:<8} {problem.code}: {problem.message}", f"{'':11}{problem.advice}"]
    left_out = len(audit.excluded)
    if left_out:
        lines.append(f"{counted(left_out, 'image')} better left out of training, named in exclude.csv")
    if not problems:
        lines.append("nothing is wrong with them")
    return "\n".join(lines)


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """ "1 image", "2 images"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def named(audit: Audit, at: Iterable[int]) -> list[str]:
    """Paths of the images at some positions."""
    return [audit.files[i].path for i in at]


def where(audit: Audit, wanted: np.ndarray) -> list[str]:
    """Paths of the sound images for which `wanted`, bool (N,), is true."""
    return named(audit, np.flatnonzero(wanted & audit.sound))


def file_issue(
    code: str, severity: str, files: list[str], what: str, advice: str, noun: str = "image"
) -> Iterator[Issue]:
    """The problem of some files, if there are any. what: said of them after their number and noun, "almost black"."""
    if files:
        message = f"{counted(len(files), noun)} {what}".rstrip() + f": {shorten(files)}"
        yield Issue(code, severity, len(files), files, message, advice)


def group_issue(code: str, severity: str, audit: Audit, groups: Sequence, what: str, advice: str) -> Iterator[Issue]:
    """The problem of some groups of positions, if there are any. what: said of them after their number of images."""
    if groups:
        paths = [named(audit, group) for group in groups]
        files = list(dict.fromkeys(path for group in paths for path in group))
        message = f"{counted(len(files), 'image')} in {counted(len(paths), 'group')} {what}"
        yield Issue(code, severity, len(files), files, message, advice, paths)
