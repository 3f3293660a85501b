"""The loss of all models: class weights, label smoothing, soft targets, focal loss, gradient accumulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from imgcls.errors import OptionError, shorten

PADDING_LABEL = -100  # of rows that only fill a batch


class ClassificationLoss:
    """Cross-entropy over the images of the whole effective batch, for `Trainer(compute_loss_func=...)`.

    loss = sum over images and classes of w[y] * t * (1 - p)^g * -log p / number of images

    t: the target, 1 for the image's class y (or the proportions of several classes for mixed images), smoothed towards
    1 / K by s; w: class weights; g: focal gamma (Lin et al. 2017, "Focal loss"), 0 for plain cross-entropy.

    The denominator is the number of images, over all accumulated batches and processes, never a batch's sum of weights
    (torch's weighted mean): that sum differs from batch to batch, so 16 images would not give the same gradient as
    4 x 4. Instead, weights have mean 1 over the training images, which preserves the scale of the loss. Models' own
    losses are not used: those of ResNet and EfficientNet ignore num_items_in_batch although Trainer assumes that they
    use it, and with 4 accumulated batches their gradients are four times too large.
    """

    def __init__(
        self, class_weights: torch.Tensor | None = None, label_smoothing: float = 0.0, focal_gamma: float = 0.0
    ):
        self.class_weights, self.label_smoothing, self.focal_gamma = class_weights, label_smoothing, focal_gamma

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: int | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scalar: this batch's part of the loss of the effective batch.

        outputs: has `logits` (N, K), or is a dict with them. labels: int (N,), where PADDING_LABEL rows do not count;
        or float (N, K), the class proportions of mixed images, which sum to 1 or, where padding was mixed in, to less.
        num_items_in_batch: images of the effective batch; None for those of this batch. Without any image the loss is
        0 with zero gradient.
        """
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
        log_p = functional.log_softmax(logits.float(), dim=-1)  # float32 under mixed precision too
        targets = labels if labels.is_floating_point() else soft_labels(labels, log_p.shape[1])
        mass = targets.sum(dim=1)  # 1, or 0 for padding
        minus_log_p = -log_p * (1 - log_p.exp()) ** self.focal_gamma if self.focal_gamma else -log_p
        weighted = targets if self.class_weights is None else targets * self.class_weights.to(targets.device)
        losses = (1 - self.label_smoothing) * (weighted * minus_log_p).sum(dim=1)
        losses = losses + self.label_smoothing * weighted.sum(dim=1) * minus_log_p.mean(dim=1)
        total = torch.where(mass > 0, losses, 0.0).sum()
        count = mass.sum() if num_items_in_batch is None else num_items_in_batch
        return total / (count.clamp(min=1) if torch.is_tensor(count) else max(count, 1))


def soft_labels(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """One-hot labels: int (N,) -> float (N, K), all 0 for PADDING_LABEL."""
    is_image = labels != PADDING_LABEL
    return functional.one_hot(labels.where(is_image, 0), num_classes).float() * is_image[:, None]


def balanced_class_weights(labels: Sequence[int], num_classes: int) -> torch.Tensor:
    """Weight n / (K * n_c) of each class c, float32 (K,), which gives all classes the same total weight.

    n: number of images, n_c: of class c. The mean weight over the images is 1. Raises OptionError for a class without
    images.
    """
    counts = torch.bincount(torch.as_tensor(labels, dtype=torch.long), minlength=num_classes)
    if (counts == 0).any():
        empty = shorten((counts == 0).nonzero().flatten().tolist())
        raise OptionError(
            f"Expected images of every class to balance classes, got none of class {empty}. Remove that class."
        )
    return len(labels) / (num_classes * counts.float())
