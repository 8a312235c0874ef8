"""Spectral density: exact nodes and weights, moments, dense references, broadening, ends that have not settled."""

import math
from collections.abc import Callable

import pytest
import torch
from oracles import dense_hessian, random, rotated, softmax_regression, with_hessian
from torch import Tensor

from trainables.sharpness.solvers.lanczos import random_unit
from trainables.sharpness.spectrum import spectral_density


def share_above_two(nodes: Tensor) -> Tensor:
    return (nodes > 2).double()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_two_eigenvalues(dtype: torch.dtype) -> None:
    """One of each is found in 2 steps. A probe sees the other 98: 5 with a weight of 29 / 98 on average, whose variance
    is that of a Beta distribution, 2 s (1 - s) / 100, times (98 / 100)^2."""
    eigenvalues = torch.tensor([5.0] * 30 + [-1.0] * 70).double()
    result = spectral_density(*with_hessian(rotated(eigenvalues).to(dtype)), samples=50)
    torch.testing.assert_close(
        result.nodes, torch.tensor([-1.0, 5.0] * 100).double(), rtol=1e2 * torch.finfo(dtype).eps, atol=0
    )
    assert result.probes.tolist() == sorted(4 * list(range(50)))
    torch.testing.assert_close(result.weights.view(50, 4)[:, :2], torch.full((50, 2), 0.01 / 50).double())
    share, stderr = result.mean(share_above_two)
    seen = (share - 0.01) / 0.98  # of what the probes see
    assert stderr == pytest.approx(0.98 * (2 * seen * (1 - seen) / 100 / 50) ** 0.5, rel=1e-4)
    assert stderr == pytest.approx(0.98 * (2 * (29 / 98) * (69 / 98) / 100 / 50) ** 0.5, rel=0.05)
    assert abs(share - 0.3) <= 4 * stderr
    assert (result.evaluations, result.converged) == (2 + 51 * 2, True)


def test_all_eigenvalues_found() -> None:
    eigenvalues = torch.linspace(-2, 3, 12).double()
    result = spectral_density(*with_hessian(rotated(eigenvalues)), samples=3, steps=100)
    torch.testing.assert_close(result.nodes, eigenvalues.repeat(3), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.weights, torch.full((36,), 1 / 36).double())
    assert (result.evaluations, result.converged) == (14, True)
    share, stderr = result.mean(share_above_two)
    assert share == pytest.approx(3 / 12)
    assert stderr == pytest.approx(0, abs=1e-15)


def test_eigenvalues_far_out_have_their_weight() -> None:
    """5 of 200, of which recurrences without them, 20 steps each, are left with the even rest."""
    outside = [-8.0, 9, 12, 20, 50]
    eigenvalues = torch.cat([torch.linspace(-1, 1, 195), torch.tensor(outside)]).double()
    result = spectral_density(*with_hessian(rotated(eigenvalues)), samples=4, steps=20)
    far = result.nodes.abs() > 1.1
    torch.testing.assert_close(result.nodes[far], torch.tensor(outside * 4).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(result.weights[far], torch.full((20,), 1 / 800).double())
    value, stderr = result.mean(torch.abs)
    assert abs(value - float(eigenvalues.abs().mean())) <= 4 * stderr
    assert stderr < 0.02  # without the first recurrence 0.3: 50 with a weight of chi^2 / 200 in each probe


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nothing_at_zero_where_no_eigenvalue_is(dtype: torch.dtype) -> None:
    """In their complement the eigenvectors found first have the eigenvalue 0, which here lies outside of the rest."""
    eigenvalues = torch.cat([torch.linspace(1, 1.5, 395), torch.tensor([8.0, 9, 12, 20, 50])]).double()
    result = spectral_density(*with_hessian(rotated(eigenvalues).to(dtype)))
    assert float(result.nodes.min()) > 1 - 1e-5
    value, stderr = result.mean(torch.log)
    assert abs(value - float(eigenvalues.log().mean())) <= 4 * stderr


def test_a_probe_sees_its_moments_exactly() -> None:
    """The Gauss quadrature of 6 nodes has v^T H^p v for p up to 11."""
    matrix = rotated(random(3, 80))
    result = spectral_density(*with_hessian(matrix), samples=1, steps=6)
    generator = torch.Generator().manual_seed(0)
    random_unit(matrix[:0], generator)  # the start of the first recurrence, which finds nothing in 6 steps
    moment = start = random_unit(matrix[:0], generator)
    for power in range(12):
        value, stderr = result.mean(lambda nodes, power=power: nodes**power)  # type: ignore[misc]
        scale = float(torch.linalg.vector_norm(moment))
        assert value == pytest.approx(float(start @ moment), abs=1e-11 * scale)
        assert stderr > 0 or power == 0
        moment = matrix @ moment


@pytest.mark.parametrize("spectrum", ["indefinite", "outliers"])
def test_moments_are_the_trace_and_the_frobenius_norm(spectrum: str) -> None:
    bulk = torch.linspace(-1, 1, 195).double()
    ends = [-8.0, 9, 12, 20, 50] if spectrum == "outliers" else [0.0] * 5
    eigenvalues = torch.cat([bulk, torch.tensor(ends).double()])
    result = spectral_density(*with_hessian(rotated(eigenvalues)), samples=40, steps=20)
    for power in (1, 2):
        value, stderr = result.mean(lambda nodes, power=power: nodes**power)  # type: ignore[misc]
        assert abs(value - float((eigenvalues**power).mean())) <= 4 * stderr


@pytest.mark.slow
def test_the_standard_error_covers() -> None:
    """Two standard errors of two probes hold the truth in 95.4 % of the runs, of 60 in 51 at least (4 binomial errors).

    With the spread of the two probes in their place it would be 70 %. Of the evidence's function and of the bulk's.
    """
    spectra = {
        "1 / i": 1 / torch.arange(1, 201).double(),
        "30 equal": torch.cat([torch.full((30,), 5.0), torch.full((170,), 1e-3)]).double(),
    }
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda t: torch.log1p(300 * t.clamp(min=0)),
        lambda t: torch.exp(-t * t),
    ]
    for eigenvalues in spectra.values():
        loss, x = with_hessian(torch.diag(eigenvalues))
        found = [spectral_density(loss, x, samples=2, steps=20, seed=seed) for seed in range(60)]
        for function in functions:
            truth = float(function(eigenvalues).mean())
            scores = torch.tensor([(value - truth) / error for value, error in (d.mean(function) for d in found)])
            assert int((scores.abs() <= 2).sum()) >= 51
            assert float(scores.square().mean().sqrt()) > 0.7  # nor is it too large


def test_small_networks_are_exact() -> None:
    """Up to 180 parameters n products find all eigenvalues, for no more than two probes would cost."""
    eigenvalues = 1 / torch.arange(1, 161).double()
    result = spectral_density(*with_hessian(rotated(eigenvalues)))
    assert result.evaluations == 160 + 2
    value, stderr = result.mean(lambda t: torch.log1p(300 * t.clamp(min=0)))
    assert value == pytest.approx(float(torch.log1p(300 * eigenvalues).mean()), rel=1e-9)
    assert stderr == 0


def test_softmax_regression_at_zero() -> None:
    """H = X^T X / N kron (1/K - 1/K^2): its eigenvalues are sigma^2 / (N K), each twice, and six times 0."""
    inputs, labels = random(5, 40, 6), torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(6))
    loss, params = softmax_regression(inputs, labels, 3), torch.zeros(18, dtype=torch.float64)
    result = spectral_density(loss, params)
    expected = torch.cat([torch.zeros(1).double(), torch.linalg.svdvals(inputs).flip(0) ** 2 / (40 * 3)])
    near = (result.nodes[:, None] - expected).abs() < 1e-9
    assert (near.sum(1) == 1).all()
    weights = (near * result.weights[:, None]).sum(0)
    torch.testing.assert_close(weights, torch.tensor([6.0] + [2.0] * 6).double() / 18, rtol=1e-9, atol=0)
    assert result.converged


def test_network_against_the_dense_hessian() -> None:
    """The broadened density of many probes is that of the true eigenvalues, within the sampling error."""
    inputs, target, params = random(7, 20, 3), random(8, 20), random(9, 20)

    def loss(p: Tensor) -> Tensor:
        hidden = torch.tanh(inputs @ p[:12].view(3, 4) + p[12:16])
        return ((hidden @ p[16:] - target) ** 2).mean()

    exact = torch.linalg.eigvalsh(dense_hessian(loss, params))
    result = spectral_density(loss, params, samples=200, steps=20)
    grid, width = torch.linspace(float(exact[0]) - 1, float(exact[-1]) + 1, 200).double(), 0.3

    def gaussian(offsets: Tensor) -> Tensor:
        return torch.exp(-((offsets / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi))

    expected = gaussian(grid[:, None] - exact).mean(1)
    for point, value in zip(grid, expected, strict=True):
        estimate, stderr = result.mean(lambda t, point=point: gaussian(t - point))  # type: ignore[misc]
        assert float(result.density(point, width)) == pytest.approx(estimate, rel=1e-10, abs=1e-300)
        assert abs(estimate - float(value)) <= 4.5 * stderr + 1e-12
    integral = float(torch.trapezoid(result.density(grid, width), grid))
    assert integral == pytest.approx(1, abs=2e-3)  # 1 / 0.3 = 3.3 standard deviations beyond either end


def test_linear_loss_is_one_node_at_zero() -> None:
    """The first recurrence finds it once; each of the probes sees the other six."""
    result = spectral_density(lambda p: p.sum(), torch.ones(7).double(), samples=2)
    assert result.nodes.tolist() == [0.0] * 4
    torch.testing.assert_close(result.weights, torch.tensor([1.0, 6, 1, 6]).double() / 14)
    assert (result.evaluations, result.converged) == (2 + 3, True)


def test_too_few_steps_are_admitted() -> None:
    loss, x = with_hessian(rotated(torch.linspace(0, 1, 200).double()))
    assert not spectral_density(loss, x, steps=5).converged
    assert spectral_density(loss, x, steps=60).converged


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_ghosts(dtype: torch.dtype) -> None:
    """Without reorthogonalization the large eigenvalue comes back; its weight would still be right, its count not."""
    eigenvalues = torch.cat([torch.linspace(0, 1, 199), torch.tensor([1e3])]).double()
    result = spectral_density(*with_hessian(rotated(eigenvalues).to(dtype)), samples=2, steps=100)
    assert int((result.nodes > 2).sum()) == 2
    assert float(result.weights.sum()) == pytest.approx(1, rel=1e-12)


def test_repetition_and_the_global_generator() -> None:
    loss, x = with_hessian(rotated(random(13, 80)))
    before, state = x.clone(), torch.get_rng_state()
    first = spectral_density(loss, x, steps=10)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    second, other = spectral_density(loss, x, steps=10), spectral_density(loss, x, steps=10, seed=1)
    assert torch.equal(first.nodes, second.nodes)
    assert torch.equal(first.weights, second.weights)
    assert not torch.equal(first.nodes, other.nodes)
    assert torch.equal(x, before)


def test_not_finite_is_a_result() -> None:
    """A loss that is infinite, and one whose second derivative is, at a point where it is finite."""
    for loss in (lambda p: p.sum() / 0.0, lambda p: (p**1.5).sum()):
        result = spectral_density(loss, torch.zeros(9).double())
        assert torch.isnan(result.nodes).all()
        assert torch.isnan(result.weights).all()
        assert all(math.isnan(number) for number in result.mean(torch.abs))
        assert not result.converged


@pytest.mark.parametrize(("arguments", "message"), [({"steps": 0}, "`steps` must"), ({"samples": 0}, "`samples` must")])
def test_bad_arguments(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spectral_density(lambda p: (p**2).sum(), torch.ones(3).double(), **arguments)


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan])
def test_bad_width(width: float) -> None:
    result = spectral_density(lambda p: (p**2).sum(), torch.ones(3).double())
    with pytest.raises(ValueError, match="`width` must"):
        result.density(torch.zeros(1), width)
