"""A run folder -> its model, loaded as `pipeline` would; images -> logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModelForImageClassification

from imgcls.transforms import EvaluationView, collate


def load(folder: Path, device: torch.device) -> tuple[nn.Module, object]:
    """The network (float32, evaluation mode, on `device`) and the image processor of a model folder."""
    network = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return network.eval().to(device), AutoImageProcessor.from_pretrained(folder)


def logits_of(
    network: nn.Module,
    view: EvaluationView,
    *,
    batch: int,
    workers: int = 0,
    device: torch.device,
    part: tuple[int, int] = (0, 1),
    show_progress: bool = False,
) -> np.ndarray:
    """Logits, float32 (n, K), of the images part[0], part[0] + part[1], ... of a view, in that order.

    part: (rank, processes), so that together all processes see each image once.
    """
    mine = Subset(view, range(part[0], len(view), part[1]))
    loader = DataLoader(mine, batch_size=batch, collate_fn=collate, num_workers=workers)
    found = [np.zeros((0, network.config.num_labels), np.float32)]
    with torch.no_grad():
        for samples in tqdm(loader, desc="evaluating", leave=False, disable=None if show_progress else True):
            found.append(network(pixel_values=samples["pixel_values"].to(device)).logits.float().cpu().numpy())
    return np.concatenate(found)
