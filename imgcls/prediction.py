"""A run folder -> its model, loaded as `pipeline` would; images -> logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainingArguments

from imgcls import model
from imgcls.transforms import collate


def load(folder: Path, device: torch.device) -> tuple[nn.Module, object]:
    """The network (float32, evaluation mode, on `device`) and the image processor of a model folder."""
    network = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    network.eval().to(device, memory_format=model.memory_layout(network))
    return network, AutoImageProcessor.from_pretrained(folder)


def all_logits(network: nn.Module, view: Dataset, args: TrainingArguments) -> np.ndarray:
    """Logits, float32 (N, K), of a whole view in its order, each image computed by one process of the launch."""
    rank, processes = args.process_index, args.world_size
    mine = logits_of(
        network,
        view,
        batch=args.per_device_eval_batch_size,
        workers=args.dataloader_num_workers,
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


def logits_of(
    network: nn.Module,
    view: Dataset,
    *,
    batch: int,
    workers: int = 0,
    device: torch.device,
    part: tuple[int, int] = (0, 1),
    show_progress: bool = False,
) -> np.ndarray:
    """Logits, float32 (n, K), of the images part[0], part[0] + part[1], ... of a view, in that order.

    view: samples as `EvaluationView` gives them. part: (rank, processes), so that together all processes see each
    image once; the last ones may have none.
    """
    mine = Subset(view, range(part[0], len(view), part[1]))
    loader = DataLoader(mine, batch_size=batch, collate_fn=collate, num_workers=workers)
    found = []
    with torch.no_grad():
        for samples in tqdm(loader, desc="evaluating", leave=False, disable=None if show_progress else True):
            found.append(network(pixel_values=samples["pixel_values"].to(device)).logits.float().cpu().numpy())
    return np.concatenate(found) if found else np.zeros((0, 0), np.float32)
