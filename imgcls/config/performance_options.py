"""Options of speed: what is cached of the images between epochs and runs, and how a step is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imgcls.config.fields import check_px, option
from imgcls.errors import OptionError


@dataclass(frozen=True)
class PerformanceOptions:
    """How decoded images are cached, and how a step is computed."""

    _argument_group_name = "speed"

    cache: Literal["auto", "ram", "disk", "off"] = option(
        "auto",
        "cache of decoded, downscaled photos: disk: for later runs too; ram: for this run alone; auto: disk if there "
        "is room, else ram; off: decode in every epoch",
    )
    cache_px: int | None = option(None, "shorter side that photos are downscaled to in the cache (default: by recipe)")
    cache_gb: float | None = option(
        None, "largest size of the cache in GB (default: three tenths of the free disk, or half of the free memory)"
    )
    clear_cache: bool = option(
        False, "first delete what earlier runs cached: photos, features, results of the data check"
    )
    compile: Literal["auto", "on", "off"] = option(
        "auto", "torch.compile: minutes at the start for faster steps; auto: if the run is long enough to gain"
    )
    cuda_graph: Literal["auto", "off"] = option(
        "auto", "on one CUDA device, launch each step as a single CUDA graph; auto: if the step allows it"
    )

    def __post_init__(self) -> None:
        check_px("cache_px", self.cache_px, 8192, "256 to 512")
        if self.cache == "off" and self.cache_px is not None:
            raise OptionError("Expected --cache_px with --cache auto, ram or disk, got off: nothing is cached then.")
        if self.cache_gb is not None and self.cache_gb <= 0:
            raise OptionError(f"Expected --cache_gb above 0, got {self.cache_gb}. To cache nothing give --cache off.")
