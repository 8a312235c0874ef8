"""The tasks' metrics against scikit-learn's."""

import pytest
import torch
from sklearn import metrics
from torch import Tensor

from trainables.tasks.by_name import load_task

EXAMPLES, CLASSES = 60, 5


def scores(*shape: int) -> Tensor:
    """Rounded, so that many are equal."""
    return (4 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))).round() / 4


def labels(*shape: int, below: int = 2) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(3))


def values(name: str, outputs: Tensor, true: Tensor) -> dict[str, float | None]:
    return {key: metric.value() for key, metric in load_task(name, [true]).measured(outputs, true).items()}


def test_classification() -> None:
    outputs, true = scores(EXAMPLES, CLASSES) + 1e-3 * torch.arange(CLASSES), labels(EXAMPLES, below=CLASSES - 1)
    found, predicted = values("classification", outputs, true), outputs.argmax(1)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(true, predicted), rel=1e-14)
    assert found["balanced_accuracy"] == pytest.approx(
        metrics.recall_score(true, predicted, average="macro", labels=range(CLASSES - 1)), rel=1e-14
    )


def test_binary() -> None:
    outputs, true = scores(EXAMPLES), labels(EXAMPLES)
    found, predicted = values("binary", outputs, true), outputs > 0
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(true, outputs), rel=1e-13)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(true, predicted), rel=1e-14)
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(true, predicted), rel=1e-14)


def test_multilabel() -> None:
    outputs, true = scores(EXAMPLES, CLASSES), labels(EXAMPLES, CLASSES)
    found = values("multilabel", outputs, true.double())
    average = metrics.average_precision_score(true, outputs, average="macro")
    assert found["mean_average_precision"] == pytest.approx(average, rel=1e-13)
    assert found["f1"] == pytest.approx(metrics.f1_score(true, outputs > 0, average="macro"), rel=1e-13)


def test_regression() -> None:
    outputs, true = scores(EXAMPLES, 3), scores(EXAMPLES, 3).flip(0)
    found = load_task("regression")
    assert values("regression", outputs, true)["r2"] == pytest.approx(metrics.r2_score(true, outputs), rel=1e-12)
    error = metrics.mean_squared_error(true, outputs)
    assert float(found.mean_loss(outputs, true)) == pytest.approx(error, rel=1e-13)
