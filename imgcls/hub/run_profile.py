"""A finished run as its model card tells it: results, network, sources of images and weights, provenance."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoConfig, AutoImageProcessor

from imgcls.errors import RunError
from imgcls.models import input_size
from imgcls.storage import run_folder
from imgcls.system import redaction

ASPECTS = {
    "crop": "the center of the photo",
    "pad": "the whole photo, padded to a square",
    "squash": "the whole photo, stretched to a square",
}


@dataclass(frozen=True)
class Sources:
    """Hub ids of what a run was made from; None for what is not public.

    earlier_datasets: of the trainings that its initial weights came from.
    """

    base_model: str | None
    random_weights: bool
    dataset: str | None
    is_demo: bool
    earlier_datasets: Sequence[str | None]

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> Sources:
        """From metrics.json; nothing is public for versions that did not record it."""
        sources = metrics.get("sources", {})
        return cls(
            sources.get("base_model"),
            metrics["initialised"] == "random",
            sources.get("dataset"),
            bool(sources.get("demo")),
            sources.get("earlier", []),
        )


@dataclass(frozen=True)
class NetworkFacts:
    """A network. input_format: size and aspect in words. parameters: count. weight_bytes: size of its files."""

    model_type: str
    architecture: str
    input_format: str
    parameters: int
    weight_bytes: int

    @classmethod
    def from_folder(cls, folder: Path) -> NetworkFacts:
        """From a model folder, without loading the weights. Raises OSError, ValueError, SafetensorError."""
        config, processor = AutoConfig.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
        image_px = input_size.input_side(config, processor)
        aspect = input_size.detect_aspect(processor, image_px)
        view = ASPECTS.get(aspect, "resized by its image processor") if aspect else "resized by its image processor"
        weights = list(folder.glob("*.safetensors"))
        return cls(
            config.model_type,
            (config.architectures or [config.model_type])[0],
            f"{image_px} x {image_px} px, {view}",
            sum(map(_parameters, weights)),
            sum(file.stat().st_size for file in weights),
        )


@dataclass
class RunProfile:
    """A run as it is called on the Hub.

    repo_id: "owner/name", or a name of its own before it has a repository. license: None leaves it open. files: paths
    in the repository of what is pushed with the card. space: id of a page to try it. Raises RunError for a folder
    without a finished run.
    """

    run: run_folder.RunFolder
    repo_id: str
    license: str | None = None
    files: Sequence[str] = ()
    space: str | None = None
    metrics: Mapping[str, Any] = field(init=False)
    options: Mapping[str, Any] = field(init=False)

    def __post_init__(self):
        metrics = self.run.read_json(run_folder.METRICS)
        if not metrics or "train" not in metrics:
            raise RunError(f"Expected a finished run in {self.run.path}, got none. Give a run folder of train.py.")
        self.metrics, self.options = metrics, self.run.read_options() or {}

    @property
    def owner(self) -> str | None:
        """User or organisation of the repository."""
        return self.repo_id.split("/")[0] if "/" in self.repo_id else None

    @property
    def title(self) -> str:
        """Name of the repository without its owner."""
        return self.repo_id.split("/")[-1]

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        return self.metrics["classes"]

    @cached_property
    def sources(self) -> Sources:
        """What it was trained from."""
        return Sources.from_metrics(self.metrics)

    @cached_property
    def network(self) -> NetworkFacts:
        """The trained network. Raises OSError, ValueError, SafetensorError for damaged files."""
        return NetworkFacts.from_folder(self.run.path)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """See `provenance.collect_provenance`; empty for runs of versions that did not record it."""
        return self.metrics.get("made", {})

    @property
    def command(self) -> str | None:
        """The command that trained it, without tokens and paths; None for versions that did not record it."""
        return redaction.redact_command(self.provenance["command"]) if "command" in self.provenance else None

    @property
    def evaluations(self) -> dict[str, Mapping[str, Any]]:
        """Results of all evaluations: "validation", "test", "cross_validation"."""
        return {n: self.metrics[n] for n in ("validation", "test", "cross_validation") if self.metrics.get(n)}

    @property
    def main_evaluation(self) -> tuple[str, Mapping[str, Any]]:
        """Name and results of the most informative one: cross-validation, else test, else validation.

        Raises RunError when there is none.
        """
        for name in ("cross_validation", "test", "validation"):
            if name in self.evaluations:
                return name, self.evaluations[name]
        raise RunError(f"Expected results in {self.run / run_folder.METRICS}, got none. Train again.")

    def image_counts(self) -> dict[str, Counter[str]]:
        """Class -> split -> number of images."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for row in self.run.read_csv(run_folder.SPLIT):
            counts[row["label"]][row["split"]] += 1
        return dict(sorted(counts.items()))


def _parameters(file: Path) -> int:
    """Number of values in a weight file."""
    with safe_open(file, "np") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
