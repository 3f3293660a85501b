"""The options of a training: as the user gave them, and as they were decided."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from imgcls.config.data_options import DataOptions
from imgcls.config.fields import CommandOptions
from imgcls.config.model_options import AugmentOptions, ModelOptions, TuneOptions
from imgcls.config.parser import ParsedOptions
from imgcls.config.performance_options import PerformanceOptions
from imgcls.config.training_options import METRICS, TrainingOptions

OPTION_CLASSES = (
    DataOptions,
    ModelOptions,
    TuneOptions,
    AugmentOptions,
    PerformanceOptions,
    TrainingOptions,
    CommandOptions,
)


@dataclass(frozen=True)
class TrainingRequest:
    """The options of a training before the recipe fills those that the user left open.

    given: names of the options that the user set.
    """

    data: DataOptions
    model: ModelOptions
    tune: TuneOptions
    augment: AugmentOptions
    performance: PerformanceOptions
    training: TrainingOptions
    command: CommandOptions = field(default_factory=CommandOptions)
    given: frozenset[str] = frozenset()

    @classmethod
    def from_parsed(cls, parsed: ParsedOptions, training_defaults: Mapping[str, Any]) -> Self:
        """Build the option dataclasses. training_defaults: values of TrainingOptions that follow from the machine.

        Raises OptionError for values that a dataclass refuses.
        """
        return cls(
            data=parsed.make(DataOptions),
            model=parsed.make(ModelOptions),
            tune=parsed.make(TuneOptions),
            augment=parsed.make(AugmentOptions),
            performance=parsed.make(PerformanceOptions),
            training=parsed.make(TrainingOptions, **training_defaults),
            command=parsed.make(CommandOptions),
            given=frozenset(parsed.values),
        )

    def with_options(self, **values: Any) -> Self:
        """Return a copy with other values of some options, whichever dataclass holds them."""
        changed: dict[str, Any] = {}
        for group in ("data", "model", "tune", "augment", "performance", "training"):
            options = getattr(self, group)
            own = {name: values.pop(name) for name in [f.name for f in fields(options)] if name in values}
            if own:
                changed[group] = _replaced(options, own)
        if values:
            raise KeyError(f"no option is called {', '.join(values)}")
        return replace(self, **changed)

    def value(self, name: str) -> Any:
        """The value of an option, whichever dataclass holds it."""
        groups = (self.data, self.model, self.tune, self.augment, self.performance, self.training)
        return next(getattr(group, name) for group in groups if hasattr(group, name))

    def option_values(self) -> dict[str, Any]:
        """Every option as a plain value, for options.yaml."""
        groups = (self.data, self.model, self.tune, self.augment, self.performance)
        return {name: value for group in groups for name, value in vars(group).items()} | self.training.option_values()


@dataclass(frozen=True)
class TrainingConfig(TrainingRequest):
    """Every option of a training after resolution (`resolve_options`); nothing changes one afterwards.

    mode: what is trained, see `modes.resolve_mode`. reasons: why each option that the user did not set has its value.
    """

    mode: str = "full"
    is_demo: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_request(cls, request: TrainingRequest, mode: str, is_demo: bool) -> Self:
        """The options of a request, for a training of this mode."""
        return cls(**{f.name: getattr(request, f.name) for f in fields(request)}, mode=mode, is_demo=is_demo)

    def with_reasons(self, reasons: Mapping[str, str]) -> Self:
        """Return a copy with more reasons."""
        return replace(self, reasons={**self.reasons, **reasons})

    @property
    def balances_classes(self) -> bool:
        """Whether the loss weighs classes by their inverse frequency."""
        return self.training.class_weights == "balanced"

    @property
    def reads_photos_once(self) -> bool:
        """Whether each photo is read only once, for its features: the pixel cache would gain nothing."""
        return self.mode == "head" and self.tune.feature_crops == 1 and not self.data.folds

    @property
    def chooses_input(self) -> bool:
        """Whether --tune auto chooses the input size and aspect: only for a pretrained network with a linear probe."""
        return self.mode != "full" and self.tune.tune == "auto"


def _replaced(options: Any, values: Mapping[str, Any]) -> Any:
    if not isinstance(options, TrainingOptions):
        return replace(options, **values)
    changed = copy(options)  # `replace` would repeat __post_init__, which sets up devices and processes
    for name, value in values.items():
        setattr(changed, name, value)
    if values.get("metric_for_best_model"):
        changed.greater_is_better = METRICS[values["metric_for_best_model"]]
    return changed
