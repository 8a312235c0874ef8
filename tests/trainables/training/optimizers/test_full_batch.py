"""Full-batch optimizers: step lengths by hand, quadratics to their minimum, and losses that cannot fall."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trainables.training.optimizers.full_batch import GradientDescent, full_batch_lbfgs


def problem(curvature: list[float], start: list[float]) -> tuple[nn.Parameter, Callable[[], Tensor]]:
    """f(x) = sum_i h_i x_i^2 / 2, and its closure."""
    x, h = nn.Parameter(torch.tensor(start, dtype=torch.float64)), torch.tensor(curvature, dtype=torch.float64)

    def closure() -> Tensor:
        x.grad = None
        loss = (h * x**2).sum() / 2
        loss.backward()
        return loss.detach()

    return x, closure


def test_step_lengths_by_hand() -> None:
    x, closure = problem([4.0], [1.0])
    optimizer = GradientDescent([x], lr=1.0)
    assert optimizer.step(closure).item() == 2.0
    assert x.item() == 0.0  # 1 - 4 t at t = 1, 1/2, 1/4: the loss rises, stays, falls
    x.data.fill_(1.0)
    optimizer.step(closure)  # t = 1/4 is tried first and accepted, so the next trial is 1/2, which gives x = -1
    assert x.item() == 0.0
    x.data.fill_(3.0)
    optimizer.step(closure)
    assert x.item() == 0.0
    assert optimizer.state_dict()["state"][0]["step_size"] == 0.25


def test_descent_never_rises_and_arrives() -> None:
    x, closure = problem([1.0, 5.0], [5.0, -3.0])
    optimizer = GradientDescent([x], lr=1e-6)
    losses = [optimizer.step(closure).item() for _ in range(150)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(losses))
    assert losses[-1] < 1e-10


def test_weights_stay_where_no_step_helps() -> None:
    x, closure = problem([2.0], [0.0])
    GradientDescent([x], lr=1.0).step(closure)
    assert x.item() == 0.0
    x, _ = problem([1.0], [0.5])

    def rises_everywhere() -> Tensor:  # a gradient that points the wrong way
        x.grad = torch.tensor([-1.0], dtype=torch.float64)
        return (x**2).sum().detach()

    def not_a_number() -> Tensor:
        x.grad = torch.tensor([1.0], dtype=torch.float64)
        return torch.tensor(math.nan)

    for closure in (rises_everywhere, not_a_number):
        GradientDescent([x], lr=1.0).step(closure)
        assert x.item() == 0.5


def test_lbfgs_on_an_ill_conditioned_quadratic() -> None:
    x, closure = problem([1.0, 10.0, 1000.0], [1.0, 1.0, 1.0])
    optimizer = full_batch_lbfgs([x], 1.0)
    losses = [optimizer.step(closure).item() for _ in range(30)]
    assert losses[0] == pytest.approx(505.5)
    assert losses[-1] < 1e-20
    assert optimizer.state_dict()["state"][0]["n_iter"] == 30  # one iteration a step
