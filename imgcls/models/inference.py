"""Load a saved classifier and compute its outputs for many images, reading ahead in threads."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedModel,
    TrainingArguments,
)

from imgcls.errors import ImageError, ModelError, one_line, shorten
from imgcls.models import classifier
from imgcls.system import cpu, hardware

MAX_READERS = 16  # threads that read for one accelerator; each holds batches in memory
MIN_BATCHES_PER_THREAD = 4  # on a CPU: with fewer, one thread may compute while the others have finished

Forward = Callable[[torch.Tensor], torch.Tensor]


class OutputBatch(NamedTuple):
    """A batch of items, the outputs of those that could be read, and the errors of the others.

    outputs: float32 (n, D), a row for each item without an error, in order. errors: position in the batch -> error.
    """

    items: list
    outputs: np.ndarray
    errors: dict[int, ImageError]


def load_model(folder: Path, device: torch.device) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """The network (float32, evaluation mode, on `device`) and the image processor of a model folder.

    Raises ModelError when the folder does not hold a complete classifier: the head of a backbone would be random.
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


def logits_function(network: nn.Module) -> Forward:
    """The forward pass of a classifier: pixels (n, 3, px, px) -> logits (n, K)."""
    return lambda pixels: network(pixel_values=pixels).logits


def all_logits(network: nn.Module, dataset: Dataset, args: TrainingArguments) -> np.ndarray:
    """Logits of a whole dataset in its order, float32 (N, K); each process of the launch computes a part of them."""
    rank, processes = args.process_index, args.world_size
    own_logits = compute_outputs(
        logits_function(network),
        dataset,
        batch=args.per_device_eval_batch_size,
        device=args.device,
        part=(rank, processes),
        show_progress=args.should_log and not args.disable_tqdm,
    )
    parts = gather_object([own_logits]) if processes > 1 else [own_logits]
    logits = np.empty((_size(dataset), parts[0].shape[1]), np.float32)
    for i, part in enumerate(parts):
        if len(part):
            logits[i::processes] = part
    return logits


def compute_outputs(
    forward: Forward,
    dataset: Dataset,
    *,
    batch: int,
    device: torch.device,
    part: tuple[int, int] = (0, 1),
    show_progress: bool = False,
) -> np.ndarray:
    """Outputs of the images rank, rank + processes, rank + 2 * processes, ... of a dataset, float32 (n, D).

    forward: pixels (m, 3, px, px) -> (m, D), such as `logits_function`; called in several threads. dataset: samples
    like those of `EvaluationDataset`. part: (rank, processes); the last ranks may have no images, which gives (0, 0).
    Raises the first error that an image raises.
    """
    rank, processes = part
    indices = range(rank, _size(dataset), processes)
    if device.type == "cpu":  # every thread has work, even with few images
        batch = max(1, min(batch, len(indices) // (MIN_BATCHES_PER_THREAD * torch.get_num_threads())))
    results = []
    with tqdm(total=len(indices), desc="evaluating", leave=False, disable=None if show_progress else True) as bar:
        for items, outputs, errors in stream_outputs(
            forward, indices, lambda i: dataset[i]["pixel_values"], batch=batch, device=device
        ):
            for error in errors.values():
                raise error
            results.append(outputs)
            bar.update(len(items))
    return np.concatenate(results) if results else np.zeros((0, 0), np.float32)


def stream_outputs(
    forward: Forward,
    items: Iterable,
    pixels: Callable[[Any], torch.Tensor],
    *,
    batch: int,
    device: torch.device,
) -> Iterator[OutputBatch]:
    """Batches of items in their order, with the outputs of those that can be read and the errors of the others.

    forward: pixels (m, 3, px, px) -> (m, D); on a CPU called in several threads. pixels: item -> float (3, px, px),
    called in several threads; an ImageError that it raises is part of the result, others are raised here. Memory does
    not grow with the number of items, see `Prefetcher`.
    """
    yield from Prefetcher(forward, pixels, device).stream(_batched(items, batch))


class Prefetcher:
    """Threads that read batches ahead of their use; on a CPU they also compute the outputs.

    There is one thread a core. On a CPU each computes its own batch, with one thread an operation: independent forward
    passes side by side are faster than one whose operations are divided, and no core waits for another. For an
    accelerator the threads only read, and the consumer's thread computes. At most two batches a thread are pending when
    the consumer receives one, and one more when it asks for the next.
    """

    def __init__(self, forward: Forward, pixels: Callable[[Any], torch.Tensor], device: torch.device):
        self.forward, self.pixels, self.device = forward, pixels, device
        self.is_cpu, self.torch_threads = device.type == "cpu", torch.get_num_threads()
        cores = max(1, cpu.available_cores() // hardware.local_world_size())  # of this process
        self.workers = min(cores, self.torch_threads if self.is_cpu else MAX_READERS)

    def stream(self, batches: Iterable[list]) -> Iterator[OutputBatch]:
        """Results in the order of `batches`, which are taken only as fast as the results are."""
        pending: deque[tuple[list, Future]] = deque()
        with ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                for items in batches:
                    pending.append((items, pool.submit(self._work, items)))
                    if len(pending) > 2 * self.workers:
                        yield self._result(*pending.popleft())
                while pending:
                    yield self._result(*pending.popleft())
            finally:
                pool.shutdown(cancel_futures=True)
                torch.set_num_threads(self.torch_threads)  # the workers' setting also applies to threads created later

    def _work(self, items: list) -> tuple[torch.Tensor | np.ndarray | None, dict[int, ImageError]]:
        """In a worker: the outputs of a batch on a CPU, its pixels for an accelerator (None if none can be read)."""
        stacked, errors = self._read(items)
        return self._compute(stacked) if self.is_cpu else stacked, errors

    def _read(self, items: list) -> tuple[torch.Tensor | None, dict[int, ImageError]]:
        images, errors = [], {}
        for position, item in enumerate(items):
            try:
                images.append(self.pixels(item))
            except ImageError as error:
                errors[position] = error
        return torch.stack(images) if images else None, errors

    @torch.inference_mode()
    def _compute(self, stacked: torch.Tensor | None) -> np.ndarray:
        if stacked is None:
            return np.zeros((0, 0), np.float32)
        return self.forward(stacked.to(self.device)).float().cpu().numpy()

    def _result(self, items: list, work: Future) -> OutputBatch:
        """In the consumer's thread: wait for a batch."""
        result, errors = work.result()
        return OutputBatch(items, result if self.is_cpu else self._compute(result), errors)


def _size(dataset: Dataset) -> int:
    return len(cast("Sized", dataset))


def _batched(items: Iterable, size: int) -> Iterator[list]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
