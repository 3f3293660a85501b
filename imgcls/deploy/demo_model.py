"""A trained model on show: what it says to many at once, pictures to try it with, and those that it got wrong."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from imgcls.data import decoding, listing, location
from imgcls.dataloading import preprocessing
from imgcls.deploy import predictions, sort_images
from imgcls.errors import ImageError, OptionError
from imgcls.evaluation import calibration
from imgcls.models import inference, source
from imgcls.report import heatmaps
from imgcls.storage import resumable_table, run_folder
from imgcls.system import hardware  # fmt: skip

TOP_K, MOST_EXAMPLES = 5, 8
# 64 million pixels take 200 MB once decoded, for each of those who ask at the same time; phones usually take 12 to 50.
MOST_PIXELS = 64_000_000
_COPYING = threading.Lock()  # or two at a time would find the same name free


@dataclass
class DemoModel:
    """A model that many may ask at once. said: how its logits are put into words; trust: see
    `calibration.load_calibration`."""

    name: str
    network: nn.Module
    processor: object
    said: predictions.PredictionFormatter
    trust: dict | None
    batch_size: int
    threads: int = field(default_factory=torch.get_num_threads)
    explaining: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        # Explaining hooks into modules and changes how they attend: it has modules of its own, and shares the weights.
        weights = (*self.network.parameters(), *self.network.buffers())
        self.explained = copy.deepcopy(self.network, {id(tensor): tensor for tensor in weights})
        self.device = weights[0].device

    def pixels(self, path: str) -> torch.Tensor:
        """What the model sees of a file, float (3, px, px), as with predict.py. Raises ImageError."""
        check(path)
        return preprocessing.evaluation_pixels(path, self.processor)

    def answer(self, path: str) -> tuple[dict, str | None]:
        """The row of `predictions` for one picture, and a JPEG in base64 of what spoke for its first class; None where
        that cannot be told. Raises ImageError."""
        pixels = self.pixels(path)
        with torch.inference_mode():
            logits = inference.logits_function(self.network)(pixels[None].to(self.device)).float().cpu().numpy()
        (row,) = self.said.rows([path], logits, {})
        if row["error"]:
            return row, None
        with self.explaining:
            heat = heatmaps.heatmap_pictures(self.explained, self.processor, [path], [int(logits.argmax())])
        return row, heat and heat[0]

    def answer_all(
        self, files: Sequence[tuple[str, str]], out: Path, progress: Callable[[tuple[int, int]], object]
    ) -> list[dict]:
        """Rows of many pictures, also written to `out`, a CSV as predict.py writes it.

        files: (path, name that is shown) of each. progress: told (pictures done, all of them) after each batch. Ends
        early once `closing` is set.
        """
        said = replace(self.said, top_k=1)
        torch.set_num_threads(self.threads)  # a thread that first computed beside another batch was left with one
        stream = inference.stream_outputs(
            inference.logits_function(self.network),
            itertools.takewhile(lambda _: not self.closing.is_set(), files),
            lambda file: self.pixels(file[0]),
            batch=self.batch_size,
            device=self.device,
        )
        found = []
        with resumable_table.ResumableTable(out, said.columns, ()) as table:
            for some, logits, broken in stream:
                rows = said.rows([name for _, name in some], logits, broken)
                table.write(rows)
                found += rows
                progress((len(found), len(files)))
            table.finish()
        return found

    @property
    def doubt(self) -> str:
        """When an answer is called unsure, in words."""
        if self.trust is None:
            return (
                "never: the model comes without predictions of validation images, and its confidence is not calibrated"
            )
        found = self.trust["threshold"]
        wanted = f"{100 * found['min_precision']:g} % of the answers"
        if found["confidence"] is None:
            return f"always: on {self.trust['images']} validation images no confidence made {wanted} right"
        return f"below {percent(found['confidence'])}, from where on {wanted} to validation images were right"


def load_demo_model(run: str, min_precision: float, batch_size: int) -> DemoModel:
    """A run folder, a model folder or a Hub id, on the accelerator if there is one.

    Raises what `source.fetch_trained_model` and `inference.load_model` raise.
    """
    hardware.configure_process()
    folder = source.fetch_trained_model(run)
    network, processor = inference.load_model(folder, torch.device(hardware.accelerator() or "cpu"))
    classes = [network.config.id2label[i] for i in range(network.config.num_labels)]
    trust = calibration.load_calibration(run_folder.RunFolder(folder), min_precision)
    said = predictions.PredictionFormatter(
        classes, *calibration.temperature_and_threshold(trust, None), min(TOP_K, len(classes))
    )
    return DemoModel(Path(run).resolve().name, network, processor, said, trust, batch_size)


def check(path: str) -> None:
    """Raises ImageError for a file that is no image or has too many pixels for a page; nothing is decoded."""
    with decoding.open_image(path) as image:
        pixels = image.width * image.height
    if pixels > MOST_PIXELS:
        megapixels, most = round(pixels / 1e6), round(MOST_PIXELS / 1e6)
        raise ImageError(path) from ValueError(f"it has {megapixels} megapixels, and this page takes up to {most}")


def examples(run: str) -> list[tuple[str, str]]:
    """(path, class) of validation images that are still there, one a class; none for a model that names none."""
    here = source.resolve_model(run).folder
    if here is None:
        return []
    folder = run_folder.RunFolder(here)
    data = Path((folder.read_options() or {}).get("data") or location.DEFAULT_FOLDER).expanduser()
    root = data.parent if data.is_file() else data  # paths in a CSV are relative to its folder
    found = {}
    for row in folder.read_csv(run_folder.PREDICTIONS):
        path = root.absolute() / row["path"]
        if row["split"] == "validation" and row["label"] not in found and path.is_file():
            found[row["label"]] = str(path)
    return [(path, label) for label, path in found.items()][:MOST_EXAMPLES]


def flagged(run: str) -> Path:
    """Where pictures go that a model got wrong: below its folder; for a model of the Hub, below runs."""
    found = source.resolve_model(run)
    return (found.folder or Path("runs", found.short_name)) / "flagged"


def save_flagged(path: str, name: str, root: str | Path) -> Path:
    """Copy a picture into the folder of its right class below `root`, as it is, and over no other; returns the folder.

    Raises ImageError for a file that is no image, OptionError for a name that none can have.
    """
    check(path)
    if not decoding.is_image(path):
        raise OptionError("Expected a file that is called like an image, such as photo.jpg. Rename it.")
    folder = _folder_name(name)
    with _COPYING:
        sort_images.copy_into_class_folders(root, [{"path": path, "predicted": folder, "unsure": 0, "error": ""}])
    return Path(root) / folder


def _folder_name(name: str) -> str:
    """A class as the name of a folder that lies below its root and is not hidden from who reads it."""
    plain = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in name).strip()
    if not plain or len(plain.encode()) > 200:
        got = "one too long" if plain else "none"
        raise OptionError(f"Expected the right class, got {got}. Choose it, or write a new one.")
    return f"_{plain}" if listing.is_clutter(plain) or plain == sort_images.UNSURE else plain


def percent(share: float) -> str:
    """A confidence for people."""
    return f"{100 * share:.1f} %"
