"""torch.compile where a run is long enough to gain by it, tried on the run's own step and kept when it is faster."""

from __future__ import annotations

import logging
import shutil
import time

import torch

from imgcls.errors import ModelError
from imgcls.rehearsal import Pace
from imgcls.trainer import ImageTrainer

log = logging.getLogger(__name__)

# Compiling took 30 to 80 s on two cores, and made steps 1.1 to 1.7 times faster there.
LONG_S = 600
GAIN = 1.05  # less is noise


def compiled(trainer: ImageTrainer, wanted: str, pace: Pace, seconds: float) -> Pace:
    """Compile the trainer's network for training, if it gains; its pace from then on.

    wanted: as of --compile. seconds: what the run takes as it is. Raises ModelError when `wanted` is "on" and it cannot
    be compiled.
    """
    if wanted == "off" or not trainer.can_compile or (wanted == "auto" and (seconds < LONG_S or not _has_compiler())):
        return pace
    log.info("compile: trying, which takes a minute or two (--compile off leaves it out)")
    started = time.monotonic()
    trainer.compile()
    try:
        faster = trainer.rehearse(whole=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers of all kinds raise all kinds
        trainer.drop_compiled()
        reason = " ".join(str(error).split())[:200]
        if wanted == "on":
            raise ModelError(
                f"Expected a network that torch.compile takes, got: {reason}. Give --compile off."
            ) from error
        log.info("compile: left out, since torch.compile failed: %s", reason)
        return pace
    gain = pace.train_s / faster.train_s
    took = time.monotonic() - started
    if wanted == "auto" and gain < GAIN:
        trainer.drop_compiled()
        log.info("compile: left out, %.2f times the speed after %.0f s", gain, took)
        return pace
    log.info("compile: kept, %.2f times the speed after %.0f s", gain, took)
    return faster


def _has_compiler() -> bool:
    """Whether there is what torch.compile needs: on a GPU it brings its own, on a CPU the system's is used."""
    return torch.accelerator.is_available() or any(map(shutil.which, ("c++", "g++", "clang++", "cl")))
