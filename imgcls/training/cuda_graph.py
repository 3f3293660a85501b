"""Functions of tensors, and a Trainer's whole step, that the host starts as one on CUDA instead of kernel by kernel.

A step of ResNet-18 is 420 kernels, which take a host 9 to 18 ms to start: at small batches, and on slow hosts at any,
the accelerator waits for them.
"""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import Trainer

from imgcls.errors import ModelError

log = logging.getLogger(__name__)

WARM_STEPS = 3  # as they are, before one is captured: libraries set themselves up in the first
MEMORY_SHARE = 0.9  # of the device that may be taken by what is there and twice a step


class CapturedStep:
    """A function of tensors whose shapes stay, as a CUDA graph. Its answer is overwritten by the next call."""

    def __init__(self, function: Callable[..., torch.Tensor], *given: torch.Tensor):
        """given: the first tensors, for which the function has been called before. Raises what capturing raises."""
        self.given = [tensor.clone() for tensor in given]
        self.graph = torch.cuda.CUDAGraph()
        # Not global: a thread that pins memory meanwhile is none of the graph's.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.answer = function(*self.given)

    def __call__(self, *given: torch.Tensor) -> torch.Tensor:
        """What the function gives for tensors like the first."""
        for mine, new in zip(self.given, given, strict=True):
            mine.copy_(new)
        self.graph.replay()
        return self.answer


class CapturingTrainer(Trainer):
    """Trainer whose forward and backward pass, with all that is done to the batch before, become a CUDA graph.

    A step is captured once WARM_STEPS like it were taken as they are, if the last of them neither waited for the device
    nor drew a random number on the host: a graph would repeat it for ever. Clipping and the optimizer stay outside.
    """

    captures = True  # whether it may be tried
    _kind: list | None = None  # of the batches that the step was made for
    _warm = 0
    _step: CapturedStep | None = None
    _gradients: list[tuple[torch.nn.Parameter, torch.Tensor]] | None = None  # where the graph writes them

    def training_step(self, model, inputs: dict, num_items_in_batch=None) -> torch.Tensor:
        """Trainer's step."""
        given = [*inputs.values(), num_items_in_batch]
        if not self._may_capture(given):
            return super().training_step(model, inputs, num_items_in_batch)
        kind = [model, *inputs, *(tensor.shape for tensor in given)]
        if kind != self._kind:
            self._kind, self._warm, self._step, self._gradients = kind, 0, None, None
        if self._warm < WARM_STEPS:
            self._warm += 1
            step = partial(super().training_step, model, inputs, num_items_in_batch)
            if self._warm < WARM_STEPS:
                return step()
            loss, hindrance = _watched(step)
            if hindrance is not None:
                self.captures = False
                log.info("cuda_graph: left out, since a step %s", hindrance)
            return loss
        if self._step is None:
            self._capture(model, list(inputs), given)
        if hasattr(self.optimizer, "train"):  # of the kind without a schedule, which evaluation told otherwise
            self.optimizer.train()
        loss = self._step(*given)
        for parameter, gradient in self._gradients:  # which zero_grad took away
            parameter.grad = gradient
        return loss

    def train(self, *arguments, **options):
        """Trainer's training, after which the memory of the graph is free."""
        try:
            return super().train(*arguments, **options)
        finally:
            self._kind = self._step = self._gradients = None

    def _may_capture(self, given: list) -> bool:
        args = self.args
        return (
            self.captures
            and args.device.type == "cuda"
            and args.world_size == args.n_gpu == args.gradient_accumulation_steps == 1
            and not (args.fp16 or args.gradient_checkpointing or args.torch_empty_cache_steps)
            and self.model._compiled_call_impl is None
            and all(torch.is_tensor(tensor) and tensor.is_cuda for tensor in given)
            and not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        )

    def _capture(self, model, names: list[str], given: list[torch.Tensor]) -> None:
        step = super().training_step
        try:
            self._step = CapturedStep(lambda *own: step(model, dict(zip(names, own, strict=False)), own[-1]), *given)
        except RuntimeError as error:
            if should_reduce_batch_size(error):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise ModelError(
                f"Expected a training step that a CUDA graph can hold, got: {reason}. Give --cuda_graph off with the "
                "same command: it goes on from the last checkpoint."
            ) from error
        self._gradients = [(p, p.grad) for p in model.parameters() if p.grad is not None]


def _watched(step: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, str | None]:
    """What a step gives, and what it does that a graph cannot."""
    before, mode, held = _host_random_state(), torch.cuda.get_sync_debug_mode(), torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            loss = step()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    if any("synchronizing CUDA operation" in str(warning.message) for warning in said):
        return loss, "waits for the device"
    if before != _host_random_state():
        return loss, "draws random numbers on the host"
    # what a graph holds is not free between steps, for evaluation as an example
    needed = held + 2 * (torch.cuda.max_memory_allocated() - held)
    return loss, "takes most of the memory" if needed > MEMORY_SHARE * torch.cuda.mem_get_info()[1] else None


def _host_random_state() -> tuple:
    kind, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), (kind, keys.tolist(), *rest)
