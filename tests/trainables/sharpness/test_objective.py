"""The objective: changes of variables, steps lost in rounding, and what is refused before a measure begins."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import dense_hessian, quadratic, random
from torch import Tensor

from trainables.sharpness import (
    ball_sharpness,
    box_sharpness,
    hessian_eigenvalues,
    hessian_trace,
    perturbation_sharpness,
    spectral_density,
)
from trainables.sharpness.objective import Objective, Substituted, evaluate_center

MEASURES: list[Callable[..., Any]] = [
    box_sharpness,
    hessian_eigenvalues,
    hessian_trace,
    spectral_density,
    lambda loss, x: ball_sharpness(loss, x, radius=0.1),
    lambda loss, x: perturbation_sharpness(loss, x, scale=0.1),
]


def test_a_change_of_variables() -> None:
    """f(x + M u): value, M' g and M' H M."""
    root, x, matrix, u = random(0, 6, 6), random(1, 6), random(2, 6, 3), random(3, 3)
    loss = quadratic(root + root.T, random(4, 6), random(5, 6))
    inner = Substituted(Objective(loss), x, lambda v: matrix @ v, lambda v: matrix.T @ v)
    value, gradient = inner.value_and_gradient(u)
    leaf = (x + matrix @ u).requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    assert value == inner.value(u) == float(loss(x + matrix @ u))
    torch.testing.assert_close(gradient, matrix.T @ expected)
    again, product = inner.value_and_hessian(u)
    assert again == value
    torch.testing.assert_close(product(u), matrix.T @ dense_hessian(loss, x) @ matrix @ u)
    assert inner.evaluations == 4


@pytest.mark.parametrize("measure", MEASURES)
def test_the_random_state_of_a_refused_loss_is_put_back(measure: Callable[..., Any]) -> None:
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="must be deterministic"):
        measure(lambda p: (p * torch.rand(20)).sum() ** 2, torch.ones(20).double())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("params", "message"),
    [
        (torch.ones(4, dtype=torch.int64), r"`params` must be floating point, got torch.int64"),
        (torch.ones(2, 2).double(), r"`params` must be one flat vector"),
        (torch.ones(0).double(), r"`params` must be one flat vector"),
    ],
)
def test_parameters_that_are_none(measure: Callable[..., Any], params: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(lambda p: (p**2).sum(), params)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_loss_without_a_gradient(measure: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="`loss` must depend on its parameters by differentiable operations"):
        measure(lambda p: (p.detach() ** 2).sum(), torch.ones(20).double())


def test_rounding_between_two_evaluations_is_allowed() -> None:
    """As of kernels that sum in another order; a thousandth is not."""
    calls = 0

    def wavering(by: float) -> Callable[[Tensor], Tensor]:
        def loss(params: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return (params**2).sum() * (1 + by * (calls % 2))

        return loss

    evaluate_center(Objective(wavering(1e-14)), torch.ones(3).double())
    with pytest.raises(ValueError, match="must be deterministic"):
        evaluate_center(Objective(wavering(1e-3)), torch.ones(3).double())


@pytest.mark.parametrize(
    "measure",
    [
        lambda loss, x: box_sharpness(loss, x, epsilon=1e-9),
        lambda loss, x: ball_sharpness(loss, x, radius=1e-7),
        lambda loss, x: ball_sharpness(loss, x, radius=1e-9, norm="linf"),
        lambda loss, x: ball_sharpness(loss, x, radius=1e-9, adaptive=True),
        lambda loss, x: perturbation_sharpness(loss, x, scale=1e-9),
        lambda loss, x: perturbation_sharpness(loss, x, scale=1e-7, kind="sphere"),
        lambda loss, x: perturbation_sharpness(loss, x, scale=1e-9, adaptive=True),
    ],
)
def test_steps_below_the_rounding_of_float32(measure: Callable[..., Any]) -> None:
    """They would be measured as 0; float64 sees them."""
    x = 1 + random(6, 50).abs()
    with pytest.raises(ValueError, match=r"must be large enough to move weights of float32.*work in float64"):
        measure(lambda p: (p**2).sum(), x.float())
    measure(lambda p: (p**2).sum(), x)


def test_products_with_vectors_made_elsewhere() -> None:
    """In inference mode, and with a graph of their own; one of another shape is refused, not broadcast."""
    matrix = random(3, 6, 6)
    product = Objective(lambda p: (matrix @ p).square().sum() / 2).hessian(torch.ones(6).double())
    with torch.inference_mode():
        vector = random(4, 6)
        made_there = product(vector)
    expected = matrix.T @ (matrix @ vector)
    torch.testing.assert_close(made_there, expected)
    torch.testing.assert_close(product(vector), expected)
    torch.testing.assert_close(product(vector.clone().requires_grad_()), expected)
    with pytest.raises(ValueError, match=r"vectors must have the shapes .* got \(2, 6\) for \(6,\)"):
        product(random(5, 2, 6))
