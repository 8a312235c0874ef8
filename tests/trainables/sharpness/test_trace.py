"""Trace and Frobenius norm: closed forms, dense references, unbiasedness and the coverage of the standard errors."""

import math
from collections.abc import Callable

import pytest
import torch
from oracles import dense_hessian, random, rotated, softmax_regression, with_hessian
from torch import Tensor

from trainables.sharpness.objective import Objective
from trainables.sharpness.trace import HessianFrobenius, HessianTrace, Method, hessian_frobenius, hessian_trace

Measure = Callable[..., HessianTrace | HessianFrobenius]
MEASURES: dict[int, Measure] = {1: hessian_trace, 2: hessian_frobenius}  # tr(H^power)
METHODS: list[Method] = ["deflated", "hutchinson"]
SEEDS = 120
SPECTRA = {  # of 150 eigenvalues
    "outliers": torch.cat([torch.tensor([50.0, 20, 10, 6, 4, 2]), torch.linspace(0, 0.05, 144)]).double(),
    "even": torch.linspace(0, 1, 150).double(),
    "power law": 1 / torch.arange(1, 151).double(),
    "indefinite": torch.cat([torch.tensor([30.0, -9, 8, 5, -3]), torch.linspace(-0.1, 0.2, 145)]).double(),
}


class WithProduct(Objective):
    """A quadratic of Hessian `matrix` by its products alone, for the tests that need many."""

    def __init__(self, matrix: Tensor, in_float32: Tensor | None = None) -> None:
        super().__init__(lambda params: params.sum())
        self._matrix = matrix
        self.rounded = None if in_float32 is None else WithProduct(in_float32)

    def in_float32(self) -> Objective | None:
        return self.rounded

    def value_and_hessian(self, params: Tensor) -> tuple[float, Callable[[Tensor], Tensor]]:
        def product(vector: Tensor) -> Tensor:
            self.evaluations += 1
            return self._matrix @ vector

        return self.value(params), product


@pytest.mark.parametrize("power", [1, 2])
def test_hutchinson_has_no_variance_on_a_diagonal(power: int) -> None:
    diagonal = random(0, 50)
    loss, x = with_hessian(torch.diag(diagonal))
    result = MEASURES[power](loss, x, samples=3, method="hutchinson")
    expected = float((diagonal**power).sum())
    assert result.value == pytest.approx(expected, rel=1e-12)
    assert result.stderr <= 1e-12 * abs(expected)
    assert (result.converged, result.evaluations) == (True, 5)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_deflation_is_exact_up_to_its_rank(power: int, dtype: torch.dtype) -> None:
    """A Krylov space of 8 dimensions holds 7 distinct eigenvalues and a part of the null space; so does one of 3."""
    for rank in (3, 7):
        eigenvalues = torch.zeros(120, dtype=torch.float64)
        eigenvalues[:rank] = torch.tensor([9.0, -5, 4, 3, 2, 1.5, 1])[:rank]
        result = MEASURES[power](*with_hessian(rotated(eigenvalues).to(dtype)), samples=16)
        rel = 1e3 * torch.finfo(dtype).eps
        assert result.value == pytest.approx(float((eigenvalues**power).sum()), rel=rel)
        assert result.stderr <= rel * result.value
        assert result.converged


def test_deflation_is_exact_on_the_identity() -> None:
    """What is left outside of any basis is the identity again, and the probes are normalized there."""
    result = hessian_trace(*with_hessian(3 * torch.eye(60).double()), samples=10)
    assert result.value == pytest.approx(180, rel=1e-12)
    assert result.stderr <= 1e-12 * 180


@pytest.mark.parametrize("method", METHODS)
def test_few_parameters_are_done_exactly(method: str) -> None:
    matrix = rotated(random(1, 20))
    for measure, expected in ((hessian_trace, matrix.trace()), (hessian_frobenius, (matrix**2).sum())):
        result = measure(*with_hessian(matrix), samples=20, method=method)  # type: ignore[arg-type]
        assert result.value == pytest.approx(float(expected), rel=1e-12)
        assert (result.stderr, result.converged, result.evaluations) == (0.0, True, 22)
    assert hessian_trace(lambda p: (p**2).sum(), torch.ones(1)).value == 2


def test_softmax_regression_at_zero() -> None:
    """tr(H) = (K-1)/K ||X||_F^2 / N; ||H||_F^2 = ||X^T X||_F^2 / N^2 (K-1)/K^2, as H = X^T X / N kron (1/K - 1/K^2)."""
    inputs, labels = random(5, 40, 60), torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(6))
    loss, params = softmax_regression(inputs, labels, 3), torch.zeros(180, dtype=torch.float64)
    trace = float((inputs**2).sum()) / 40 * 2 / 3
    square = float(((inputs.T @ inputs) ** 2).sum()) / 40**2 * 2 / 9
    assert hessian_trace(loss, params, samples=180).value == pytest.approx(trace, rel=1e-12)
    assert hessian_frobenius(loss, params, samples=180).value == pytest.approx(square, rel=1e-12)
    for measure, expected in ((hessian_trace, trace), (hessian_frobenius, square)):
        result = measure(loss, params, samples=120, tol=0.0)
        assert result.evaluations == 122
        assert abs(result.value - expected) <= 4 * result.stderr <= 0.1 * expected
    assert hessian_trace(loss, params, samples=170, tol=0.0).value == pytest.approx(
        trace, rel=1e-10
    )  # rank 80 < 85 probes


def test_network_against_the_dense_hessian() -> None:
    inputs, target, params = random(7, 20, 6), random(8, 20), 0.5 * random(9, 80)

    def loss(p: Tensor) -> Tensor:
        hidden = torch.tanh(inputs @ p[:60].view(6, 10) + p[60:70])
        return ((hidden @ p[70:] - target) ** 2).mean()

    exact = dense_hessian(loss, params)
    for power, expected in ((1, float(exact.trace())), (2, float((exact**2).sum()))):
        for method in METHODS:
            result = MEASURES[power](loss, params, samples=60, method=method, tol=0.0)
            assert abs(result.value - expected) <= 4 * result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("method", "samples"), [("deflated", 24), ("deflated", 48), ("hutchinson", 24)])
def test_unbiased_with_an_honest_standard_error(method: str, samples: int, spectrum: str, power: int) -> None:
    """Over 120 fixed seeds: the mean error is within 4 of its own standard errors; two standard errors hold the truth
    in 95 % of normal cases, +- 4 sqrt(.95 .05 / 120) = 8 %, and a few less where the probes are few and skewed; on
    average the standard error is not too small."""
    eigenvalues = SPECTRA[spectrum]
    objective, x = WithProduct(rotated(eigenvalues)), torch.zeros(150, dtype=torch.float64)
    results = [
        MEASURES[power](objective, x, samples=samples, method=method, tol=0.0, seed=seed) for seed in range(SEEDS)
    ]
    errors = torch.tensor([result.value for result in results]).double() - float((eigenvalues**power).sum())
    stderrs = torch.tensor([result.stderr for result in results]).double()
    assert abs(float(errors.mean())) <= 4 * float(errors.std()) / SEEDS**0.5
    assert float((errors.abs() <= 2 * stderrs).double().mean()) >= 0.85
    assert float((errors**2).mean().sqrt() / (stderrs**2).mean().sqrt()) <= 1.25


def test_deflation_wins_where_few_eigenvalues_are_large() -> None:
    objective, x = WithProduct(rotated(SPECTRA["outliers"])), torch.zeros(150, dtype=torch.float64)
    by_method = {m: hessian_trace(objective, x, samples=40, method=m, tol=0.0) for m in ("deflated", "hutchinson")}
    assert by_method["deflated"].stderr < 0.01 * by_method["hutchinson"].stderr


def test_deflation_spends_little_where_there_is_nothing_to_take_out() -> None:
    """An even spectrum is for probes alone; of ten equal eigenvalues each takes the recurrence two or three steps."""
    n = 1500
    even, equal = torch.linspace(0, 1, n).double(), torch.full((n,), 1e-4).double()
    equal[:10] = 1
    for eigenvalues, most in ((even, 20), (equal, 45)):
        objective, x = WithProduct(torch.diag(eigenvalues)), torch.zeros(n, dtype=torch.float64)
        result = hessian_trace(objective, x, tol=0.02)
        assert result.converged
        assert result.evaluations <= most
        assert abs(result.value - float(eigenvalues.sum())) <= 4 * max(result.stderr, 1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_stops_at_the_tolerance(method: str) -> None:
    objective, x = WithProduct(rotated(SPECTRA["even"])), torch.zeros(150, dtype=torch.float64)
    loose, tight, strict = (
        hessian_trace(objective, x, samples=140, method=method, tol=tol)  # type: ignore[arg-type]
        for tol in (0.1, 0.01, 1e-9)
    )
    assert loose.evaluations < tight.evaluations < strict.evaluations == 142
    assert loose.stderr <= 0.1 * loose.value
    assert tight.stderr <= 0.01 * tight.value
    assert (loose.converged, tight.converged, strict.converged) == (True, True, False)


@pytest.mark.parametrize(("measure", "method"), list(zip(MEASURES.values(), METHODS, strict=True)))
def test_what_float32_leaves_out_is_added(measure: Measure, method: str) -> None:
    """Products 1e-4 too large would make the value as much too large; those that are 10 % off, or NaN, do not count."""
    matrix, x = rotated(SPECTRA["power law"]), torch.ones(150).double()
    shifts = []
    for seed in range(40):
        plain = measure(WithProduct(matrix), x, method=method, tol=0.1, seed=seed)
        objective = WithProduct(matrix, (1 + 1e-4) * matrix)
        found = measure(objective, x, method=method, tol=0.1, seed=seed)
        assert found.evaluations == plain.evaluations + 1 + 2 * 2  # a graph, and two probes of both
        assert objective.rounded is not None
        assert objective.rounded.evaluations == plain.evaluations + 1
        assert found.stderr == pytest.approx(plain.stderr, rel=0.02)
        assert found.converged == plain.converged
        shifts.append(found.value / plain.value - 1)
    mean, error = torch.tensor(shifts).mean(), torch.tensor(shifts).std() / len(shifts) ** 0.5
    assert error < 2e-5
    assert abs(mean) < 3 * error
    for factor in (1.1, math.nan):
        misled = measure(WithProduct(matrix, factor * matrix), x, method=method, tol=0.1, seed=seed)
        assert (misled.value, misled.stderr) == (plain.value, plain.stderr)
    strict = WithProduct(matrix, matrix)
    measure(strict, x, method=method, tol=0.0)
    assert strict.rounded is not None
    assert strict.rounded.evaluations == 0


@pytest.mark.parametrize("measure", MEASURES.values())
@pytest.mark.parametrize("method", METHODS)
def test_linear_loss_has_no_curvature(measure: Measure, method: str) -> None:
    result = measure(lambda p: p.sum(), torch.ones(200).double(), method=method)
    spent = {"deflated": 16, "hutchinson": 22}[method]
    assert (result.value, result.stderr, result.converged, result.evaluations) == (0.0, 0.0, True, spent)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("measure", MEASURES.values())
def test_repetition_and_the_global_generator(measure: Measure, method: str) -> None:
    loss, x = with_hessian(rotated(SPECTRA["power law"]))
    before, state = x.clone(), torch.get_rng_state()
    first = measure(loss, x, samples=30, method=method)
    torch.manual_seed(99)
    assert measure(loss, x, samples=30, method=method) == first
    assert measure(loss, x, samples=30, method=method, seed=1).value != first.value
    torch.set_rng_state(state)
    assert torch.equal(x, before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_float32_agrees(spectrum: str, method: Method) -> None:
    matrix = rotated(SPECTRA[spectrum])
    double, single = (
        hessian_trace(*with_hessian(matrix.to(t)), samples=30, method=method) for t in (torch.float64, torch.float32)
    )
    assert single.value == pytest.approx(double.value, rel=1e-4)
    assert single.stderr == pytest.approx(double.stderr, rel=1e-2)


@pytest.mark.parametrize("size", [3, 200])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("measure", MEASURES.values())
def test_not_finite_is_a_result(measure: Measure, method: str, size: int) -> None:
    """A loss that is infinite, and one whose second derivative is, at a point where it is finite."""
    for loss in (lambda p: p.sum() / 0.0, lambda p: (p**1.5).sum()):
        result = measure(loss, torch.zeros(size).double(), method=method)
        assert math.isnan(result.value)
        assert math.isnan(result.stderr)
        assert not result.converged


@pytest.mark.parametrize("measure", MEASURES.values())
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 3}, "`samples` must be at least 4"),
        ({"samples": 1, "method": "hutchinson"}, "`samples` must be at least 2"),
        ({"method": "hutch++"}, "`method` must be"),
        ({"tol": -1.0}, "`tol` must"),
        ({"tol": math.nan}, "`tol` must"),
    ],
)
def test_bad_arguments(measure: Measure, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(lambda p: (p**2).sum(), torch.ones(300).double(), **arguments)


def test_a_random_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="deterministic"):
        hessian_trace(lambda p: (p * torch.rand(9)).sum(), torch.ones(9))
