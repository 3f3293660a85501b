"""Export of a trained model to ONNX, with a proof that it predicts as in torch, and a record of its preprocessing."""

from __future__ import annotations

import contextlib
import copy
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
from imgcls.deploy import onnx_model
from imgcls.errors import FolderError, ImageError, ModelError, OptionError, RunError
from imgcls.evaluation import calibration, evaluation_set
from imgcls.evaluation.loaded_model import LoadedModel
from imgcls.models import classifier
from imgcls.models.latency import median_latencies_ms
from imgcls.storage.run_folder import EXPORT, EXPORT_RECORD, PREDICTIONS, RunFolder
from imgcls.system import cpu, provenance

log = logging.getLogger(__name__)

FILE = "model.onnx"
BATCH_SIZES = (1, 2, 5)
VALIDATION_IMAGES, GENERATED_IMAGES = 64, 16  # for the parity proof
TOLERANCE = 1e-3  # of probabilities; measured differences are 1e-5 and less
LATENCY_REPEATS = 20
METADATA = ("classes", "image_px", "preprocessing", "temperature")  # parts of the record that are in the file too

LogitsFunction = Callable[[np.ndarray], np.ndarray]  # pixels float32 (n, 3, px, px) -> logits (n, K)


def export_model(model: LoadedModel, folder: str | Path | None = None) -> dict:
    """Write model.onnx and export.json, both or neither; returns the content of export.json.

    folder: None is export/ in the model's run folder. Raises ModelError for a network that ONNX cannot represent or
    whose export predicts differently, RunError when the folder holds other files.
    """
    target = Path(folder) if folder is not None else model.run / EXPORT
    _check_free(target)
    network: nn.Module = _on_cpu(model.network)
    examples = _generated_images(GENERATED_IMAGES)
    real = _validation_pixels(model)
    pixels = _stacked(real or [model.spec.pixel_values(image).numpy() for image in examples])
    record = _record(model, pixels, examples[0]) | {"source": "validation images" if real else "generated"}
    network.to(memory_format=torch.contiguous_format)  # another layout adds nodes to the graph that undo it
    graph = onnx_model.to_onnx_program(network, pixels.shape[1:])
    with _atomic_folder(target) as new:
        onnx_model.save_onnx(graph, new / FILE, {name: record[name] for name in METADATA})
        network.to(memory_format=classifier.memory_layout(model.network))  # as in prediction
        onnx_function = onnx_model.onnx_function(new / FILE, torch.get_num_threads())
        record |= parity_proof(_torch_function(network), onnx_function, pixels)
        record |= _measure(network, new, pixels[:1])
        RunFolder(new).write_json(EXPORT_RECORD, record)
    return record


def _on_cpu(network: nn.Module) -> nn.Module:
    """The network itself if it is on the CPU, else a copy there."""
    if next(network.parameters()).device.type == "cpu":
        return network
    return copy.deepcopy(network).cpu()


def _record(model: LoadedModel, pixels: np.ndarray, example: Image.Image) -> dict:
    """What export.json tells of the model and its preprocessing."""
    px = pixels.shape[-1]
    return {
        "file": FILE,
        "opset": onnx_model.OPSET,
        "input": {"name": onnx_model.INPUT, "type": "float32", "shape": ["batch", 3, px, px]},
        "output": {"name": onnx_model.OUTPUT, "type": "float32", "shape": ["batch", len(model.classes)]},
        "image_px": px,
        "classes": model.classes,
        "preprocessing": preprocessing.preprocessing_steps(model.spec, example),
        "temperature": model.temperature,
        "images": len(pixels),
    }


def export_text(record: Mapping, folder: Path) -> str:
    """An export as text for the terminal: the file, the proof, the speed, and code that uses it."""
    file, ms, px = folder / FILE, record["latency_ms"], record["image_px"]
    weights = f"; weights in {record['external_data']}, keep both together" if record["external_data"] else ""
    images = f"{record['images']} {record['source'].removesuffix(' images')} images"
    lines = [
        f"file     {file}, {record['megabytes']:.1f} MB, float32, opset {record['opset']}{weights}",
        f"proof    {images}, batches of 1, 2 and 5: {record['labels_equal']:.1%} the same class, probabilities within "
        f"{record['max_probability_difference']:.1e}, logits within {record['max_logit_difference']:.1e}",
        f"latency  {ms['onnxruntime']:.1f} ms per image, torch {ms['torch']:.1f} ms (median, one thread)",
        f"photo    {record['preprocessing']['in_words']}",
        "",
        "import json, onnxruntime",
        f"session = onnxruntime.InferenceSession({str(file)!r})",
        f'logits = session.run(None, {{"{onnx_model.INPUT}": pixels}})[0]  # pixels: float32 (n, 3, {px}, {px})',
        'print(json.loads(session.get_modelmeta().custom_metadata_map["classes"])[logits[0].argmax()])',
    ]
    return "\n".join(lines)


def parity_proof(torch_function: LogitsFunction, onnx_function: LogitsFunction, pixels: np.ndarray) -> dict:
    """Compare two implementations: {"max_probability_difference", "max_logit_difference", "labels_equal"}.

    pixels: (n, 3, px, px), computed in batches of all BATCH_SIZES. Raises ModelError when a probability differs by more
    than TOLERANCE, or a predicted class that was not a tie.
    """
    pixels = pixels[np.resize(np.arange(len(pixels)), max(len(pixels), sum(BATCH_SIZES)))]  # few images are repeated
    expected, actual = (_in_batches(function, pixels) for function in (torch_function, onnx_function))
    if not np.isfinite(expected).all():
        raise ModelError("Expected finite logits of the model, got NaN or infinity. Its training diverged: repeat it.")
    p, q = calibration.probabilities(expected), calibration.probabilities(actual)
    difference, same = float(np.abs(p - q).max()), expected.argmax(1) == actual.argmax(1)
    margin = np.diff(np.sort(p, axis=1)[:, -2:], axis=1).sum(1)
    wrong = int((~same & (margin > TOLERANCE)).sum())
    if wrong or not difference <= TOLERANCE:  # not: NaN fails as well
        raise ModelError(
            f"Expected onnxruntime to predict as torch does, got another class for {wrong} of {len(pixels)} images, "
            f"and probabilities up to {difference:.2g} apart (at most {TOLERANCE:g} is allowed). Nothing was written. "
            f"Try newer versions: pip install -U {' '.join(onnx_model.PACKAGES)}"
        )
    return {
        "max_probability_difference": difference,
        "max_logit_difference": float(np.abs(expected - actual).max()),
        "labels_equal": float(same.mean()),
    }


def _in_batches(function: LogitsFunction, pixels: np.ndarray) -> np.ndarray:
    """Logits (n, K), computed in batches of all sizes in turn."""
    outputs, start = [], 0
    for size in itertools.cycle(BATCH_SIZES):
        if start >= len(pixels):
            break
        outputs.append(function(pixels[start : start + size]))
        start += size
    return np.concatenate(outputs)


def _torch_function(network: nn.Module) -> LogitsFunction:
    @torch.inference_mode()
    def function(pixels: np.ndarray) -> np.ndarray:
        return network(pixel_values=torch.from_numpy(pixels)).logits.numpy()

    return function


def _measure(network: nn.Module, folder: Path, pixels: np.ndarray) -> dict:
    """Size and speed of the export, and on which machine and with which versions they were measured."""
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    threads, facts = torch.get_num_threads(), provenance.collect_provenance()
    torch.set_num_threads(1)
    functions = {"onnxruntime": onnx_model.onnx_function(folder / FILE, 1), "torch": _torch_function(network)}
    calls = {name: functools.partial(function, pixels) for name, function in functions.items()}
    try:
        latency = median_latencies_ms(calls, repeats=LATENCY_REPEATS)
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


def _validation_pixels(model: LoadedModel) -> list[np.ndarray]:
    """Up to VALIDATION_IMAGES of the run's validation images as the network's input; none when they are not found."""
    run = model.run
    if not run.read_csv(PREDICTIONS):
        return []
    options = ValidateOptions(run=str(run.path), split="validation")
    try:
        images = evaluation_set.open_evaluation_set(options, SourceOptions(), run, model.classes)
    except (FolderError, OptionError, RunError):
        log.warning("validation images of %s not found; using generated images for the parity check", run.path)
        return []
    labels = [str(label) for label in images.labels]
    pixels = []
    for i in stratified_split.stratified_sample(labels, VALIDATION_IMAGES, 0)[:VALIDATION_IMAGES]:
        with contextlib.suppress(ImageError):
            pixels.append(model.pixels(images.source(i)).numpy())
    return pixels


def _generated_images(count: int) -> list[Image.Image]:
    """Landscape images of blurred patches in all colours."""
    patches = np.random.default_rng(0).integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    return [Image.fromarray(one).resize((640, 480), Image.Resampling.BICUBIC) for one in patches]


def _stacked(pixels: Sequence[np.ndarray]) -> np.ndarray:
    shapes = {one.shape for one in pixels}
    if len(shapes) > 1 or pixels[0].shape[1] != pixels[0].shape[2]:
        raise ModelError(
            f"Expected an image processor with square outputs of one size, got {sorted(shapes)}. Train with "
            "--aspect crop, which ensures that."
        )
    return np.stack(pixels)


def _check_free(folder: Path) -> None:
    if folder.exists() and not (folder / EXPORT_RECORD).is_file():
        raise RunError(f"Expected {folder} to be free or an earlier export, got other files. Move them elsewhere.")


@contextlib.contextmanager
def _atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder that replaces `path` when the block succeeds; an error leaves no trace."""
    is_parent_new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as temporary:
            new = Path(temporary, path.name)
            new.mkdir()
            yield new
            if path.exists():
                path.rename(Path(temporary, "former"))
            new.rename(path)
    except BaseException:
        if is_parent_new:
            path.parent.rmdir()
        raise
