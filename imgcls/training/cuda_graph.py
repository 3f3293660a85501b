"""CUDA graphs of functions of tensors and of a Trainer's whole step: one launch instead of one per kernel.

A step of ResNet-18 is 420 kernels, which take a host 9 to 18 ms to launch: with small batches, and on slow hosts with
any, the GPU waits for them.
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
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from imgcls.errors import ModelError

log = logging.getLogger(__name__)

WARM_UP_STEPS = 3  # run eagerly before one is captured: libraries initialise themselves in the first
MEMORY_FRACTION = 0.9  # of GPU memory that allocated memory and twice a step's may take


class CapturedStep:
    """A function of tensors of fixed shapes, as a CUDA graph. Its output is overwritten by the next call."""

    def __init__(self, function: Callable[..., torch.Tensor], *inputs: torch.Tensor):
        """inputs: the first tensors; `function` has been called before. Raises what capturing raises."""
        self.inputs = [tensor.clone() for tensor in inputs]
        self.graph = torch.cuda.CUDAGraph()
        # Not the global mode: a thread that pins memory meanwhile is not part of the graph.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.output = function(*self.inputs)

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The function's output for tensors of the same shapes."""
        for static, new in zip(self.inputs, inputs, strict=True):
            static.copy_(new)
        self.graph.replay()
        return self.output


class CapturingTrainer(Trainer):
    """Trainer whose forward and backward pass, with all that prepares the batch, become a CUDA graph.

    A step is captured after WARM_UP_STEPS eager ones with batches of the same shapes, if the last of them neither
    synchronised with the GPU nor drew a random number on the host, which a graph would repeat in every step. Gradient
    clipping and the optimizer stay outside.
    """

    model: nn.Module
    captures = True  # whether it may be tried
    is_compiled = False  # whether torch.compile runs the network, which then has no graph of ours
    _signature: list | None = None  # of the batches that the graph is for
    _warm_up = 0  # eager steps of this signature so far
    _step: CapturedStep | None = None
    _gradients: list[tuple[nn.Parameter, torch.Tensor]] | None = None  # where the graph writes them

    def training_step(
        self, model: nn.Module, inputs: dict, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Trainer's step, from a graph once there is one for batches like this."""
        tensors = [*inputs.values(), num_items_in_batch]
        if not self._may_capture(tensors):
            return super().training_step(model, inputs, num_items_in_batch)
        signature = [model, *inputs, *(tensor.shape for tensor in tensors)]
        if signature != self._signature:
            self._signature, self._warm_up, self._step, self._gradients = signature, 0, None, None
        if self._warm_up < WARM_UP_STEPS:
            self._warm_up += 1
            step = partial(super().training_step, model, inputs, num_items_in_batch)
            return step() if self._warm_up < WARM_UP_STEPS else self._last_eager_step(step)
        if self._step is None or self._gradients is None:
            self._step, self._gradients = self._capture(model, list(inputs), tensors)
        set_train_mode = getattr(self.optimizer, "train", None)  # of schedule-free optimizers; evaluation ended it
        if set_train_mode is not None:
            set_train_mode()
        loss = self._step(*tensors)
        for parameter, gradient in self._gradients:  # zero_grad removed them
            parameter.grad = gradient
        return loss

    def _last_eager_step(self, step: Callable[[], torch.Tensor]) -> torch.Tensor:
        loss, obstacle = _watch(step)
        if obstacle is not None:
            self.captures = False
            log.info("CUDA graph disabled: the training step %s", obstacle)
        return loss

    def train(self, *args, **kwargs) -> TrainOutput:
        """Trainer's training, after which the memory of the graph is free."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self._signature = self._step = self._gradients = None

    def _may_capture(self, tensors: list) -> bool:
        args = self.args
        return (
            self.captures
            and args.device.type == "cuda"
            and args.world_size == args.n_gpu == args.gradient_accumulation_steps == 1
            and not (args.fp16 or args.gradient_checkpointing or args.torch_empty_cache_steps)
            and not self.is_compiled
            and all(torch.is_tensor(tensor) and tensor.is_cuda for tensor in tensors)
            and not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        )

    def _capture(
        self, model: nn.Module, names: list[str], tensors: list[torch.Tensor]
    ) -> tuple[CapturedStep, list[tuple[nn.Parameter, torch.Tensor]]]:
        """The graph of a step, and the gradients that it writes. names: of all tensors but the last."""
        step = super().training_step
        try:
            captured = CapturedStep(lambda *own: step(model, dict(zip(names, own, strict=False)), own[-1]), *tensors)
        except RuntimeError as error:
            if should_reduce_batch_size(error):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise ModelError(
                f"Expected a training step that a CUDA graph can hold, got: {reason}. Give --cuda_graph off with the "
                "same command: it resumes from the last checkpoint."
            ) from error
        return captured, [(p, p.grad) for p in model.parameters() if p.grad is not None]


def _watch(step: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, str | None]:
    """The loss of a step, and what in it prevents a graph, if anything does."""
    random_state, sync_mode = _host_random_state(), torch.cuda.get_sync_debug_mode()
    allocated = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            loss = step()
        finally:
            torch.cuda.set_sync_debug_mode(sync_mode)
    if any("synchronizing CUDA operation" in str(message.message) for message in messages):
        return loss, "synchronises with the GPU"
    if random_state != _host_random_state():
        return loss, "draws random numbers on the host"
    # A graph holds its memory between steps, so evaluation cannot use it.
    needed = allocated + 2 * (torch.cuda.max_memory_allocated() - allocated)
    if needed > MEMORY_FRACTION * torch.cuda.mem_get_info()[1]:
        return loss, "takes most of the GPU memory"
    return loss, None


def _host_random_state() -> tuple:
    """The state of the generators of torch, Python and NumPy, comparable by ==."""
    kind, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), (kind, np.asarray(keys).tolist(), *rest)
