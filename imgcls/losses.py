"""The one loss of all models: class weights, label smoothing, gradient accumulation, several processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from imgcls.errors import OptionError, shorten

PADDING_LABEL = -100  # rows that only fill a batch


class ClassificationLoss:
    """Cross-entropy over the images of the whole effective batch, for `Trainer(compute_loss_func=...)`.

    loss = sum over images of w[y] * ((1 - s) * CE(y) + s * mean over classes of -log p) / number of images

    The denominator is a count of images, over all accumulated batches and processes, never a batch's sum of
    weights (torch's weighted mean): that sum differs from batch to batch, so 16 images would not give the same
    gradient as 4 x 4. Weights have mean 1 over the training images instead, which keeps the loss's size. Models'
    own losses are not used: ResNet's and EfficientNet's ignore num_items_in_batch although Trainer believes
    otherwise, and with 4 accumulated batches their gradients come out four times too large.
    """

    def __init__(self, class_weights: torch.Tensor | None = None, smoothing: float = 0.0):
        self.class_weights, self.smoothing = class_weights, smoothing

    def __call__(self, outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        """Scalar loss of this batch's share.

        outputs: has `logits` (N, K), or is a dict with them. labels: int (N,); PADDING_LABEL rows count nowhere.
        num_items_in_batch: images of the effective batch; None: those of this batch. Nothing counted gives 0
        with zero gradient.
        """
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
        log_p = functional.log_softmax(logits.float(), dim=-1)  # float32 under mixed precision too
        counted = labels != PADDING_LABEL
        safe = labels.where(counted, 0)
        nll = -log_p.gather(1, safe[:, None]).squeeze(1)
        each = (1 - self.smoothing) * nll - self.smoothing * log_p.mean(dim=-1)
        if self.class_weights is not None:
            each = each * self.class_weights.to(each.device)[safe]
        count = counted.sum() if num_items_in_batch is None else num_items_in_batch
        total = torch.where(counted, each, 0.0).sum()
        return total / (count.clamp(min=1) if torch.is_tensor(count) else max(count, 1))


def balanced_weights(labels: Sequence[int], num_classes: int) -> torch.Tensor:
    """Weight n / (K * n_c) of each class c, float32 (K,): every class then weighs the same in all.

    Its mean over the n images is 1 by itself. Raises OptionError for a class without images.
    """
    counts = torch.bincount(torch.as_tensor(labels, dtype=torch.long), minlength=num_classes)
    if (counts == 0).any():
        without = shorten((counts == 0).nonzero().flatten().tolist())
        raise OptionError(f"Expected images of every class to balance them, got none of class {without}. Remove it.")
    return len(labels) / (num_classes * counts.float())
