"""Options of the data: where the images are, which are used, how they are split. None means "not given"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from imgcls.config.fields import check_fraction, option
from imgcls.errors import OptionError

REGEX_PREFIX = "regex:"  # begins a --group_by that is a regular expression


@dataclass(frozen=True)
class SourceOptions:
    """Where the images are."""

    _argument_group_name = "data"

    data: str | None = option(
        None,
        "folder of class folders; or a folder with train and validation inside; or a CSV with the columns path and "
        "label; or a Hub data set id. Default: ./train_images if it exists, else a demo of 1,797 handwritten digits",
    )
    image_column: str | None = option(None, "image column of a Hub data set (default: found by its type)")
    label_column: str | None = option(None, "label column of a Hub data set (default: found by its type)")


@dataclass(frozen=True)
class DataOptions(SourceOptions):
    """Which of the images are used, and how they are split."""

    val_fraction: float = option(
        0.15, "fraction of each class used for validation when the data has no validation split"
    )
    test_fraction: float = option(0.0, "fraction of each class held out for one test at the very end")
    folds: int | None = option(
        None,
        "number of cross-validation folds, for small sets; trains one additional model per fold, evaluated on its "
        "held-out images",
    )
    check: Literal["quick", "full", "off"] = option(
        "quick", "check all images first: quick: what training needs to know; full: as scripts/check.py; or off"
    )
    exclude: str | None = option(None, "CSV with the paths of images to exclude, such as check.py's exclude.csv")
    group_by: str = option(
        "none",
        "keep related images in the same split: folder (the folder below the class folder: a patient, a video), "
        "regex:PATTERN (same match in the path), exif_time (taken within seconds). Duplicates are always kept together",
    )
    bad_images: Literal["skip", "error"] = option(
        "skip", "images that cannot be decoded: exclude and list them, or refuse to train"
    )

    def __post_init__(self) -> None:
        check_fraction("val_fraction", self.val_fraction)
        check_fraction("test_fraction", self.test_fraction, low_included=True)
        if self.val_fraction + self.test_fraction >= 1:
            raise OptionError(
                "Expected --val_fraction and --test_fraction to leave images to train on, got "
                f"{self.val_fraction} + {self.test_fraction}. Lower one of them."
            )
        self._check_group_by()
        if self.check == "off" and (self.group_by != "none" or self.bad_images == "error"):
            option_given = "--bad_images error" if self.bad_images == "error" else f"--group_by {self.group_by}"
            raise OptionError(
                f"Expected {option_given} with --check quick or full, got --check off: no image is read then."
            )
        if self.folds is not None and self.folds < 2:
            raise OptionError(f"Expected --folds of 2 or more, got {self.folds}. Usual: 5.")

    def _check_group_by(self) -> None:
        if self.group_by.startswith(REGEX_PREFIX):
            try:
                re.compile(self.group_by.removeprefix(REGEX_PREFIX))
            except re.error as error:
                raise OptionError(
                    f"Expected a regular expression after --group_by {REGEX_PREFIX}, got {self.group_by}: {error}."
                ) from error
        elif self.group_by not in ("none", "folder", "exif_time"):
            raise OptionError(
                f"Expected --group_by none, folder, exif_time or {REGEX_PREFIX}PATTERN, got {self.group_by}."
            )
