"""Binary classification judged by ranking: the area under the ROC curve, which rare positives do not hide from.

An example's loss is -y log s(z) - (1 - y) log s(-z) in nats, s the logistic function. With 6 % positives a network that
never finds one has 94 % accuracy; its AUC is 0.5.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.runtime.errors import UserError
from trainables.tasks.metrics import Kept, Sums, area_under_curve, balanced, hits_by_class, overall
from trainables.tasks.outputs import prediction_of
from trainables.tasks.task import Task


class Binary(Task):
    """Labels (N,), 0 or 1, for log-odds (N,) or (N, 1), or for two logits (N, 2), whose difference they are."""

    name = "binary"
    metric = "auc"
    unit = "points"
    direction = "higher"
    is_likelihood = True

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        return self.smoothed_loss(outputs, labels, 0.0)

    def smoothed_loss(self, outputs: Any, labels: Tensor, smoothing: float) -> Tensor:
        odds = _log_odds(prediction_of(outputs))
        targets = labels.flatten().to(odds.dtype) * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(odds, targets, reduction="none")

    def metrics(self, outputs: Any, labels: Tensor) -> dict[str, Any]:
        odds, true = _log_odds(prediction_of(outputs)), labels.flatten()
        hits = (odds > 0) == (true == 1)
        counts = hits_by_class(hits, true, 2)
        return {
            "auc": Kept(torch.stack([odds, true.to(odds.dtype)], dim=1), area_under_curve),
            "accuracy": Sums(counts, overall),
            "balanced_accuracy": Sums(counts, balanced),
        }

    def chance(self, labels: Any, num_classes: int) -> float | None:
        """log 2: both as likely."""
        return math.log(2)

    def num_outputs(self, num_classes: int, label_shape: tuple[int, ...]) -> int:
        return 1

    def check(self, outputs: Any, labels: Tensor) -> None:
        odds = prediction_of(outputs)
        if odds.ndim not in (1, 2) or (odds.ndim == 2 and odds.shape[1] not in (1, 2)):
            raise UserError(f"`model` must give one or two numbers per example, got shape {tuple(odds.shape)}")
        if labels.shape not in ((len(labels),), (len(labels), 1)):
            raise UserError(f"`labels` must be 0 or 1 for each example, (N,), got shape {tuple(labels.shape)}")
        self._check_values(labels)

    def check_labels(self, labels: Tensor, part: str) -> None:
        self._check_values(labels)
        if bool((labels == labels.flatten()[0]).all()):
            raise UserError(
                f"`labels` must be 0 and 1 for the task binary, got only {labels.flatten()[0].item():g} in the {part} "
                "set; AUC needs both"
            )

    @staticmethod
    def _check_values(labels: Tensor) -> None:
        if not bool(((labels == 0) | (labels == 1)).all()):
            raise UserError(
                f"`labels` must be 0 or 1 for the task binary, got {labels.min().item():g} to {labels.max().item():g}"
            )


def _log_odds(outputs: Tensor) -> Tensor:
    if outputs.ndim == 1:
        return outputs
    return outputs[:, 0] if outputs.shape[1] == 1 else outputs[:, 1] - outputs[:, 0]
