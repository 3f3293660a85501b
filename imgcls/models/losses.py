"""The one loss of all models: class weights, smoothing, soft targets, focus, accumulation, several processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from imgcls.errors import OptionError, shorten

PADDING_LABEL = -100  # rows that only fill a batch


class ClassificationLoss:
    """Cross-entropy over the images of the whole effective batch, for `Trainer(compute_loss_func=...)`.

    loss = sum over images and classes of w[y] * t * (1 - p)^g * -log p / number of images

    t: the target, 1 for the image's class y (or shares of several classes for mixed images), smoothed towards 1 / K
    by s; g: the focus of Lin et al. 2017, "Focal loss", 0 for plain cross-entropy.

    The denominator is a count of images, over all accumulated batches and processes, never a batch's sum of
    weights (torch's weighted mean): that sum differs from batch to batch, so 16 images would not give the same
    gradient as 4 x 4. Weights have mean 1 over the training images instead, which keeps the loss's size. Models'
    own losses are not used: ResNet's and EfficientNet's ignore num_items_in_batch although Trainer believes
    otherwise, and with 4 accumulated batches their gradients come out four times too large.
    """

    def __init__(self, class_weights: torch.Tensor | None = None, smoothing: float = 0.0, focus: float = 0.0):
        self.class_weights, self.smoothing, self.focus = class_weights, smoothing, focus

    def __call__(self, outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        """Scalar loss of this batch's share.

        outputs: has `logits` (N, K), or is a dict with them. labels: int (N,), PADDING_LABEL rows count nowhere; or
        float (N, K), the shares of classes in mixed images, which sum to 1 or, where padding was mixed in, to less.
        num_items_in_batch: images of the effective batch; None: those of this batch. Nothing counted gives 0
        with zero gradient.
        """
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
        log_p = functional.log_softmax(logits.float(), dim=-1)  # float32 under mixed precision too
        shares = labels if labels.is_floating_point() else soft_labels(labels, log_p.shape[1])
        mass = shares.sum(dim=1)  # 1, or 0 for padding
        minus_log_p = -log_p * (1 - log_p.exp()) ** self.focus if self.focus else -log_p
        weighted = shares if self.class_weights is None else shares * self.class_weights.to(shares.device)
        each = (1 - self.smoothing) * (weighted * minus_log_p).sum(dim=1)
        each = each + self.smoothing * weighted.sum(dim=1) * minus_log_p.mean(dim=1)
        total = torch.where(mass > 0, each, 0.0).sum()
        count = mass.sum() if num_items_in_batch is None else num_items_in_batch
        return total / (count.clamp(min=1) if torch.is_tensor(count) else max(count, 1))


def soft_labels(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """int labels (N,) -> float (N, K): 1 for the class, all 0 for PADDING_LABEL."""
    counted = labels != PADDING_LABEL
    return functional.one_hot(labels.where(counted, 0), num_classes).float() * counted[:, None]


def balanced_class_weights(labels: Sequence[int], num_classes: int) -> torch.Tensor:
    """Weight n / (K * n_c) of each class c, float32 (K,): every class then weighs the same in all.

    Its mean over the n images is 1 by itself. Raises OptionError for a class without images.
    """
    counts = torch.bincount(torch.as_tensor(labels, dtype=torch.long), minlength=num_classes)
    if (counts == 0).any():
        without = shorten((counts == 0).nonzero().flatten().tolist())
        raise OptionError(f"Expected images of every class to balance them, got none of class {without}. Remove it.")
    return len(labels) / (num_classes * counts.float())
