"""Options of the scripts that read run folders; each dataclass checks itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from imgcls.config.fields import option
from imgcls.errors import OptionError, shorten

OPTIONAL_FILES = ("export", "report")  # what of a run goes to the Hub only when asked for


def _check_run(run: str) -> None:
    if not run:
        raise OptionError("Expected --run, a run folder such as runs/photos-resnet-50, got none.")


@dataclass
class InferenceOptions:
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
        _check_run(self.run)
        if not 0 < self.min_precision <= 1:
            raise OptionError(
                f"Expected --min_precision above 0 and up to 1, got {self.min_precision}. Usual: 0.9 to 0.99."
            )
        if self.batch_size < 1:
            raise OptionError(f"Expected --batch_size of 1 or more, got {self.batch_size}.")


@dataclass
class PredictOptions(InferenceOptions):
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
    fast: bool = option(False, "decode large JPEGs at a smaller scale: sooner done, and answers may differ a little")
    allow_urls: bool = option(False, "download inputs that are URLs")

    def __post_init__(self):
        super().__post_init__()
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise OptionError(f"Expected --min_confidence between 0 and 1, got {self.min_confidence}.")
        if self.top_k < 1:
            raise OptionError(f"Expected --top_k of 1 or more, got {self.top_k}.")


@dataclass
class ValidateOptions(InferenceOptions):
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
class DemoOptions(InferenceOptions):
    """Where the page is shown, and where pictures go whose answer is wrong."""

    _argument_group_name = "page"

    flag_into: str | None = option(
        None, "folder for pictures whose answer is called wrong, a folder a class (default: RUN/flagged; none: off)"
    )
    host: str = option("127.0.0.1", "address to listen at; 0.0.0.0 shows the page to the whole network")
    port: int | None = option(None, "port to listen at (default: the first free one from 7860)")
    share: bool = option(False, "also a public link for a week, through a server of gradio's")

    def __post_init__(self):
        super().__post_init__()
        if self.port is not None and not 0 < self.port < 65536:
            raise OptionError(f"Expected --port between 1 and 65535, got {self.port}. Usual: 7860.")


@dataclass
class ExportOptions:
    """Which trained model becomes a file that runs without torch."""

    _argument_group_name = "export"

    run: str = option("", "run folder, or any other image classifier: a model folder or a Hub id")
    traceback: bool = option(False, "show the whole traceback of an error")

    def __post_init__(self):
        _check_run(self.run)


@dataclass
class CompareOptions:
    """How runs are compared."""

    _argument_group_name = "comparison"

    out: str | None = option(None, "also write the table as a page, such as compare.html")
    json: bool = option(False, "print JSON instead of a table")
    traceback: bool = option(False, "show the whole traceback of an error")


@dataclass
class PushOptions:
    """What is pushed, and where to."""

    _argument_group_name = "push"

    run: str = option("", "run folder of a finished training")
    repo: str | None = option(None, "repository on the Hub, owner/name (default: the run's name, of your own)")
    private: bool = option(False, "make the repository a private one")
    include: list[str] | None = field(
        default=None,
        metadata={"help": "beside model, card, numbers and figures: export (ONNX files), report (it shows photos)"},
    )
    license: str | None = option(
        None, "license that the card states, as the Hub spells it, such as mit (default: the checkpoint's)"
    )
    space: str | None = option(None, "also make a page to try the model, a Space: owner/name")
    traceback: bool = option(False, "show the whole traceback of an error")

    def __post_init__(self):
        _check_run(self.run)
        unknown = set(self.include or ()) - set(OPTIONAL_FILES)
        if unknown:
            raise OptionError(f"Expected --include {' or '.join(OPTIONAL_FILES)}, got {shorten(unknown)}.")


@dataclass
class RecommendOptions:
    """What a model is recommended for."""

    _argument_group_name = "recommendation"

    priority: Literal["accuracy", "training_speed", "size", "edge"] = option("accuracy", "what matters most")
    use_case: Literal["medical", "product", "realtime", "general"] = option("general", "what the model is for")
    device: Literal["auto", "cpu", "gpu", "edge"] = option(
        "auto", "where the model will run (auto: this machine's kind)"
    )
    measure: str | None = field(
        default=None,
        metadata={
            "nargs": "*",
            "help": "measure these models (names, Hub ids or folders; none given: all eight) on the images and this "
            "machine, instead of going by rules",
        },
    )
    json: bool = option(False, "print JSON instead of a table")
    seed: int = option(42, "of the split and of cross-validation")
    traceback: bool = option(False, "show the whole traceback of an error")


@dataclass
class CheckOptions:
    """What to do with what is found."""

    _argument_group_name = "check"

    output_dir: str | None = option(
        None, "where check.json, check.html and exclude.csv go (default: runs/<data>-check)"
    )
    traceback: bool = option(False, "show the whole traceback of an error")
