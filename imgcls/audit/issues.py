"""One issue of a data folder, with what to do about it; functions that build issues from files or groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from imgcls.audit.audit import Audit
from imgcls.data.listing import Listing
from imgcls.errors import shorten

SEVERITIES = ("error", "warning", "info")
MAX_FILES = 1_000  # that check.json names per issue; `count` counts all


@dataclass
class Issue:
    """One entry of check.json. groups: files that belong together, if the issue is about several at once."""

    code: str
    severity: str
    count: int
    files: list[str]
    message: str
    advice: str
    groups: list[list[str]] = field(default_factory=list)

    def row(self) -> dict:
        """As in check.json: files and groups cut to MAX_FILES."""
        return asdict(self) | {"files": self.files[:MAX_FILES], "groups": self.groups[:MAX_FILES]}

    def __str__(self) -> str:
        return f"{self.severity}: {self.code}: {self.message}. {self.advice}"


def verdict(listing: Listing, audit: Audit, issues: Sequence[Issue]) -> str:
    """A summary for the terminal, several lines."""
    classes = counted(len(listing.classes), "class", "classes")
    lines = [f"{counted(len(audit), 'image')} in {classes}, {int(audit.sound.sum()):,} of them readable"]
    for issue in issues:
        lines += [f"  {issue.severity:<8} {issue.code}: {issue.message}", f"{'':11}{issue.advice}"]
    if audit.excluded:
        lines.append(f"{counted(len(audit.excluded), 'image')} to exclude from training, listed in exclude.csv")
    if not issues:
        lines.append("no issues found")
    return "\n".join(lines)


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """ "1 image", "2 images"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def paths_at(audit: Audit, indices: Iterable[int]) -> list[str]:
    """Paths of the images at these positions."""
    return [audit.files[i].path for i in indices]


def sound_paths(audit: Audit, mask: np.ndarray) -> list[str]:
    """Paths of the sound images for which the mask, bool (N,), is true."""
    return paths_at(audit, np.flatnonzero(mask & audit.sound))


def file_issue(
    code: str, severity: str, files: list[str], what: str, advice: str, noun: str = "image"
) -> Iterator[Issue]:
    """The issue of some files, none without files. what: the message after their number and noun, "almost black"."""
    if files:
        message = f"{counted(len(files), noun)} {what}".rstrip() + f": {shorten(files)}"
        yield Issue(code, severity, len(files), files, message, advice)


def group_issue(code: str, severity: str, audit: Audit, groups: Sequence, what: str, advice: str) -> Iterator[Issue]:
    """The issue of some groups of positions, none without groups. what: the message after the number of images."""
    if groups:
        paths = [paths_at(audit, group) for group in groups]
        files = list(dict.fromkeys(path for group in paths for path in group))
        message = f"{counted(len(files), 'image')} in {counted(len(paths), 'group')} {what}"
        yield Issue(code, severity, len(files), files, message, advice, paths)
