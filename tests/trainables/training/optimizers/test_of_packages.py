"""Optimizers of other packages, by import path: a step by hand, the weights that are evaluated, and resumption."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainables.check import check_trial
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.runtime.errors import UserError
from trainables.training.evaluate import evaluate
from trainables.training.loop import Training
from trainables.training.optimizers.by_name import build_optimizer, check_optimizer
from trainables.trial import Trial

Make = Callable[..., TrialConfig]
SOAP, SCHEDULE_FREE = "pytorch_optimizer:SOAP", "schedulefree:AdamWScheduleFree"
BOTH = pytest.mark.parametrize("optimizer", [SOAP, SCHEDULE_FREE])
SMALL: dict[str, Any] = {
    "train_size": 60, "test_size": 50, "measure_examples": 60, "batch_size": 20, "epochs": 3, "measures": "",
}  # fmt: skip


@pytest.fixture(autouse=True)
def packages() -> None:
    pytest.importorskip("pytorch_optimizer")
    pytest.importorskip("schedulefree")


def one_matrix(shape: tuple[int, int]) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(shape[1], shape[0], bias=False).double()


def gradients(shape: tuple[int, int], count: int) -> list[Tensor]:
    return list(torch.randn(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64))


def test_soap_by_hand(make_config: Make) -> None:
    """The first gradient makes the bases L, R only: eigenvectors of G G' and G' G (Vyas et al. 2024, arXiv 2409.11321).

    After it, in these bases, Adam: m and v of the projected gradients, here for two steps until the bases change. The
    signs and the order of eigenvectors cancel.
    """
    shape, rate, (b1, b2) = (3, 4), 0.1, (0.9, 0.8)
    model, (first, *others) = one_matrix(shape), gradients(shape, 3)
    options = '{"betas": [0.9, 0.8], "eps": 1e-12}'
    optimizer = build_optimizer(make_config(optimizer=SOAP, learning_rate=rate, optimizer_options=options), model)
    expected = model.weight.detach().clone()
    left, right = torch.linalg.eigh(first @ first.T)[1], torch.linalg.eigh(first.T @ first)[1]
    m = v = torch.zeros(shape, dtype=torch.float64)
    model.weight.grad = first.clone()
    optimizer.step()
    assert torch.equal(model.weight, expected)
    for number, gradient in enumerate(others, 1):
        model.weight.grad = gradient.clone()
        optimizer.step()
        rotated = left.T @ gradient @ right
        m, v = b1 * m + (1 - b1) * rotated, b2 * v + (1 - b2) * rotated.square()
        adam = (m / (1 - b1**number)) / ((v / (1 - b2**number)).sqrt())
        expected = expected - rate * left @ adam @ right.T
        # the null space of G' G (4 columns, rank 3) has no rounding in its one direction; eps is 1e-12 of about 1
        torch.testing.assert_close(model.weight.detach(), expected, rtol=0, atol=1e-8)


def test_schedule_free_by_hand(make_config: Make) -> None:
    """y = (1 - b1) z + b1 x;  z <- z - rate g(y) / (sqrt(v / (1 - b2^t)) + eps);  x <- (1 - 1/t) x + z / t."""
    shape, rate, (b1, b2), eps = (2, 3), 0.1, (0.9, 0.8), 1e-8
    model = one_matrix(shape)
    options = '{"betas": [0.9, 0.8]}'
    config = make_config(optimizer=SCHEDULE_FREE, learning_rate=rate, optimizer_options=options)
    optimizer: Any = build_optimizer(config, model)
    x = z = model.weight.detach().clone()
    v = torch.zeros(shape, dtype=torch.float64)
    for t, gradient in enumerate(gradients(shape, 4), 1):
        torch.testing.assert_close(model.weight.detach(), (1 - b1) * z + b1 * x, rtol=1e-12, atol=1e-13)
        model.weight.grad = gradient.clone()
        optimizer.step()
        v = b2 * v + (1 - b2) * gradient.square()
        z = z - rate * gradient / ((v / (1 - b2**t)).sqrt() + eps)
        x = (1 - 1 / t) * x + z / t
    optimizer.eval()
    torch.testing.assert_close(model.weight.detach(), x, rtol=1e-12, atol=1e-13)


def training(config: TrialConfig, source: Source) -> Training:
    return Trial(config, source).training


def weights(one: Training) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in one.model.parameters()])


def test_the_average_is_evaluated_and_kept(make_config: Make, digits: Source) -> None:
    """The rows are those of x, and training between them goes on at y; at the end the weights are x."""
    config = make_config(optimizer=SCHEDULE_FREE, evaluate_every="1epochs", **SMALL)
    one = training(config, digits)
    one.train_epoch()
    at_y, optimizer = weights(one), one.optimizer
    before = evaluate(one.model, one.data.test_inputs, one.data.test_labels).loss
    optimizer.eval()  # type: ignore[attr-defined]
    assert not torch.equal(weights(one), at_y)
    assert evaluate(one.model, one.data.test_inputs, one.data.test_labels).loss == one.epochs[-1]["test_loss"] != before
    optimizer.train()  # type: ignore[attr-defined]
    while not one.finished:
        one.train_epoch()
    with one.average.in_place():
        assert evaluate(one.model, one.data.test_inputs, one.data.test_labels).loss == one.epochs[-1]["test_loss"]
    assert evaluate(one.model, one.data.test_inputs, one.data.test_labels).loss == one.epochs[-1]["test_loss"]


@BOTH
def test_evaluating_more_often_and_resuming_leave_the_same_bits(
    make_config: Make, digits: Source, optimizer: str, tmp_path: Path
) -> None:
    config = make_config(optimizer=optimizer, evaluate_every="1steps", **SMALL)
    check_trial(config, digits)
    check_optimizer(config, one_matrix((3, 4)).float())
    straight, first, second = (Trial(config, digits) for _ in range(3))
    straight.train()
    seldom = Trial(dataclasses.replace(config, evaluate_every="1epochs"), digits)
    seldom.train()
    for _ in range(4):  # into the second epoch
        first.training.train_epoch()
    first.save(tmp_path / "trial.pt")
    assert second.resume(tmp_path / "trial.pt")
    second.train()
    assert torch.equal(weights(straight.training), weights(seldom.training))
    assert torch.equal(weights(straight.training), weights(second.training))
    assert straight.training.epochs[-1]["test_loss"] == second.training.epochs[-1]["test_loss"]
    assert math.isfinite(straight.training.epochs[-1]["test_loss"])


@pytest.mark.parametrize("remedy", [{"average": "ema"}, {"local_workers": 2, "local_steps": 2}])
def test_another_average_is_refused(make_config: Make, digits: Source, remedy: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"`{next(iter(remedy))}` cannot be used with an optimizer that averages"):
        Trial(make_config(optimizer=SCHEDULE_FREE, **SMALL, **remedy), digits)
