"""The images of a task -> which of them are used, which belong together, and what is wrong with the rest."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from imgcls.audit import file_checks, image_checks
from imgcls.audit.audit import Audit, run_audit
from imgcls.audit.issues import SEVERITIES, Issue
from imgcls.config.data_options import DataOptions
from imgcls.data.dataset import ImageCollection
from imgcls.data.listing import ImageFile, Listing
from imgcls.errors import FolderError, OptionError, nearest, shorten
from imgcls.storage import run_folder

log = logging.getLogger(__name__)

NEAREST_AMONG = 5_000  # paths in which the nearest to a wrong one is searched


@dataclass
class ScreeningResult:
    """excluded: position -> reason. groups: group number of each image, None if each is its own group.

    elongated_fraction: see `Audit`.
    """

    excluded: dict[int, str] = field(default_factory=dict)
    groups: np.ndarray | None = None
    issues: list[Issue] = field(default_factory=list)
    elongated_fraction: float = 0.0

    def as_files(self, files: Sequence[ImageFile]) -> dict[str, object]:
        """What a run folder stores: rows of exclude.csv, and check.json."""
        return {
            run_folder.EXCLUDE: [(files[i].path, reason) for i, reason in self.excluded.items()],
            run_folder.CHECK: [issue.row() for issue in self.issues],
        }


def screen_images(
    images: ImageCollection,
    options: DataOptions,
    on_decoded: Callable[[int, Image.Image, tuple[int, int]], None] | None = None,
    *,
    show_progress: bool,
) -> ScreeningResult:
    """Inspect all images as --check says, and log each issue in a line. on_decoded: see `audit.run_audit`.

    Raises FolderError for broken images with --bad_images error, OptionError for an --exclude or --group_by that
    matches none of the images.
    """
    files = images.listing.files
    by_user = _read_exclude(options.exclude, files) if options.exclude else {}
    if options.check == "off":
        return ScreeningResult(by_user)
    audit = run_audit(files, images.keys, images.source, show_progress, by_user, on_decoded)
    _refuse_broken(audit, options.bad_images)
    issues = find_issues(images.listing, audit, full=options.check == "full")
    for issue in issues:
        if issue.severity != "info" and issue.code != "imbalance":  # the diagnosis reports it for the training split
            log.info("data: %s", issue)
    return ScreeningResult(audit.excluded | by_user, audit.groups(options.group_by), issues, audit.elongated_fraction)


def find_issues(listing: Listing, audit: Audit, *, full: bool = True) -> list[Issue]:
    """All issues, errors first. Not full: without near-duplicates and image statistics."""
    checks = [*file_checks.CHECKS, *image_checks.CHECKS, *(image_checks.FULL_CHECKS if full else ())]
    issues = [issue for check in checks for issue in check(listing, audit)]
    return sorted(issues, key=lambda issue: SEVERITIES.index(issue.severity))


def _refuse_broken(audit: Audit, bad_images: str) -> None:
    broken = {i: reason for i, reason in enumerate(audit.reasons) if reason is not None and i not in audit.dropped}
    if len(broken) == len(audit) or (broken and bad_images == "error"):
        names = shorten(f"{audit.files[i].path} ({reason})" for i, reason in broken.items())
        cure = "Give a folder of photos." if len(broken) == len(audit) else "Exclude them with --bad_images skip."
        raise FolderError(f"Expected images that can be decoded, got {len(broken)} that cannot: {names}. {cure}")


def _read_exclude(path: str, files: Sequence[ImageFile]) -> dict[int, str]:
    """Positions and reasons of the images in a CSV with a column path, and optionally a column reason."""
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error) as error:
        raise OptionError(f"Expected a CSV for --exclude, got {path}: {error}.") from error
    if rows and "path" not in rows[0]:
        raise OptionError(f"Expected a column path in {path}, got {shorten(filter(None, rows[0]))}. Name it.")
    position = {file.path: i for i, file in enumerate(files)}
    default = f"named in {Path(path).name}"
    excluded = {position[row["path"]]: row.get("reason") or default for row in rows if row["path"] in position}
    unknown = [row["path"] for row in rows if row["path"] and row["path"] not in position]
    if unknown and not excluded:
        same_name = [name for name in position if Path(name).name == Path(unknown[0]).name]
        close = ", ".join(nearest(unknown[0], same_name or list(position)[:NEAREST_AMONG]))
        raise OptionError(
            f"Expected paths of these images in {path}, got {shorten(unknown)}. Nearest to the first: {close}. Give "
            "them relative to the data folder."
        )
    if unknown:
        log.info("data: %d of the paths in %s are not among the images: %s", len(unknown), path, shorten(unknown))
    return excluded
