"""The loss of every network here, for one label per example and for one per token; what training, evaluation and the
sharpness measures share.

An example's loss is -log softmax(z)_y in nats, for sequences the mean of that over its T tokens; so a loss over
examples is nats per example for images and nats per token for text, and exp of it is the perplexity.

Labels are class numbers from 0 to K - 1. No label means "ignore" as -100 does in PyTorch: all means here are over
examples of equal weight, so an ignored one would count with a loss of 0. Such labels are refused.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.runtime.errors import UserError

PROBABILITY_ERROR = 1e-2  # of a row's sum, which may be rounded to bfloat16
IGNORED = torch.iinfo(torch.int64).min  # no label has this value, so that -100 is out of range
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, reduction: Literal["mean", "none"] = "mean"
) -> Tensor:
    """The mean over the examples, or with reduction "none" each example's loss (N,).

    `logits` (N, K) with `labels` (N,) class ids or (N, K) probabilities; or (N, T, K) with (N, T), one label per token.
    See `check_labels` for what the labels may be; this function does not look at their values.
    `label_smoothing` s puts (1 - s) on the label and s / K on every class (Szegedy et al. 2016, arXiv 1512.00567,
    section 7).
    """
    rows, targets = logits.flatten(0, -2), labels.flatten(0, logits.ndim - 2)
    losses = F.cross_entropy(rows, targets, label_smoothing=label_smoothing, reduction=reduction, ignore_index=IGNORED)
    return losses if reduction == "mean" else losses.view(len(logits), -1).mean(1)


def check_labels(labels: Tensor, logits: Tensor) -> None:
    """Raises UserError where the loss of a network has no meaning for `labels`; `logits` are those of some examples.

    With logits (b, K) the labels are class numbers 0..K-1, integers (N,), or one probability per class, floating point
    (N, K) with rows of sum 1; with logits (b, T, K) class numbers (N, T). K is at least 2: of one class the loss is 0.
    """
    if logits.ndim < 2 or logits.shape[-1] < 2:
        raise UserError(
            f"`model` must give logits (N, K), or (N, T, K) for tokens, for K = 2 classes or more, "
            f"got shape {tuple(logits.shape)} for {len(logits)} inputs; binary labels take two logits"
        )
    shape, classes = (len(labels), *logits.shape[1:-1]), logits.shape[-1]
    allowed = f"`labels` must be integers from 0 to {classes - 1} of shape {shape}"
    got = f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"
    if labels.is_floating_point() and labels.shape == (*shape, classes) and len(shape) == 1:
        sums = labels.double().sum(1)
        if bool((labels < 0).any()) or not bool(((sums - 1).abs() <= PROBABILITY_ERROR).all()):
            raise UserError(f"{allowed}, or probabilities whose rows sum to 1, got rows that do not; one class each")
    elif labels.dtype not in INTEGERS or labels.shape != shape:
        raise UserError(f"{allowed}, got {got}")
    elif int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise UserError(
            f"{allowed}, got {int(labels.min())} to {int(labels.max())}; leave out what has no label (-100 counts too)"
        )
