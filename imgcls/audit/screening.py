"""The images of a task -> which of them are used, which belong together, and what is wrong with the rest."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from imgcls.audit import audit, file_checks, image_checks
from imgcls.audit.audit import Audit
from imgcls.audit.issues import SEVERITIES, Issue
from imgcls.config.data_options import DataOptions
from imgcls.data.dataset import ImageCollection
from imgcls.data.listing import ImageFile, Listing
from imgcls.errors import FolderError, OptionError, nearest, shorten
from imgcls.storage import run_folder

log = logging.getLogger(__name__)


@dataclass
class ScreeningResult:
    """excluded: position -> reason. groups: number of the group of each image, None where each stands alone.

    cut_share: share of the images of which the middle square shows less than two thirds.
    """

    excluded: dict[int, str] = field(default_factory=dict)
    groups: np.ndarray | None = None
    problems: list[Issue] = field(default_factory=list)
    cut_share: float = 0.0

    def as_files(self, files: Sequence[ImageFile]) -> dict[str, object]:
        """What a run folder keeps: rows of exclude.csv, and check.json."""
        return {
            run_folder.EXCLUDE: [(files[i].path, reason) for i, reason in self.excluded.items()],
            run_folder.CHECK: [problem.row() for problem in self.problems],
        }


def screen_images(
    images: ImageCollection,
    options: DataOptions,
    seen: Callable[[int, Image.Image, tuple[int, int]], None] | None = None,
    *,
    show_progress: bool,
) -> ScreeningResult:
    """Look at all images as --check says, and say in a line each what is wrong. seen: see `audit.run_audit`.

    Raises FolderError for broken images with --bad_images error, OptionError for an --exclude or --group_by that fits
    none of them.
    """
    excluded = _by_person(options.exclude, images.listing.files) if options.exclude else {}
    if options.check == "off":
        return ScreeningResult(excluded)
    audited = audit.run_audit(images.listing.files, images.keys, images.source, show_progress, excluded, seen)
    _refuse(audited, options.bad_images)
    found = find_issues(images.listing, audited, full=options.check == "full")
    for problem in found:
        if problem.severity != "info" and problem.code != "imbalance":  # which the diagnosis says of what is trained on
            log.info("data: %s", problem.in_words())
    return ScreeningResult(audited.excluded | excluded, audited.together(options.group_by), found, audited.cut_share)


def find_issues(listing: Listing, audited: Audit, *, full: bool = True) -> list[Issue]:
    """All that is wrong, errors first. Not full: without near duplicates and picture statistics."""
    rules = [*file_checks.RULES, *image_checks.RULES, *(image_checks.FULL_RULES if full else ())]
    found = [problem for rule in rules for problem in rule(listing, audited)]
    return sorted(found, key=lambda problem: SEVERITIES.index(problem.severity))


def _refuse(audited: Audit, bad_images: str) -> None:
    broken = {i: why for i, why in enumerate(audited.reasons) if why is not None and i not in audited.dropped}
    if len(broken) == len(audited) or (broken and bad_images == "error"):
        shown = shorten(f"{audited.files[i].path} ({reason})" for i, reason in broken.items())
        cure = "Give a folder of photos." if len(broken) == len(audited) else "Leave them out with --bad_images skip."
        raise FolderError(f"Expected images that can be decoded, got {len(broken)} that cannot: {shown}. {cure}")


def _by_person(path: str, files: Sequence[ImageFile]) -> dict[int, str]:
    """Positions and reasons of the images that a CSV with a column path, and at will reason, names."""
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error) as error:
        raise OptionError(f"Expected a CSV for --exclude, got {path}: {error}.") from error
    if rows and "path" not in rows[0]:
        raise OptionError(f"Expected a column path in {path}, got {shorten(filter(None, rows[0]))}. Name it.")
    place = {file.path: i for i, file in enumerate(files)}
    paths = [row["path"] for row in rows if row["path"]]
    named = f"named in {Path(path).name}"
    found = {place[row["path"]]: row.get("reason") or named for row in rows if row["path"] in place}
    unknown = [name for name in paths if name not in place]
    if paths and not found:
        last = Path(unknown[0]).name
        alike = [name for name in place if Path(name).name == last] or list(place)[:5_000]
        close = ", ".join(nearest(unknown[0], alike))
        raise OptionError(
            f"Expected paths of these images in {path}, got {shorten(unknown)}. Nearest to the first: {close}. Give "
            "them relative to the data folder."
        )
    if unknown:
        log.info("data: %d of the paths in %s are not among the images: %s", len(unknown), path, shorten(unknown))
    return found
