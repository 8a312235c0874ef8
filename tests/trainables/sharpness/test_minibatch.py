"""Curvature along mini-batch steps and their stability, on quadratics whose curvature differs between examples."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainables.sharpness import batch_sharpness, hessian_eigenvalues, minibatch_stability, stability

N, B, DRAWS = 12, 3, 20
EXACT = 1e-12


def quadratics(dimension: int) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """The curvature (N, n, n) and slope (N, n) of each example, and the mean loss of a batch."""
    torch.manual_seed(0)
    roots = torch.randn(N, dimension, dimension, dtype=torch.float64)
    hessians, slopes = roots @ roots.mT, torch.randn(N, dimension, dtype=torch.float64)

    def loss(x: Tensor, batch: Tensor) -> Tensor:
        return (torch.einsum("i,bij,j->b", x, hessians[batch], x) / 2 + slopes[batch] @ x).mean()

    return hessians, slopes, loss


def batches(size: int = B, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(N, generator=generator)[:size] for _ in range(DRAWS)]


def test_batch_sharpness_is_the_mean_of_the_ratios() -> None:
    hessians, slopes, loss = quadratics(4)
    x = torch.randn(4, dtype=torch.float64)
    found = batch_sharpness(loss, x, examples=N, batch_size=B, draws=DRAWS)
    curvatures, squares = [], []
    for batch in batches():
        h = hessians[batch].mean(0)
        g = h @ x + slopes[batch].mean(0)
        curvatures.append(float(g @ h @ g))
        squares.append(float(g @ g))
    ratios = torch.tensor(curvatures, dtype=torch.float64) / torch.tensor(squares, dtype=torch.float64)
    assert found.value == pytest.approx(float(ratios.mean()), rel=EXACT)
    assert found.stderr == pytest.approx(float(ratios.std()) / math.sqrt(DRAWS), rel=EXACT)
    assert found.ratio_of_means == pytest.approx(sum(curvatures) / sum(squares), rel=EXACT)
    assert found.evaluations == 2 + 3 * DRAWS
    assert found.converged == (found.stderr <= 0.1 * found.value)


def test_in_one_dimension_the_ratios_are_the_curvatures() -> None:
    hessians, _, loss = quadratics(1)
    found = batch_sharpness(loss, torch.ones(1, dtype=torch.float64), examples=N, batch_size=B, draws=DRAWS)
    expected = torch.stack([hessians[batch].mean() for batch in batches()]).mean()
    assert found.value == pytest.approx(float(expected), rel=EXACT)


def test_with_all_examples_both_are_those_of_gradient_descent() -> None:
    hessians, slopes, loss = quadratics(3)
    x, h = torch.ones(3, dtype=torch.float64), hessians.mean(0)
    g = h @ x + slopes.mean(0)
    along = batch_sharpness(loss, x, examples=N, batch_size=N)
    assert (along.value, along.stderr) == pytest.approx((float(g @ h @ g / (g @ g)), 0.0), rel=EXACT, abs=0.0)
    everything = torch.arange(N)
    top = hessian_eigenvalues(lambda p: loss(p, everything), x).vectors[0]
    found = minibatch_stability(loss, x, top, learning_rate=0.1, examples=N, batch_size=N)
    expected = stability(lambda p: loss(p, everything), x, learning_rate=0.1)
    assert (found.ratio, found.stderr) == pytest.approx((expected.ratio, 0.0), rel=1e-6, abs=0.0)


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_rate_is_that_of_a_random_quadratic(seed: int) -> None:
    """rate < 2 E h / ((E h)^2 + Var h): exactly where SGD's E x^2 = E (1 - rate h)^2 x^2 shrinks."""
    hessians, _, loss = quadratics(1)
    x = torch.ones(1, dtype=torch.float64)
    found = minibatch_stability(loss, x, -2 * x, learning_rate=0.3, examples=N, batch_size=B, draws=DRAWS, seed=seed)
    h = torch.stack([hessians[batch].mean() for batch in batches(seed=seed)])
    mean, variance = float(h.mean()), float(h.var(correction=0))
    assert found.largest_rate == pytest.approx(2 * mean / (mean**2 + variance), rel=EXACT)
    assert found.ratio == pytest.approx(0.3 / found.largest_rate, rel=EXACT)
    for share, shrinks in ((0.99, True), (1.01, False)):
        growth = float((1 - share * found.largest_rate * h).square().mean())
        assert (growth < 1) == shrinks


def test_a_direction_that_grows_makes_the_dynamics_grow() -> None:
    """Above 1 along some direction, the map of second moments has an eigenvalue above 1."""
    hessians, _, loss = quadratics(3)
    x = torch.zeros(3, dtype=torch.float64)
    top = hessian_eigenvalues(lambda p: loss(p, torch.arange(N)), x).vectors[0]
    settings = {"examples": N, "batch_size": B, "draws": DRAWS}
    rate = 1.001 * minibatch_stability(loss, x, top, learning_rate=1.0, **settings).largest_rate
    assert minibatch_stability(loss, x, top, learning_rate=rate, **settings).ratio == pytest.approx(1.001)
    steps = [torch.eye(3, dtype=torch.float64) - rate * hessians[batch].mean(0) for batch in batches()]
    moments = torch.stack([torch.kron(step, step) for step in steps]).mean(0)
    assert float(torch.linalg.eigvalsh(moments).max()) > 1


@pytest.mark.slow
def test_standard_errors_are_the_spread_over_draws() -> None:
    """Of 80 estimates with other seeds, whose spread is known to 8 %."""
    _, _, loss = quadratics(2)
    x, v = torch.ones(2, dtype=torch.float64), torch.tensor([1.0, 0.5], dtype=torch.float64)
    settings = {"examples": N, "batch_size": B, "draws": 10}
    found = [minibatch_stability(loss, x, v, learning_rate=0.1, seed=seed, **settings) for seed in range(80)]
    ratios = torch.tensor([one.ratio for one in found])
    errors = torch.tensor([one.stderr for one in found])
    assert float(errors.square().mean().sqrt()) == pytest.approx(float(ratios.std()), rel=0.3)


def test_what_is_refused_or_not_known() -> None:
    _, _, loss = quadratics(2)
    x = torch.ones(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="`batch_size` must be between 1 and the 12 examples measured, got 13"):
        batch_sharpness(loss, x, examples=N, batch_size=13)
    with pytest.raises(ValueError, match="`draws` must be at least 2"):
        batch_sharpness(loss, x, examples=N, batch_size=2, draws=1)
    with pytest.raises(ValueError, match="`direction` must be a vector of 2 numbers, not all 0"):
        minibatch_stability(loss, x, 0 * x, learning_rate=0.1, examples=N, batch_size=2)
    with pytest.raises(ValueError, match="deterministic"):
        batch_sharpness(lambda p, batch: (p * torch.rand(2)).square().sum(), x, examples=N, batch_size=2)
    downwards = minibatch_stability(lambda p, b: -p.square().sum(), x, x, learning_rate=0.1, examples=N, batch_size=2)
    assert math.isnan(downwards.ratio)
    assert not downwards.converged
    still = batch_sharpness(lambda p, b: 0 * p.square().sum(), x, examples=N, batch_size=2)
    assert math.isnan(still.value)
    assert not still.converged
