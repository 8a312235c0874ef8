"""Local entropy and Laplace evidence against their closed forms on quadratics and linear regression."""

import math
from typing import Any

import pytest
import torch
from oracles import quadratic, random
from torch import Tensor

from trainables.sharpness.volume import laplace_log_evidence, local_entropy


def psd(seed: int, n: int) -> Tensor:
    root = random(seed, n, n)
    return root @ root.T / n


def exact_entropy(hessian: Tensor, gradient: Tensor, gamma: float, beta: float, scale: Tensor) -> float:
    """-(1/2) log det(1 + beta H / gamma) + beta^2 g' (gamma + beta H)^-1 g / 2 in coordinates divided by `scale`."""
    h, g = beta * scale[:, None] * hessian * scale, beta * scale * gradient
    eye = torch.eye(len(g)).double()
    return float(-torch.logdet(eye + h / gamma) / 2 + g @ torch.linalg.solve(gamma * eye + h, g) / 2)


@pytest.mark.parametrize(("slope", "beta", "adaptive"), [(0.0, 1.0, True), (0.5, 1.0, False), (0.5, 3.0, True)])
def test_quadratic(slope: float, beta: float, adaptive: bool) -> None:
    hessian, x, gradient = psd(0, 6), random(1, 6), slope * random(2, 6)
    expected = exact_entropy(hessian, gradient, 4.0, beta, x.abs() if adaptive else torch.ones(6).double())
    result = local_entropy(
        quadratic(hessian, gradient, x, 5.0), x, gamma=4.0, beta=beta, adaptive=adaptive, samples=4000
    )
    assert abs(result.value - expected) <= 4 * result.stderr
    assert result.stderr < 0.05
    assert result.converged
    assert result.evaluations == 4002
    assert result.loss_center == 5.0


def test_linear_loss_gains_by_its_slope() -> None:
    """|g|^2 / (2 gamma), above 0: no minimum."""
    result = local_entropy(lambda p: p.sum(), torch.zeros(3).double(), gamma=10.0, samples=4000)
    assert abs(result.value - 3 / 20) <= 4 * result.stderr


def test_standard_error_is_honest() -> None:
    hessian, x = psd(3, 8), random(4, 8)
    loss = quadratic(hessian, 0 * x, x)
    exact = exact_entropy(hessian, 0 * x, 2.0, 1.0, torch.ones(8).double())
    scores = torch.tensor(
        [
            (r.value - exact) / r.stderr
            for r in (local_entropy(loss, x, gamma=2.0, samples=100, seed=s) for s in range(80))
        ]
    )
    assert 0.8 < float(scores.std()) < 1.25
    assert abs(float(scores.mean())) < 0.5


def test_too_wide_a_neighbourhood_is_admitted() -> None:
    """beta ||H||_F / (gamma sqrt 2) = 71: the terms that count are never met."""
    x = torch.zeros(10_000).double()
    result = local_entropy(lambda p: (p**2).sum() / 2, x, gamma=1.0)
    assert not result.converged
    assert 2 <= result.effective_samples < 26
    assert result.value < -5_000 * math.log(2)  # far too low, and finite


def test_flat_loss_and_wide_range() -> None:
    flat = local_entropy(lambda p: 0 * p.sum(), torch.ones(4), gamma=1.0)
    assert (flat.value, flat.stderr, flat.effective_samples, flat.converged) == (0.0, 0.0, 256.0, True)
    steep = local_entropy(lambda p: -1e5 * p.sum(), torch.zeros(4).double(), gamma=1.0)
    assert math.isfinite(steep.value)
    assert steep.value > 1e5


def test_losses_that_are_not_finite() -> None:
    one = torch.ones(1).double()
    half = local_entropy(lambda p: torch.where(p[0] < 1, math.inf, 0 * p.sum()), one, gamma=1.0)
    assert half.value == pytest.approx(-math.log(2))
    nan = local_entropy(lambda p: torch.where(p[0] < 1, math.nan, 0 * p.sum()), one, gamma=1.0)
    assert math.isnan(nan.value)
    assert not nan.converged
    assert math.isnan(local_entropy(lambda p: p.sum() / 0, one, gamma=1.0).value)
    alone = local_entropy(lambda p: torch.where(p[0] == 1, 0 * p.sum(), math.inf), one, gamma=1.0)
    assert (alone.value, alone.effective_samples, alone.converged) == (-math.inf, 0.0, False)


def test_repeatable_and_float32() -> None:
    hessian, x, state = psd(5, 6), random(6, 6), torch.get_rng_state()
    exact = local_entropy(quadratic(hessian, 0 * x, x), x, gamma=3.0, seed=4)
    assert exact == local_entropy(quadratic(hessian, 0 * x, x), x, gamma=3.0, seed=4)
    assert exact != local_entropy(quadratic(hessian, 0 * x, x), x, gamma=3.0, seed=5)
    single = local_entropy(quadratic(hessian.float(), 0 * x.float(), x.float()), x.float(), gamma=3.0, seed=4)
    assert single.value == pytest.approx(exact.value, rel=1e-4)
    assert torch.equal(torch.get_rng_state(), state)


def test_evidence_of_linear_regression() -> None:
    """Exact for a Gaussian: log N(y; 0, 1 + X X' / lambda), with f the mean of (y - X w)^2 / 2 + log(2 pi) / 2."""
    inputs, targets, precision = random(7, 20, 5), random(8, 20), 0.7
    weights = torch.linalg.solve(inputs.T @ inputs + precision * torch.eye(5).double(), inputs.T @ targets)
    center = float(((targets - inputs @ weights) ** 2).mean() / 2 + math.log(2 * math.pi) / 2)
    covariance = torch.eye(20).double() + inputs @ inputs.T / precision
    exact = torch.distributions.MultivariateNormal(torch.zeros(20).double(), covariance).log_prob(targets)
    result = laplace_log_evidence(
        center,
        torch.linalg.eigvalsh(inputs.T @ inputs / 20),
        examples=20,
        prior_precision=precision,
        squared_norm=float(weights @ weights),
    )
    assert result.value == pytest.approx(float(exact), rel=1e-12)
    assert result.negative_share == result.negative_curvature == 0.0


def test_a_density_counts_as_its_eigenvalues() -> None:
    each = laplace_log_evidence(0.1, torch.tensor([1.0, 1.0, 3.0, 0.0]), examples=10, prior_precision=2.0)
    nodes, weights = torch.tensor([1.0, 3.0, 0.0]), torch.tensor([0.5, 0.25, 0.25])
    density = laplace_log_evidence(0.1, nodes, weights=weights, parameters=4, examples=10, prior_precision=2.0)
    assert density == each
    assert each.log_occam == pytest.approx(-(2 * math.log(6) + math.log(16)) / 2)
    assert each.log_likelihood == -1.0


def test_negative_curvature_adds_nothing_and_is_told() -> None:
    base = laplace_log_evidence(0.0, torch.tensor([3.0, 1.0]), examples=5, prior_precision=1.0)
    saddle = laplace_log_evidence(0.0, torch.tensor([3.0, 1.0, -1.0, 0.0]), examples=5, prior_precision=1.0)
    assert saddle.value == base.value
    assert saddle.negative_share == 0.25
    assert saddle.negative_curvature == pytest.approx(0.2)
    assert math.isnan(laplace_log_evidence(0.0, torch.tensor([math.nan]), examples=5, prior_precision=1.0).value)
    assert laplace_log_evidence(0.0, torch.zeros(3), examples=5, prior_precision=1.0).negative_curvature == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0.0}, "`gamma` must"),
        ({"beta": math.inf}, "`beta` must"),
        ({"samples": 3}, "`samples` must"),
        ({"least_share": 0.0}, "`least_share` must"),
    ],
)
def test_bad_arguments_of_entropy(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        local_entropy(lambda p: (p**2).sum(), torch.ones(3), **({"gamma": 1.0} | arguments))


GOOD: dict[str, Any] = {"loss_center": 0.0, "eigenvalues": torch.ones(2), "examples": 5, "prior_precision": 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"examples": 0}, "`examples` must"),
        ({"prior_precision": 0.0}, "`prior_precision` must"),
        ({"eigenvalues": torch.ones(0)}, "`eigenvalues` must"),
        ({"weights": torch.ones(2) / 2}, "`parameters` must"),
        ({"parameters": 2}, "`parameters` must"),
        ({"weights": torch.ones(2), "parameters": 2}, "`weights` must"),
        ({"weights": torch.ones(1), "parameters": 2}, "`weights` must"),
    ],
)
def test_bad_arguments_of_evidence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        laplace_log_evidence(**(GOOD | arguments))
