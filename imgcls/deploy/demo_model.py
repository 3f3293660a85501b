"""The model behind the demo page: predictions for many users at once, example images, and flagged images."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from imgcls.data import decoding, listing, location
from imgcls.deploy import batch_prediction, predictions
from imgcls.errors import ImageError, OptionError
from imgcls.evaluation.loaded_model import LoadedModel
from imgcls.models import inference, source
from imgcls.report import heatmaps
from imgcls.storage import resumable_table
from imgcls.storage.run_folder import PREDICTIONS, RunFolder

TOP_K, MAX_EXAMPLES = 5, 8
# 64 million pixels take 200 MB once decoded, for each user at the same time; phones usually take 12 to 50.
MAX_PIXELS = 64_000_000
_COPY_LOCK = threading.Lock()  # or two copies at a time would choose the same free name


@dataclass
class DemoModel:
    """A model that many threads may use at once.

    closing: set when the page ends, which stops long predictions.
    """

    model: LoadedModel
    formatter: predictions.PredictionFormatter
    threads: int = field(default_factory=torch.get_num_threads)
    closing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        # Heat maps need hooks in the modules and another kind of attention: they use a copy that shares the weights.
        network = self.model.network
        weights = (*network.parameters(), *network.buffers())
        self.heatmap_network = copy.deepcopy(network, {id(tensor): tensor for tensor in weights})
        self.heatmap_lock = threading.Lock()

    @property
    def name(self) -> str:
        """Name of the run folder, the model folder or the Hub repository."""
        return Path(self.model.name).resolve().name

    def pixels(self, path: str) -> torch.Tensor:
        """Network input for a file, float (3, px, px). Raises ImageError."""
        check_image(path)
        return self.model.pixels(path)

    def answer(self, path: str) -> tuple[dict, str | None]:
        """The table row of one image, see `predictions`, and a heat map of its predicted class as JPEG in base64.

        The heat map is None for networks that `saliency` does not support. Raises ImageError.
        """
        pixels = self.pixels(path)
        with torch.inference_mode():
            forward = inference.logits_function(self.model.network)
            logits = forward(pixels[None].to(self.model.device)).float().cpu().numpy()
        (row,) = self.formatter.rows([path], logits, {})
        if row["error"]:
            return row, None
        label = int(logits.argmax())
        with self.heatmap_lock:
            images = heatmaps.heatmap_pictures(self.heatmap_network, self.model.processor, [path], [label])
        return row, images[0] if images else None

    def answer_all(
        self, files: Sequence[tuple[str, str]], out: Path, progress: Callable[[tuple[int, int]], object]
    ) -> list[dict]:
        """Rows of many images, also written to `out`, a CSV like that of predict.py.

        files: (path, displayed name) of each image. progress: called with (images done, all images) after each batch.
        Ends early once `closing` is set.
        """
        formatter = replace(self.formatter, top_k=1)
        # a thread that had first computed while another batch was under way would be left with one
        torch.set_num_threads(self.threads)
        unless_closing = itertools.takewhile(lambda _: not self.closing.is_set(), files)
        rows: list[dict] = []
        with resumable_table.ResumableTable(out, formatter.columns, ()) as table:
            for batch, logits, errors in self.model.stream_logits(unless_closing, lambda file: self.pixels(file[0])):
                new = formatter.rows([name for _, name in batch], logits, errors)
                table.write(new)
                rows += new
                progress((len(rows), len(files)))
            table.finish()
        return rows

    @property
    def threshold_text(self) -> str:
        """Which predictions are marked unsure, as a sentence."""
        known = self.model.calibration
        if known is None:
            return (
                "Answers are never marked unsure: the model comes without predictions of validation images, so its "
                "confidence is not calibrated."
            )
        threshold = known["threshold"]
        target = f"{100 * threshold['min_precision']:g} %"
        if threshold["confidence"] is None:
            return (
                f"All answers are marked unsure: on {known['images']} validation images, no confidence reaches a "
                f"precision of {target}."
            )
        return (
            f"Answers below {percent(threshold['confidence'])} are marked unsure; above it, {target} were right on the "
            "validation images."
        )


def load_demo_model(run: str, min_precision: float, batch_size: int) -> DemoModel:
    """Load a run folder, a model folder or a Hub id. Raises what `LoadedModel.load` raises."""
    model = LoadedModel.load(run, batch_size=batch_size, min_precision=min_precision)
    return DemoModel(model, batch_prediction.make_formatter(model, TOP_K))


def check_image(path: str) -> None:
    """Raises ImageError for a file that is not an image or has too many pixels for a page; does not decode it."""
    with decoding.open_image(path) as image:
        pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        megapixels, most = round(pixels / 1e6), round(MAX_PIXELS / 1e6)
        raise ImageError(path) from ValueError(f"it has {megapixels} megapixels, and this page takes up to {most}")


def examples(run: str) -> list[tuple[str, str]]:
    """(path, class) of validation images that still exist, one per class; none for a model without a run folder."""
    run_path = source.resolve_model(run).folder
    if run_path is None:
        return []
    folder = RunFolder(run_path)
    data = Path((folder.read_options() or {}).get("data") or location.DEFAULT_FOLDER).expanduser()
    root = data.parent if data.is_file() else data  # paths in a CSV are relative to its folder
    path_of: dict[str, str] = {}
    for row in folder.read_csv(PREDICTIONS):
        path = root.absolute() / row["path"]
        if row["split"] == "validation" and row["label"] not in path_of and path.is_file():
            path_of[row["label"]] = str(path)
    return [(path, label) for label, path in path_of.items()][:MAX_EXAMPLES]


def flagged_folder(run: str) -> Path:
    """Default folder for flagged images: in the run folder; for a model of the Hub, below runs."""
    model_source = source.resolve_model(run)
    return (model_source.folder or Path("runs", model_source.short_name)) / "flagged"


def save_flagged(path: str, label: str, root: str | Path) -> Path:
    """Copy an unchanged image file into the folder of its correct class below `root`; returns that folder.

    Existing files are not overwritten. Raises ImageError for a file that is not an image, OptionError for a label that
    cannot be a folder name.
    """
    check_image(path)
    if not decoding.is_image(path):
        raise OptionError("Expected a file named like an image, such as photo.jpg. Rename it.")
    folder = _flagged_class_folder(label)
    with _COPY_LOCK:
        row = {"path": path, "predicted": folder, "unsure": 0, "error": ""}
        predictions.copy_into_class_folders(root, [row])
    return Path(root) / folder


def _flagged_class_folder(label: str) -> str:
    """A label that a user typed as the name of a folder that a data scan does not skip."""
    name = "".join(c if c.isprintable() else "_" for c in label).strip()
    if not name or len(name.encode()) > 200:
        problem = "one too long" if name else "none"
        raise OptionError(f"Expected the correct class, got {problem}. Choose it, or type a new one.")
    folder = predictions.class_folder_name(name)
    return f"_{folder}" if listing.is_clutter(folder) else folder


def percent(fraction: float) -> str:
    """A fraction as a percentage with one decimal."""
    return f"{100 * fraction:.1f} %"
