"""Fields of option dataclasses, checks of their values, and options that every command has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from imgcls.errors import OptionError

# Options that only --help_all lists.
RARE_OPTIONS = frozenset(
    {
        "image_column",
        "label_column",
        "keep_weights",
        "lora_rank",
        "drop_path",
        "layer_decay",
        "head_lr_multiplier",
        "batch_norm",
        "ema",
        "feature_crops",
        "trivialaugment",
        "randaugment",
        "erase",
        "mixup",
        "cutmix",
        "train_px",
        "traceback",
        "cache_px",
        "cache_gb",
    }
)
# Names that options had in earlier versions. They are still read on the command line, in YAML and in run folders.
RENAMED_OPTIONS = {"keep": "keep_weights", "views": "feature_crops", "head_factor": "head_lr_multiplier"}


def option(default: Any, help_text: str, *aliases: str) -> Any:
    """Return a dataclass field whose metadata `HfArgumentParser` turns into a command-line option."""
    metadata: dict[str, Any] = {"help": help_text}
    if aliases:
        metadata["aliases"] = list(aliases)
    return field(default=default, metadata=metadata)


def check_fraction(name: str, value: float, low_included: bool = False) -> None:
    """Raise OptionError unless 0 < value < 1 (0 is allowed when `low_included`)."""
    if not (0 < value < 1 or (low_included and value == 0)):
        raise OptionError(f"Expected --{name} between 0 and 1, got {value}. Give a fraction: 0.15 is 15 %.")


def check_px(name: str, value: int | None, largest: int, usual: str) -> None:
    """Raise OptionError unless value is None or from 16 to `largest` pixels."""
    if value is not None and not 16 <= value <= largest:
        raise OptionError(f"Expected --{name} between 16 and {largest}, got {value}. Usual: {usual}.")


@dataclass(frozen=True)
class CommandOptions:
    """How scripts/train.py behaves."""

    _argument_group_name = "command"

    config: str | None = option(
        None, "YAML file of defaults, such as a run's options.yaml; options on the command line win"
    )
    fresh: bool = option(False, "start over even if the output folder holds a run")
    traceback: bool = option(False, "show the full traceback of an error")
