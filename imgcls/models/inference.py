"""A run folder -> its model, loaded as `pipeline` would; images -> logits, all cores at work."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainingArguments

from imgcls.errors import ImageError, ModelError, one_line, shorten
from imgcls.models import classifier
from imgcls.system import cpu, hardware

MOST_READERS = 16  # threads that feed one accelerator; each holds batches in memory
SHARES = 4  # batches that a thread of a CPU computes at least: else one may work while the others have ended


def load_model(folder: Path, device: torch.device) -> tuple[nn.Module, object]:
    """The network (float32, evaluation mode, on `device`) and the image processor of a model folder.

    Raises ModelError when it holds no whole classifier: a backbone's head would be random.
    """
    try:
        network, info = AutoModelForImageClassification.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        processor = AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"Expected an image classifier in {folder}, got: {one_line(error, limit=300)}. Give a finished run."
        ) from error
    if info["missing_keys"]:
        raise ModelError(
            f"Expected a trained classifier in {folder}, got none for {shorten(info['missing_keys'])}. Train it first: "
            f"python scripts/train.py --model {folder} --data FOLDER"
        )
    network.eval().to(device, memory_format=classifier.memory_layout(network))
    return network, processor


def all_logits(network: nn.Module, view: Dataset, args: TrainingArguments) -> np.ndarray:
    """Logits, float32 (N, K), of a whole view in its order, each image computed by one process of the launch."""
    rank, processes = args.process_index, args.world_size
    mine = compute_outputs(
        logits_function(network),
        view,
        batch=args.per_device_eval_batch_size,
        device=args.device,
        part=(rank, processes),
        show_progress=args.should_log and not args.disable_tqdm,
    )
    parts = gather_object([mine]) if processes > 1 else [mine]
    found = np.empty((len(view), parts[0].shape[1]), np.float32)
    for i, part in enumerate(parts):
        if len(part):
            found[i::processes] = part
    return found


def logits_function(network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """What a network says: pixels (n, 3, px, px) -> logits (n, K)."""
    return lambda pixels: network(pixel_values=pixels).logits


def compute_outputs(
    forward: Callable[[torch.Tensor], torch.Tensor],
    view: Dataset,
    *,
    batch: int,
    device: torch.device,
    part: tuple[int, int] = (0, 1),
    show_progress: bool = False,
) -> np.ndarray:
    """Outputs, float32 (n, D), of the images part[0], part[0] + part[1], ... of a view, in that order.

    forward: pixels (m, 3, px, px) -> (m, D), such as `logits_function`; called in several threads. view: samples as
    `EvaluationDataset` gives them. part: (rank, processes), so that together all processes see each image once; the
    last
    ones may have none. Raises what the view raises.
    """
    mine = range(part[0], len(view), part[1])
    if device.type == "cpu":  # of few images, too, each thread has its share
        batch = max(1, min(batch, len(mine) // (SHARES * torch.get_num_threads())))
    found = []
    with tqdm(total=len(mine), desc="evaluating", leave=False, disable=None if show_progress else True) as bar:
        for at, outputs, broken in stream_outputs(
            forward, mine, lambda i: view[i]["pixel_values"], batch=batch, device=device
        ):
            for error in broken.values():
                raise error
            found.append(outputs)
            bar.update(len(at))
    return np.concatenate(found) if found else np.zeros((0, 0), np.float32)


def stream_outputs(
    forward: Callable[[torch.Tensor], torch.Tensor],
    items: Iterable,
    pixels: Callable[[object], torch.Tensor],
    *,
    batch: int,
    device: torch.device,
) -> Iterator[tuple[list, np.ndarray, dict[int, ImageError]]]:
    """Batches of items in their order, with the outputs of those that can be read, and why the others cannot.

    pixels: item -> float (3, px, px), asked in several threads. Yields (items, float32 (n, D), {place in the batch:
    error}), n being the items without an error.

    A thread a core reads; on a CPU it computes its batch as well, one thread an operation: networks side by side do
    more than one whose operations are torn apart, and no core waits for another. Memory does not grow with the number
    of items: at most three batches a core are under way.
    """
    on_cpu, threads = device.type == "cpu", torch.get_num_threads()
    mine = max(1, cpu.available_cores() // hardware.local_world_size())
    workers = min(mine, threads if on_cpu else MOST_READERS)

    def read(chunk: list) -> tuple[torch.Tensor | None, dict[int, ImageError]]:
        seen, broken = [], {}
        for place, item in enumerate(chunk):
            try:
                seen.append(pixels(item))
            except ImageError as error:
                broken[place] = error
        return torch.stack(seen) if seen else None, broken

    @torch.inference_mode()
    def compute(given: torch.Tensor | None) -> np.ndarray:
        return np.zeros((0, 0), np.float32) if given is None else forward(given.to(device)).float().cpu().numpy()

    def work(chunk: list) -> tuple:
        given, broken = read(chunk)
        return compute(given) if on_cpu else given, broken

    def finished(chunk: list, work: Future) -> tuple:
        found, broken = work.result()
        return chunk, found if on_cpu else compute(found), broken

    under_way: deque = deque()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for chunk in _batched(items, batch):
                under_way.append((chunk, pool.submit(work, chunk)))
                if len(under_way) > 2 * workers:
                    yield finished(*under_way.popleft())
            while under_way:
                yield finished(*under_way.popleft())
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # which the other threads' setting had changed for all to come


def _batched(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while chunk := list(itertools.islice(items, size)):
        yield chunk
