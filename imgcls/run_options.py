"""Options of the scripts that read run folders; each dataclass checks itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imgcls.errors import OptionError
from imgcls.options import option


@dataclass
class AskOptions:
    """Which trained model is asked, and how."""

    _argument_group_name = "model"

    run: str = option("", "run folder, or any other image classifier: a model folder or a Hub id")
    min_precision: float = option(
        0.95,
        "share of answers that must be right: those below the confidence that it takes are called unsure",
    )
    batch_size: int = option(16, "images computed at once")
    traceback: bool = option(False, "show the whole traceback of an error")

    def __post_init__(self):
        if not self.run:
            raise OptionError("Expected --run, a run folder such as runs/photos-resnet-50, got none.")
        if not 0 < self.min_precision <= 1:
            raise OptionError(
                f"Expected --min_precision above 0 and up to 1, got {self.min_precision}. Usual: 0.9 to 0.99."
            )
        if self.batch_size < 1:
            raise OptionError(f"Expected --batch_size of 1 or more, got {self.batch_size}.")


@dataclass
class PredictOptions(AskOptions):
    """Where the answers go, and how much is said."""

    _argument_group_name = "prediction"

    out: str | None = option(
        None, "file for the answers, .csv or .jsonl; a stopped command goes on in it (default: print them)"
    )
    format: Literal["table", "csv", "jsonl"] = option("table", "how answers are printed without --out")
    top_k: int = option(1, "classes named for each image, the surest first")
    min_confidence: float | None = option(None, "call answers below this confidence unsure, instead of --min_precision")
    sort_into: str | None = option(
        None, "copy the images into class folders below this one, unsure ones into _unsure; nothing is overwritten"
    )
    allow_urls: bool = option(False, "download inputs that are URLs")

    def __post_init__(self):
        super().__post_init__()
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise OptionError(f"Expected --min_confidence between 0 and 1, got {self.min_confidence}.")
        if self.top_k < 1:
            raise OptionError(f"Expected --top_k of 1 or more, got {self.top_k}.")


@dataclass
class ValidateOptions(AskOptions):
    """What a trained model is judged by."""

    _argument_group_name = "validation"

    split: Literal["auto", "all", "train", "validation", "test"] = option(
        "auto", "which images, where they come in splits (auto: test if there is one, else validation)"
    )
    compare: str | None = option(None, "another run: which of the two is right more often, and where they differ")
    tta: bool = option(False, "also with test-time augmentation: the mean over views of each image")
    corruptions: bool = option(False, "also on images that are blurred, noisy, compressed, dark, bright or turned")
    name: str | None = option(None, "name of the folder for the results, below RUN/validation (default: the data's)")

    def __post_init__(self):
        super().__post_init__()
        if self.name is not None and (not self.name or "/" in self.name or self.name.startswith(".")):
            raise OptionError(f"Expected --name that can be a folder's, got {self.name!r}.")


@dataclass
class CompareOptions:
    """How runs are compared."""

    _argument_group_name = "comparison"

    out: str | None = option(None, "also write the table as a page, such as compare.html")
    json: bool = option(False, "print JSON instead of a table")
    traceback: bool = option(False, "show the whole traceback of an error")
