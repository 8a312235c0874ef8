"""Labels that the loss has no meaning for are refused, wherever they come in; -100 is no way to leave something out."""

import math

import pytest
import torch
from torch import Tensor, nn

from trainables.runtime.errors import UserError
from trainables.sharpness import ModelLoss
from trainables.tasks.classification import cross_entropy
from trainables.training.evaluate import evaluate


def linear_with(outputs: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(4, outputs).double(), torch.randn(6, 4).double()


HOT = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0, 1, 2]]
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("labels", [CLASSES, CLASSES.int(), CLASSES.byte(), HOT, HOT.float(), HOT.bfloat16()])
def test_labels_that_mean_the_same(labels: Tensor) -> None:
    model, inputs = linear_with(3)
    expected = -model(inputs).detach().log_softmax(1)[torch.arange(6), CLASSES].mean()
    loss = ModelLoss(model, inputs, labels)
    assert loss.value(loss.params) == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (1, CLASSES[:, None] % 2 * 1.0, r"got shape \(2, 1\) for 2 inputs"),  # softmax of one class: 0.0
        (1, CLASSES * 0, r"got shape \(2, 1\) for 2 inputs"),
        (3, CLASSES[:, None] * 1.0, r"from 0 to 2 of shape \(6,\), got float32 of shape \(6, 1\)"),
        (3, CLASSES * 1.0, r"from 0 to 2 of shape \(6,\), got float32 of shape \(6,\)"),
        (3, CLASSES[:, None], r"of shape \(6,\), got int64 of shape \(6, 1\)"),
        (3, HOT.long(), r"of shape \(6,\), got int64 of shape \(6, 3\)"),
        (3, CLASSES > 0, r"of shape \(6,\), got bool of shape \(6,\)"),
        (3, HOT + HOT.roll(1, 1), "or probabilities whose rows sum to 1, got rows that do not"),  # two classes each
        (3, HOT * math.nan, "or probabilities whose rows sum to 1, got rows that do not"),
        (3, 2 * HOT - HOT.roll(1, 1), "or probabilities whose rows sum to 1, got rows that do not"),
        (3, CLASSES - 100, "got -100 to -98; leave out what has no label"),
        (3, torch.where(CLASSES == 1, -100, CLASSES), "got -100 to 2; leave out what has no label"),
        (3, CLASSES + 1, "from 0 to 2 of shape .* got 1 to 3"),
    ],
)
def test_labels_without_a_meaning_are_refused(outputs: int, labels: Tensor, message: str) -> None:
    model, inputs = linear_with(outputs)
    with pytest.raises(ValueError, match=message):
        ModelLoss(model, inputs, labels)


def test_tokens_without_a_meaning_are_refused() -> None:
    model, tokens = nn.Embedding(3, 3), torch.tensor([[0, 1], [2, 0]])
    assert ModelLoss(model, tokens, tokens).examples == 2
    for labels, message in (
        (tokens[:, 0], r"of shape \(2, 2\), got int64 of shape \(2,\)"),
        (torch.eye(3)[tokens], r"of shape \(2, 2\), got float32 of shape \(2, 2, 3\)"),
        (tokens.masked_fill(tokens == 1, -100), "got -100 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelLoss(model, tokens, labels)


def test_a_label_of_minus_100_is_never_skipped() -> None:
    """PyTorch's cross-entropy counts it as a loss of 0, in whatever mean."""
    model, inputs = linear_with(3)
    labels = torch.where(CLASSES == 1, -100, CLASSES)
    for compute in (lambda: evaluate(model, inputs, labels), lambda: cross_entropy(model(inputs), labels)):
        with pytest.raises(IndexError, match="-100"):
            compute()
    for wrong in (HOT, CLASSES[:, None], CLASSES[:, None] * 1.0):
        with pytest.raises(UserError, match=r"integers of shape \(6,\)"):
            evaluate(model, inputs, wrong)
