"""Regression: one or several numbers for each example; mean squared error, R2.

An example's loss is the mean over its D numbers of (y - z)^2. It has the labels' unit, squared: with labels in volts a
loss is in V^2, so a target loss and a margin are, too.
"""

from typing import Any

import torch
from torch import Tensor

from trainables.runtime.errors import UserError
from trainables.tasks.metrics import Kept, Value, r_squared
from trainables.tasks.outputs import prediction_of
from trainables.tasks.task import Task


class Regression(Task):
    """Labels (N,) or (N, D), numbers, for outputs (N,), (N, 1) or (N, D)."""

    name = "regression"
    metric = "mse"
    unit = "squared units of the labels"
    direction = "lower"

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        predictions, targets = _columns(prediction_of(outputs)), _columns(labels)
        return (predictions - targets.to(predictions.dtype)).square().mean(1)

    def metrics(self, outputs: Any, labels: Tensor) -> dict[str, Any]:
        predictions = _columns(prediction_of(outputs))
        rows = torch.stack([predictions.double(), _columns(labels).double()], dim=1)
        return {"r2": Kept(rows, r_squared)}

    def metrics_of_loss(self, loss: float) -> dict[str, Value]:
        return {"mse": loss}

    def chance(self, labels: Any, num_classes: int) -> float | None:
        """The variance of the labels: the loss of their mean."""
        (whole,) = labels.split(len(labels))
        return float(_columns(whole).double().var(0, correction=0).mean())

    def num_outputs(self, num_classes: int, label_shape: tuple[int, ...]) -> int:
        return label_shape[0] if label_shape else 1

    def check(self, outputs: Any, labels: Tensor) -> None:
        predictions = prediction_of(outputs)
        if labels.ndim not in (1, 2) or predictions.ndim not in (1, 2):
            raise UserError(
                f"`labels` must be numbers of shape (N,) or (N, D) for regression, got {tuple(labels.shape)} for "
                f"outputs of shape {tuple(predictions.shape)}"
            )
        wanted = _columns(predictions).shape[1]
        if _columns(labels).shape[1] != wanted:
            raise UserError(
                f"`labels` must have the {wanted} numbers per example that the model puts out, "
                f"got shape {tuple(labels.shape)}"
            )
        _check_finite(labels, "")

    def check_labels(self, labels: Tensor, part: str) -> None:
        _check_finite(labels, part)
        if part == "training" and not bool((_columns(labels) != _columns(labels)[:1]).any(0).all()):
            raise UserError("`labels` must vary for regression as float32, got constant ones in the training set")
        if not labels.is_floating_point() and (lost := labels[labels.float().to(labels.dtype) != labels]).numel():
            raise UserError(
                f"`labels` must be whole numbers that float32 holds, got {lost[0]} in the {part} set; "
                "subtract a constant or scale them"
            )


def _columns(tensor: Tensor) -> Tensor:
    """(N,) as (N, 1)."""
    return tensor[:, None] if tensor.ndim == 1 else tensor


def _check_finite(labels: Tensor, part: str) -> None:
    if labels.is_floating_point() and not bool(labels.isfinite().all()):
        raise UserError(f"`labels` must be finite, got NaN or infinity{part and f' in the {part} set'}")
