"""Fields of option dataclasses, and options that every command has."""

from __future__ import annotations

from dataclasses import dataclass, field

from imgcls.errors import OptionError

# Options that only the long help lists.
RARE_OPTIONS = frozenset((
    "image_column", "label_column", "keep", "lora_rank", "drop_path", "layer_decay", "head_factor", "batch_norm", "ema",
    "views",
    "trivialaugment", "randaugment", "erase", "mixup", "cutmix", "train_px", "traceback", "cache_px", "cache_gb",
))  # fmt: skip


def option(default, help_text: str, *aliases: str):
    """A dataclass field whose metadata `HfArgumentParser` turns into a command-line option."""
    metadata = {"help": help_text}
    if aliases:
        metadata["aliases"] = list(aliases)
    return field(default=default, metadata=metadata)


def check_fraction(name: str, value: float, low_included: bool = False) -> None:
    """Raises OptionError unless 0 < value < 1 (0 allowed when `low_included`)."""
    if not (0 < value < 1 or (low_included and value == 0)):
        raise OptionError(
            f"Expected --{name} between 0 and 1, got {value}. Give the share as a fraction: 0.15 is 15 %."
        )


@dataclass
class RunOptions:
    """How this command behaves."""

    _argument_group_name = "command"

    config: str | None = option(None, "YAML file of defaults, such as a run's options.yaml; the command line wins")
    fresh: bool = option(False, "start over even if the output folder holds a run")
    traceback: bool = option(False, "show the whole traceback of an error")
