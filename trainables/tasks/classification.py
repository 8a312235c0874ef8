"""Classification: one class for each example, or for each token of it; cross-entropy, accuracy.

An example's loss is -log softmax(z)_y in nats, for sequences the mean of that over their tokens. Labels are class
numbers from 0 to K - 1. No label means "ignore" here as -100 does in PyTorch: such labels are refused (the task
`language` knows padding).
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.runtime.errors import UserError
from trainables.tasks.metrics import Sums, balanced, hits_by_class, overall
from trainables.tasks.outputs import prediction_of
from trainables.tasks.task import Task

PROBABILITY_ERROR = 1e-2  # of a row's sum, which may be rounded to bfloat16
IGNORED = torch.iinfo(torch.int64).min  # no label has this value, so that -100 is out of range
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "none"] = "mean",
    ignored: int = IGNORED,
) -> Tensor:
    """The mean over the units, or with reduction "none" each unit's loss, (N,) or (N, T).

    `logits` (N, K) with `labels` (N,) class ids or (N, K) probabilities; or (N, T, K) with (N, T), one label per token.
    This function does not look at the labels' values; the loss of the label `ignored` is 0.
    `label_smoothing` s puts (1 - s) on the label and s / K on every class (Szegedy et al. 2016, arXiv 1512.00567,
    section 7).
    """
    rows, targets = logits.flatten(0, -2), labels.flatten(0, logits.ndim - 2)
    losses = F.cross_entropy(rows, targets, label_smoothing=label_smoothing, reduction=reduction, ignore_index=ignored)
    return losses if reduction == "mean" else losses.view(logits.shape[:-1])


class Classification(Task):
    """Labels (N,) for logits (N, K), or (N, T) for (N, T, K); in training also (N, K) probabilities."""

    name = "classification"
    metric = "accuracy"
    unit = "points"
    direction = "higher"
    has_classes = True
    is_likelihood = True
    ignored = IGNORED

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        return cross_entropy(prediction_of(outputs), labels, reduction="none", ignored=self.ignored)

    def smoothed_loss(self, outputs: Any, labels: Tensor, smoothing: float) -> Tensor:
        return cross_entropy(
            prediction_of(outputs), labels, label_smoothing=smoothing, reduction="none", ignored=self.ignored
        )

    def mean_loss(
        self, outputs: Any, labels: Tensor, *, factors: Tensor | None = None, smoothing: float = 0.0
    ) -> Tensor:
        if factors is None and self.weights(labels) is None and type(self).loss is Classification.loss:
            return cross_entropy(prediction_of(outputs), labels, label_smoothing=smoothing)  # in one kernel
        return super().mean_loss(outputs, labels, factors=factors, smoothing=smoothing)

    def metrics(self, outputs: Any, labels: Tensor) -> dict[str, Any]:
        logits = prediction_of(outputs)
        if labels.is_floating_point() or labels.shape != logits.shape[:-1]:
            raise UserError(
                f"`labels` must be integers of shape {tuple(logits.shape[:-1])} for these inputs, "
                f"got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        hits = logits.argmax(-1) == labels
        weights = self.weights(labels)
        if labels.ndim > 1 or weights is not None:
            return {"accuracy": Sums.mean(hits, weights)}
        counts = hits_by_class(hits, labels, logits.shape[-1])
        return {"accuracy": Sums(counts, overall), "balanced_accuracy": Sums(counts, balanced)}

    def chance(self, labels: Any, num_classes: int) -> float | None:
        """log K: all classes alike."""
        return math.log(max(2, num_classes))

    def check(self, outputs: Any, labels: Tensor) -> None:
        """With logits (b, K) the labels are class numbers 0..K-1, integers (N,), or one probability per class, floating
        point (N, K) with rows of sum 1; with logits (b, T, K) class numbers (N, T). K is at least 2: of one class the
        loss is 0.
        """
        logits = prediction_of(outputs)
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
                raise UserError(
                    f"{allowed}, or probabilities whose rows sum to 1, got rows that do not; one class each"
                )
            return
        if labels.dtype not in INTEGERS or labels.shape != shape:
            raise UserError(f"{allowed}, got {got}")
        known = labels[labels != self.ignored]
        if len(known) and (int(known.min()) < 0 or int(known.max()) >= classes):
            raise UserError(f"{allowed}, got {int(known.min())} to {int(known.max())}; {self._way_out}")

    _way_out = "leave out what has no label (-100 counts too)"

    def curvature(self, outputs: Any, labels: Tensor) -> Callable[[list[Tensor]], list[Tensor]]:
        """H = w (diag(p) - p p') for each unit, p its probabilities and w its weight."""
        if type(self).loss is not Classification.loss or not isinstance(outputs, Tensor):
            return super().curvature(outputs, labels)
        probabilities = outputs.detach().softmax(-1)
        weights = self.weights(labels)

        def product(vectors: list[Tensor]) -> list[Tensor]:
            (moved,) = vectors
            weighted = probabilities * (moved - (probabilities * moved).sum(-1, keepdim=True))
            if weights is None:
                return [weighted / outputs[0, ..., 0].numel()]  # an example's loss is the mean over its tokens
            return [weighted * weights.to(weighted.dtype)[..., None]]

        return product
