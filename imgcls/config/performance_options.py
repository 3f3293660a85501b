"""Options of speed: what is kept of the images between epochs and runs, and how a step is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imgcls.config.fields import option
from imgcls.errors import OptionError


@dataclass
class PerformanceOptions:
    """How images are kept decoded, and how a step is computed."""

    _argument_group_name = "speed"

    cache: Literal["auto", "ram", "disk", "off"] = option(
        "auto",
        "photos are decoded once and kept shrunk: on disk for later runs too, in ram for this run alone; auto: on disk "
        "where there is room, else in ram; off: decoded in every epoch",
    )
    cache_px: int | None = option(
        None, "shorter side that photos are shrunk to before they are kept (default: by recipe)"
    )
    cache_gb: float | None = option(
        None,
        "most that all kept photos may take together (default: three tenths of the free disk, or half the free memory)",
    )
    clear_cache: bool = option(False, "first remove all that earlier runs kept: photos, features, what check.py found")
    compile: Literal["auto", "on", "off"] = option(
        "auto", "torch.compile: minutes at the start for faster steps; auto: where the run is long enough to gain"
    )
    cuda_graph: Literal["auto", "off"] = option(
        "auto", "on one CUDA device the host starts a whole step at once, not kernel by kernel; auto: where it can be"
    )

    def __post_init__(self):
        if self.cache_px is not None and not 16 <= self.cache_px <= 8192:
            raise OptionError(f"Expected --cache_px between 16 and 8192, got {self.cache_px}. Usual: 256 to 512.")
        if self.cache == "off" and self.cache_px is not None:
            raise OptionError("Expected --cache_px with --cache auto, ram or disk, got off: nothing is shrunk then.")
        if self.cache_gb is not None and self.cache_gb <= 0:
            raise OptionError(f"Expected --cache_gb above 0, got {self.cache_gb}. To keep nothing give --cache off.")
