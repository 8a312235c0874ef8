"""Multi-label classification: any number of K classes for each example; binary cross-entropy, average precision.

An example's loss is the mean over the classes of -y log s(z) - (1 - y) log s(-z), s the logistic function.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.runtime.errors import UserError
from trainables.tasks.metrics import Kept, Sums, macro_f1, mean_average_precision
from trainables.tasks.outputs import prediction_of
from trainables.tasks.task import Task


class Multilabel(Task):
    """Labels (N, K), 0 or 1, for logits (N, K). F1 counts a class as predicted where its logit is above 0."""

    name = "multilabel"
    metric = "mean_average_precision"
    unit = "points"
    direction = "higher"

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        return self.smoothed_loss(outputs, labels, 0.0)

    def smoothed_loss(self, outputs: Any, labels: Tensor, smoothing: float) -> Tensor:
        logits = prediction_of(outputs)
        targets = labels.to(logits.dtype) * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)

    def metrics(self, outputs: Any, labels: Tensor) -> dict[str, Any]:
        logits = prediction_of(outputs)
        predicted, true = (logits > 0).double(), labels.double()
        counts = torch.stack([(predicted * true).sum(0), predicted.sum(0), true.sum(0)])
        rows = torch.stack([logits, labels.to(logits.dtype)], dim=1)
        return {"mean_average_precision": Kept(rows, mean_average_precision), "f1": Sums(counts, macro_f1)}

    def chance(self, labels: Any, num_classes: int) -> float | None:
        """log 2: every class as likely as not."""
        return math.log(2)

    def num_outputs(self, num_classes: int, label_shape: tuple[int, ...]) -> int:
        return label_shape[0] if label_shape else num_classes

    def check(self, outputs: Any, labels: Tensor) -> None:
        logits = prediction_of(outputs)
        if logits.ndim != 2 or labels.shape != (len(labels), logits.shape[1]):
            raise UserError(
                f"`labels` must be 0 or 1 for each class, of shape (N, K), got {tuple(labels.shape)} for logits of "
                f"shape {tuple(logits.shape)}"
            )
        self.check_values(labels)

    def check_labels(self, labels: Tensor, part: str) -> None:
        self.check_values(labels)
        if not bool((labels == 1).any()):
            raise UserError(f"`labels` must have a class somewhere, got none in the {part} set")

    @staticmethod
    def check_values(labels: Tensor) -> None:
        if not bool(((labels == 0) | (labels == 1)).all()):
            raise UserError(
                f"`labels` must be 0 or 1 for each class, of shape (N, K), "
                f"got {labels.min().item():g} to {labels.max().item():g}"
            )
