"""Options of the scripts that read run folders, check data or recommend a model; each dataclass checks itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from imgcls.config.fields import option
from imgcls.errors import OptionError, shorten

OPTIONAL_FILES = ("export", "report")  # pushed to the Hub only on request


def _check_run(run: str) -> None:
    if not run:
        raise OptionError("Expected --run, a run folder such as runs/photos-resnet-50, got none.")


@dataclass(frozen=True)
class InferenceOptions:
    """Which trained model to run, and on what batch size."""

    _argument_group_name = "model"

    run: str = option("", "run folder, or any other image classifier: a model folder or a Hub id")
    min_precision: float = option(
        0.95, 'target precision; predictions below the confidence that reaches it are marked "unsure"'
    )
    batch_size: int = option(16, "images per batch")
    traceback: bool = option(False, "show the full traceback of an error")

    def __post_init__(self) -> None:
        _check_run(self.run)
        if not 0 < self.min_precision <= 1:
            raise OptionError(
                f"Expected --min_precision above 0 and up to 1, got {self.min_precision}. Usual: 0.9 to 0.99."
            )
        if self.batch_size < 1:
            raise OptionError(f"Expected --batch_size of 1 or more, got {self.batch_size}.")


@dataclass(frozen=True)
class PredictOptions(InferenceOptions):
    """Where the predictions go, and in which form."""

    _argument_group_name = "prediction"

    out: str | None = option(
        None, "file for the predictions, .csv or .jsonl; the same command resumes in it (default: print them)"
    )
    format: Literal["table", "csv", "jsonl"] = option("table", "format of predictions printed without --out")
    top_k: int = option(1, "number of classes listed per image, most probable first")
    min_confidence: float | None = option(
        None, 'mark predictions below this confidence as "unsure", instead of by --min_precision'
    )
    sort_into: str | None = option(
        None, "copy the images into class folders below this folder, unsure ones into _unsure; nothing is overwritten"
    )
    fast: bool = option(False, "decode large JPEGs at a smaller scale: faster, and predictions may differ slightly")
    allow_urls: bool = option(False, "download inputs that are URLs")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise OptionError(f"Expected --min_confidence between 0 and 1, got {self.min_confidence}.")
        if self.top_k < 1:
            raise OptionError(f"Expected --top_k of 1 or more, got {self.top_k}.")


@dataclass(frozen=True)
class ValidateOptions(InferenceOptions):
    """What a trained model is evaluated on."""

    _argument_group_name = "validation"

    split: Literal["auto", "all", "train", "validation", "test"] = option(
        "auto", "which split, if the data has splits (auto: test if there is one, else validation)"
    )
    compare: str | None = option(None, "another run: which of the two is right more often, and where they differ")
    tta: bool = option(False, "also evaluate with test-time augmentation: the mean over crops of each image")
    corruptions: bool = option(
        False, "also evaluate on images that are blurred, noisy, compressed, dark, bright or rotated"
    )
    name: str | None = option(None, "name of the results folder below RUN/validation (default: the data's name)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is not None and (not self.name or "/" in self.name or self.name.startswith(".")):
            raise OptionError(f"Expected --name that can be the name of a folder, got {self.name!r}.")


@dataclass(frozen=True)
class DemoOptions(InferenceOptions):
    """Where the demo page is served, and where images with a wrong prediction are saved."""

    _argument_group_name = "page"

    flag_into: str | None = option(
        None,
        "folder for images flagged as wrong, one folder per class (default: RUN/flagged; none: off)",
    )
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 shows the page to the whole network")
    port: int | None = option(None, "port to listen on (default: the first free one from 7860)")
    share: bool = option(False, "also create a public link for a week, through a server of gradio's")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.port is not None and not 0 < self.port < 65536:
            raise OptionError(f"Expected --port between 1 and 65535, got {self.port}. Usual: 7860.")


@dataclass(frozen=True)
class ExportOptions:
    """Which trained model becomes a file that runs without torch."""

    _argument_group_name = "export"

    run: str = option("", "run folder, or any other image classifier: a model folder or a Hub id")
    traceback: bool = option(False, "show the full traceback of an error")

    def __post_init__(self) -> None:
        _check_run(self.run)


@dataclass(frozen=True)
class CompareOptions:
    """How runs are compared."""

    _argument_group_name = "comparison"

    out: str | None = option(None, "also write the table as a page, such as compare.html")
    json: bool = option(False, "print JSON instead of a table")
    traceback: bool = option(False, "show the full traceback of an error")


@dataclass(frozen=True)
class PushOptions:
    """What is pushed, and where to."""

    _argument_group_name = "push"

    run: str = option("", "run folder of a finished training")
    repo: str | None = option(None, "repository on the Hub, owner/name (default: the run's name, under your account)")
    private: bool = option(False, "create a private repository")
    include: list[str] | None = field(
        default=None,
        metadata={"help": "besides model, card, metrics and figures: export (ONNX files), report (it shows photos)"},
    )
    license: str | None = option(
        None, "license stated in the card, as the Hub spells it, such as mit (default: the checkpoint's)"
    )
    space: str | None = option(None, "also create a demo page, a Space: owner/name")
    traceback: bool = option(False, "show the full traceback of an error")

    def __post_init__(self) -> None:
        _check_run(self.run)
        unknown = set(self.include or ()) - set(OPTIONAL_FILES)
        if unknown:
            raise OptionError(f"Expected --include {' or '.join(OPTIONAL_FILES)}, got {shorten(unknown)}.")


@dataclass(frozen=True)
class RecommendOptions:
    """What a model is recommended for."""

    _argument_group_name = "recommendation"

    priority: Literal["accuracy", "training_speed", "size", "edge"] = option("accuracy", "what matters most")
    use_case: Literal["medical", "product", "realtime", "general"] = option("general", "what the model is for")
    device: Literal["auto", "cpu", "gpu", "edge"] = option(
        "auto", "where the model will run (auto: a machine like this one)"
    )
    measure: str | None = field(
        default=None,
        metadata={
            "nargs": "*",
            "help": "measure these models (names, Hub ids or folders; without a name: all eight) on your images and "
            "this machine, instead of using rules of thumb",
        },
    )
    json: bool = option(False, "print JSON instead of a table")
    seed: int = option(42, "seed of the split and of cross-validation")
    traceback: bool = option(False, "show the full traceback of an error")


@dataclass(frozen=True)
class CheckOptions:
    """Where the results of a data check go."""

    _argument_group_name = "check"

    output_dir: str | None = option(
        None, "folder for check.json, check.html and exclude.csv (default: runs/<data>-check)"
    )
    traceback: bool = option(False, "show the full traceback of an error")
