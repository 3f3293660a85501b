"""What there is to tell of a finished run that is shared: its numbers, its network, where it comes from."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from safetensors import safe_open
from transformers import AutoConfig, AutoImageProcessor

from imgcls.errors import RunError
from imgcls.models import input_size
from imgcls.storage import run_folder
from imgcls.system import redaction

WAYS = {"crop": "the middle of the photo", "pad": "the whole photo, padded to a square",
        "squash": "the whole photo, squashed to a square"}  # fmt: skip


@dataclass
class RunProfile:
    """A run as it is known under `repo_id`.

    repo_id: "owner/name", or the run's own name as long as it has none. license: None leaves it open. files: names of
    what else lies in the repository. space: of a page to try it. Raises RunError for a folder without finished results.
    """

    run: run_folder.RunFolder
    repo_id: str
    license: str | None = None
    files: Sequence[str] = ()
    space: str | None = None
    metrics: Mapping = field(init=False)
    options: Mapping = field(init=False)

    def __post_init__(self):
        self.metrics = self.run.read_json(run_folder.METRICS)
        if not self.metrics or "train" not in self.metrics:
            raise RunError(f"Expected a finished run in {self.run.path}, got none. Give a run folder of train.py.")
        self.options = self.run.read_options() or {}

    @property
    def owner(self) -> str | None:
        return self.repo_id.split("/")[0] if "/" in self.repo_id else None

    @property
    def title(self) -> str:
        return self.repo_id.split("/")[-1]

    @property
    def classes(self) -> list[str]:
        return self.metrics["classes"]

    @property
    def made(self) -> Mapping:
        """As of `provenance.collect_provenance`; empty for runs of versions that kept none."""
        return self.metrics.get("made", {})

    @property
    def command(self) -> str | None:
        """The one that trained it, without what tells of a machine; None for runs of versions that kept none."""
        return redaction.redact_command(self.made["command"]) if "command" in self.made else None

    @property
    def base_model(self) -> str | None:
        return self.metrics.get("sources", {}).get("base_model")

    @property
    def dataset(self) -> str | None:
        return self.metrics.get("sources", {}).get("dataset")

    @property
    def earlier(self) -> list[str | None]:
        """Data sets of the trainings that its first weights came from; None for one that is not public."""
        return self.metrics.get("sources", {}).get("earlier", [])

    @property
    def is_demo(self) -> bool:
        return bool(self.metrics.get("sources", {}).get("demo"))

    @property
    def judged(self) -> tuple[str, Mapping]:
        """The images that tell most, "test", "validation" or "cross_validation", and the numbers on them."""
        name = next(n for n in ("cross_validation", "test", "validation") if self.metrics.get(n))
        return name, self.metrics[name]

    @property
    def parts(self) -> dict[str, Mapping]:
        """All images that were judged: name -> numbers."""
        return {n: self.metrics[n] for n in ("validation", "test", "cross_validation") if self.metrics.get(n)}

    @property
    def counts(self) -> dict[str, Counter]:
        """Class -> split -> images."""
        counts: defaultdict[str, Counter] = defaultdict(Counter)
        for row in self.run.read_csv(run_folder.SPLIT):
            counts[row["label"]][row["split"]] += 1
        return dict(sorted(counts.items()))

    @cached_property
    def config(self):
        """The network's configuration."""
        return AutoConfig.from_pretrained(self.run.path)

    @cached_property
    def image_px(self) -> int:
        return input_size.input_side(self.config, self._processor)

    @property
    def view(self) -> str:
        """What the network sees of a photo."""
        way = WAYS.get(input_size.detect_aspect(self._processor, self.image_px), "as the image processor does it")
        return f"{self.image_px} x {self.image_px} px, {way}"

    @cached_property
    def parameters(self) -> int:
        """Numbers in the weights."""
        total = 0
        for file in self.run.path.glob("*.safetensors"):
            with safe_open(file, "np") as weights:
                total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
        return total

    @property
    def weight_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.run.path.glob("*.safetensors"))

    @cached_property
    def _processor(self):
        return AutoImageProcessor.from_pretrained(self.run.path)
