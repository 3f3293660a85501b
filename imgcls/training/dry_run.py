"""Training steps before training: does the batch fit in memory, and how long does a step take?"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn
from torch.utils.data import Dataset

from imgcls.models.step_timing import StepTime, time_full_batch, time_step


class DryRunOutOfMemoryError(torch.OutOfMemoryError):
    """A dry run that did not fit in memory, raised on all ranks together."""


class DryRun:
    """Steps that leave the network, its gradients and the random state as they were.

    batch_loss: samples -> the loss that training computes of them. Out-of-memory errors are raised on all ranks as
    soon as one of them runs out, so that all try the next batch size together.
    """

    def __init__(
        self,
        network: nn.Module,
        batch_loss: Callable[[list], torch.Tensor],
        train: Dataset,
        validation: Dataset,
        batch_size: int,
        accelerator: Accelerator,
    ):
        self.network, self.batch_loss = network, batch_loss
        self.train, self.validation = train, validation
        self.batch_size, self.accelerator = batch_size, accelerator

    def time_step(self, whole_batch: bool = False) -> StepTime:
        """Time a step with a whole batch; on a CPU with a few images, unless `whole_batch`.

        Raises DryRunOutOfMemoryError.
        """
        return self._on_all_ranks(
            lambda: time_step(
                self.network,
                self.batch_loss,
                self.train,
                self.validation,
                self.batch_size,
                self.accelerator.device,
                whole_batch=whole_batch,
            )
        )

    def time_full_batch(self, step_time: StepTime) -> StepTime:
        """Time a whole batch where a step of few images was quick, otherwise return `step_time`.

        Raises DryRunOutOfMemoryError.
        """
        return self._on_all_ranks(
            lambda: time_full_batch(
                step_time, self.network, self.batch_loss, self.train, self.batch_size, self.accelerator.device
            )
        )

    def _on_all_ranks(self, measure: Callable[[], StepTime]) -> StepTime:
        result, failure = None, None
        try:
            result = measure()
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            failure = error
        failed = torch.tensor([result is None], device=self.accelerator.device)
        failures = cast(torch.Tensor, self.accelerator.gather(failed))
        if result is None or failures.any():
            raise DryRunOutOfMemoryError("The dry run of a training step ran out of memory.") from failure
        return result
