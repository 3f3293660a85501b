"""A trained model -> a folder with model.onnx, proven to answer as torch does, and a record of how it is fed."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import itertools
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from imgcls.config.data_options import SourceOptions
from imgcls.config.inference_options import ValidateOptions
from imgcls.data import stratified_split
from imgcls.dataloading import preprocessing
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.deploy import onnx_model
from imgcls.errors import FolderError, ImageError, ModelError, OptionError, RunError
from imgcls.evaluation import calibration, evaluation_set
from imgcls.models import classifier, inference
from imgcls.models.latency import median_latencies_ms
from imgcls.storage import run_folder
from imgcls.system import cpu, provenance

log = logging.getLogger(__name__)

FILE = "model.onnx"
BATCHES = (1, 2, 5)
REAL_IMAGES, GENERATED_IMAGES = 64, 16
TOLERANCE = 1e-3  # of probabilities; true differences are 1e-5 and less
TIMED = 20

Answer = Callable[[np.ndarray], np.ndarray]  # pixels float32 (n, 3, px, px) -> logits (n, K)


def export_onnx(folder: Path, run: run_folder.RunFolder) -> dict:
    """Write run/export/ for the model in `folder`, whole or not at all; returns what export.json says.

    Raises ModelError for a network that ONNX cannot hold or whose file answers otherwise, RunError when other files are
    in the way.
    """
    place = run / run_folder.EXPORT
    _check_free(place)
    network, processor = inference.load_model(folder, torch.device("cpu"))
    classes = [network.config.id2label[i] for i in range(network.config.num_labels)]
    trust = calibration.load_calibration(
        run_folder.RunFolder(folder), calibration.MIN_PRECISION
    ) or calibration.uncalibrated(1.0)
    pictures, spec = _pictures(GENERATED_IMAGES), ProcessorSpec(processor)
    real = _validation_pixels(run, processor, classes)
    pixels = _stacked(real or [spec.pixel_values(picture).numpy() for picture in pictures])
    px = pixels.shape[-1]
    record = {
        "file": FILE,
        "opset": onnx_model.OPSET,
        "input": {"name": onnx_model.INPUT, "type": "float32", "shape": ["batch", 3, px, px]},
        "output": {"name": onnx_model.OUTPUT, "type": "float32", "shape": ["batch", len(classes)]},
        "image_px": px,
        "classes": classes,
        "preprocessing": preprocessing.preprocessing_steps(spec, pictures[0]),
        "temperature": trust["temperature"],
        "images": len(pixels),
        "source": "validation images" if real else "generated",
    }
    network.to(memory_format=torch.contiguous_format)  # another order costs the graph nodes that undo it
    graph = onnx_model.to_onnx_program(network, pixels.shape[1:])
    with _whole_folder(place) as new:
        told = ("classes", "image_px", "preprocessing", "temperature")
        onnx_model.save_onnx(graph, new / FILE, {name: record[name] for name in told})
        network.to(memory_format=classifier.memory_layout(network))  # as predict.py asks it
        record |= parity_proof(
            _torch_answer(network), onnx_model.onnx_function(new / FILE, torch.get_num_threads()), pixels
        )
        record |= _measured(network, new, pixels[:1])
        run_folder.RunFolder(new).write_json(run_folder.EXPORT_RECORD, record)
    return record


def in_words(record: Mapping, folder: Path) -> str:
    """What a person reads at the end: the file, the proof, the speed, and how it is used."""
    file, ms, px = folder / FILE, record["latency_ms"], record["image_px"]
    beside = f"; weights in {record['external_data']}, keep both together" if record["external_data"] else ""
    images = f"{record['images']} {record['source'].removesuffix(' images')} images"
    return "\n".join([
        f"file     {file}, {record['megabytes']:.1f} MB, float32, opset {record['opset']}{beside}",
        f"proof    {images}, batches of 1, 2 and 5: {record['labels_equal']:.1%} the same class, probabilities within "
        f"{record['max_probability_difference']:.1e}, logits within {record['max_logit_difference']:.1e}",
        f"latency  {ms['onnxruntime']:.1f} ms an image, torch {ms['torch']:.1f} ms (median, one thread)",
        f"photo    {record['preprocessing']['in_words']}",
        "",
        "import json, onnxruntime",
        f"session = onnxruntime.InferenceSession({str(file)!r})",
        f'logits = session.run(None, {{"{onnx_model.INPUT}": pixels}})[0]  # pixels: float32 (n, 3, {px}, {px})',
        'print(json.loads(session.get_modelmeta().custom_metadata_map["classes"])[logits[0].argmax()])',
    ])  # fmt: skip


def parity_proof(torch_answer: Answer, onnx_answer: Answer, pixels: np.ndarray) -> dict:
    """{"max_probability_difference", "max_logit_difference", "labels_equal"} of two ways to the same logits.

    pixels: (n, 3, px, px), asked in batches of all BATCHES. Raises ModelError when a class differs that was no draw, or
    a probability by more than TOLERANCE.
    """
    asked = pixels[np.resize(np.arange(len(pixels)), max(len(pixels), sum(BATCHES)))]  # few images are asked again
    expected, found = (_in_batches(answer, asked) for answer in (torch_answer, onnx_answer))
    if not np.isfinite(expected).all():
        raise ModelError("Expected finite logits of the model, got others. Its training diverged: train it again.")
    p, q = calibration.probabilities(expected), calibration.probabilities(found)
    worst, same = float(np.abs(p - q).max()), expected.argmax(1) == found.argmax(1)
    margin = np.diff(np.sort(p, axis=1)[:, -2:], axis=1).sum(1)
    wrong = int((~same & (margin > TOLERANCE)).sum())
    if wrong or not worst <= TOLERANCE:  # not: NaN passes no test
        raise ModelError(
            f"Expected onnxruntime to answer as torch does, got another class for {wrong} of {len(asked)} images, and "
            f"probabilities up to {worst:.2g} apart ({TOLERANCE:g} may be). Nothing was written. Try newer versions: "
            f"pip install -U {' '.join(onnx_model.PACKAGES)}"
        )
    logits = float(np.abs(expected - found).max())
    return {"max_probability_difference": worst, "max_logit_difference": logits, "labels_equal": float(same.mean())}


def _in_batches(answer: Answer, pixels: np.ndarray) -> np.ndarray:
    """Logits (n, K), computed in batches of all sizes in turn."""
    found, at = [], 0
    for size in itertools.cycle(BATCHES):
        if at >= len(pixels):
            return np.concatenate(found)
        found.append(answer(pixels[at : at + size]))
        at += size


def _torch_answer(network: nn.Module) -> Answer:
    @torch.inference_mode()
    def answer(pixels: np.ndarray) -> np.ndarray:
        return network(pixel_values=torch.from_numpy(pixels)).logits.numpy()

    return answer


def _measured(network: nn.Module, new: Path, pixels: np.ndarray) -> dict:
    """Size and speed of what was written, and where and with what that was found."""
    sizes = {file.name: file.stat().st_size for file in new.iterdir()}
    threads, facts = torch.get_num_threads(), provenance.collect_provenance()
    functions = {"onnxruntime": onnx_model.onnx_function(new / FILE, 1), "torch": _torch_answer(network)}
    calls = {name: functools.partial(function, pixels) for name, function in functions.items()}
    torch.set_num_threads(1)
    try:
        latency = median_latencies_ms(calls, repeats=TIMED)
    finally:
        torch.set_num_threads(threads)
    return {
        "external_data": next((name for name in sizes if name != FILE), None),
        "megabytes": sum(sizes.values()) / 1e6,
        "latency_ms": latency,
        "machine": cpu.cpu_name(),
        "date": facts["date"],
        "versions": facts["versions"] | {name: importlib.metadata.version(name) for name in onnx_model.PACKAGES},
    }


def _validation_pixels(run: run_folder.RunFolder, processor, classes: Sequence[str]) -> list[np.ndarray]:
    """Up to REAL_IMAGES of the run's validation images as prediction sees them; none when they are not to be had."""
    if not run.read_csv(run_folder.PREDICTIONS):
        return []
    try:
        of = evaluation_set.open_evaluation_set(
            ValidateOptions(run=str(run.path), split="validation"), SourceOptions(), run, classes
        )
    except (FolderError, OptionError, RunError):
        log.warning("proof: the validation images of %s are not to be had: generated ones instead", run.path)
        return []
    found = []
    for i in stratified_split.stratified_sample([str(label) for label in of.labels], REAL_IMAGES, 0)[:REAL_IMAGES]:
        with contextlib.suppress(ImageError):
            found.append(preprocessing.evaluation_pixels(of.source(i), processor).numpy())
    return found


def _pictures(count: int) -> list[Image.Image]:
    """Wide pictures of soft patches in all colours."""
    patches = np.random.default_rng(0).integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    return [Image.fromarray(one).resize((640, 480), Image.Resampling.BICUBIC) for one in patches]


def _stacked(pixels: Sequence[np.ndarray]) -> np.ndarray:
    shapes = {one.shape for one in pixels}
    if len(shapes) > 1 or pixels[0].shape[1] != pixels[0].shape[2]:
        raise ModelError(
            f"Expected an image processor that makes squares of one size, got {sorted(shapes)}. Train with "
            "--aspect crop: then it does."
        )
    return np.stack(pixels)


def _check_free(folder: Path) -> None:
    if folder.exists() and not (folder / run_folder.EXPORT_RECORD).is_file():
        raise RunError(f"Expected {folder} free, got something there that no export wrote. Move it elsewhere.")


@contextlib.contextmanager
def _whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that takes the place of `path` only when the block ends well; after an error nothing is left."""
    missing = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as beside:
            new = Path(beside, path.name)
            new.mkdir()
            yield new
            if path.exists():
                path.rename(Path(beside, "former"))
            new.rename(path)
    except BaseException:
        if missing:
            path.parent.rmdir()
        raise
