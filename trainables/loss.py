"""The loss of every network here, for one label per example and for one per token; what training, evaluation and the
sharpness measures share.

An example's loss is -log softmax(z)_y in nats, for sequences the mean of that over its T tokens; so a loss over
examples is nats per example for images and nats per token for text, and exp of it is the perplexity.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, reduction: Literal["mean", "none"] = "mean"
) -> Tensor:
    """The mean over the examples, or with reduction "none" each example's loss (N,).

    `logits` (N, K) with `labels` (N,) class ids or (N, K) probabilities; or (N, T, K) with (N, T), one label per token.
    `label_smoothing` s puts (1 - s) on the label and s / K on every class (Szegedy et al. 2016, arXiv 1512.00567,
    section 7).
    """
    rows, targets = logits.flatten(0, -2), labels.flatten(0, logits.ndim - 2)
    losses = F.cross_entropy(rows, targets, label_smoothing=label_smoothing, reduction=reduction)
    return losses if reduction == "mean" else losses.view(len(logits), -1).mean(1)
