"""Extreme eigenvalues: dense references, closed forms, equal eigenvalues, linear losses, bad input."""

import math

import pytest
import torch
from oracles import Scouted, dense_hessian, quadratic, random, rotated, softmax_regression, with_hessian
from torch import Tensor

from trainables.sharpness import hessian_eigenvalues


def symmetric(seed: int, n: int) -> Tensor:
    root = random(seed, n, n)
    return (root + root.T) / 2


@pytest.mark.parametrize("which", ["largest", "smallest"])
@pytest.mark.parametrize("k", [1, 3])
def test_indefinite_quadratic(which: str, k: int) -> None:
    matrix, x = symmetric(0, 60), random(1, 60)
    loss = quadratic(matrix, random(2, 60), x)
    result = hessian_eigenvalues(loss, x, k=k, which=which, tol=1e-8)  # type: ignore[arg-type]
    exact = torch.linalg.eigvalsh(matrix)
    expected = exact.flip(0)[:k] if which == "largest" else exact[:k]
    assert result.converged
    torch.testing.assert_close(result.values, expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(result.vectors @ result.vectors.T, torch.eye(k).double(), rtol=0, atol=1e-10)
    residuals = torch.linalg.vector_norm(result.vectors @ matrix - result.values[:, None] * result.vectors, dim=1)
    torch.testing.assert_close(result.residuals, residuals, rtol=1e-6, atol=1e-12)
    if k > 1:
        assert (residuals <= 1e-8 * result.values.abs()).all()
    else:  # the value has the tolerance, which needs the root of it in the vector: r^2 / gap
        gap = float((exact[-1] - exact[-2]) if which == "largest" else (exact[1] - exact[0]))
        assert float(residuals[0]) ** 2 <= 1e-8 * abs(float(result.values[0])) * gap * 1.01


def test_largest_is_algebraic_not_by_magnitude() -> None:
    matrix = torch.diag(torch.tensor([-100.0, 1.0, 2.0], dtype=torch.float64))
    result = hessian_eigenvalues(
        quadratic(matrix, torch.zeros(3).double(), torch.zeros(3).double()), torch.ones(3).double(), tol=1e-9
    )
    assert float(result.values[0]) == pytest.approx(2.0, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_default_tolerance_bounds_the_error(seed: int) -> None:
    """Of a dense edge, where the next eigenvalue is near, and of an outlier, where the gap allows an earlier end."""
    matrix, x = symmetric(3 + seed, 300), random(4, 300)
    outlier = matrix + 3 * float(torch.linalg.eigvalsh(matrix)[-1]) * torch.outer(x, x) / (x @ x)
    for hessian, steps in ((matrix, 200), (outlier, 12)):
        result = hessian_eigenvalues(quadratic(hessian, x, x), x, seed=seed)
        assert result.converged
        assert result.evaluations <= steps
        assert float(result.values[0]) == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-3)


def test_softmax_regression_at_zero() -> None:
    """At W = 0 the largest eigenvalue is sigma_max(X)^2 / (N K)."""
    inputs, labels = random(5, 40, 6), torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(6))
    loss, params = softmax_regression(inputs, labels, 3), torch.zeros(18, dtype=torch.float64)
    result = hessian_eigenvalues(loss, params, tol=1e-8)
    expected = float(torch.linalg.matrix_norm(inputs, 2)) ** 2 / (40 * 3)
    assert float(result.values[0]) == pytest.approx(expected, rel=1e-10)


def test_network_against_the_dense_hessian() -> None:
    """A small tanh network, neither convex nor quadratic."""
    inputs, target, params = random(7, 20, 3), random(8, 20), random(9, 20)

    def loss(p: Tensor) -> Tensor:
        hidden = torch.tanh(inputs @ p[:12].view(3, 4) + p[12:16])
        return ((hidden @ p[16:] - target) ** 2).mean()

    exact = torch.linalg.eigvalsh(dense_hessian(loss, params))
    top = hessian_eigenvalues(loss, params, k=4, tol=1e-9)
    bottom = hessian_eigenvalues(loss, params, k=2, which="smallest", tol=1e-9)
    torch.testing.assert_close(top.values, exact.flip(0)[:4], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(bottom.values, exact[:2], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_equal_eigenvalues_are_all_found(k: int) -> None:
    matrix = torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0, 1.0], dtype=torch.float64))
    result = hessian_eigenvalues(
        quadratic(matrix, torch.zeros(5).double(), torch.zeros(5).double()), torch.ones(5).double(), k=k
    )
    torch.testing.assert_close(result.values, torch.tensor([4.0, 4.0, 4.0, 1.0, 1.0]).double()[:k])
    assert result.converged


@pytest.mark.parametrize(("k", "dtype"), [(2, torch.float32), (5, torch.float64)])
def test_the_smallest_of_a_positive_definite_hessian(k: int, dtype: torch.dtype) -> None:
    """Deflated, what is known has the eigenvalue 0, smaller than all: what rounding leaves of it must not grow."""
    eigenvalues = torch.linspace(1, 2, 200).double()
    loss, x = with_hessian(rotated(eigenvalues).to(dtype))
    result = hessian_eigenvalues(loss, x, k=k, which="smallest")
    assert result.converged
    torch.testing.assert_close(result.values, eigenvalues[:k], rtol=1e-3, atol=0)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_equal_eigenvalues_of_softmax_regression(classes: int) -> None:
    """At W = 0 every eigenvalue comes classes - 1 times: sigma_i(X)^2 / (N K), as in the closed form above."""
    inputs = random(15, 40, 6)
    labels = torch.randint(0, classes, (40,), generator=torch.Generator().manual_seed(16))
    params = torch.zeros(6 * classes, dtype=torch.float64)
    result = hessian_eigenvalues(softmax_regression(inputs, labels, classes), params, k=5, tol=1e-7)
    singular = torch.linalg.svdvals(inputs) ** 2 / (40 * classes)
    torch.testing.assert_close(result.values, singular.repeat_interleave(classes - 1)[:5], rtol=1e-8, atol=0)
    torch.testing.assert_close(result.vectors @ result.vectors.T, torch.eye(5).double(), rtol=0, atol=1e-8)
    assert result.converged


def test_linear_loss_has_no_curvature() -> None:
    result = hessian_eigenvalues(lambda p: p.sum(), torch.ones(7).double(), k=2)
    assert result.values.tolist() == [0.0, 0.0]
    assert result.converged


def test_too_few_iterations_are_admitted() -> None:
    result = hessian_eigenvalues(
        quadratic(symmetric(10, 200), random(11, 200), random(12, 200)),
        random(12, 200),
        tol=1e-10,
        max_iterations=5,
    )
    assert not result.converged


def test_float32_and_repetition() -> None:
    matrix, x = symmetric(13, 80).float(), random(14, 80).float()
    loss = quadratic(matrix, torch.zeros(80), x)
    first, second = hessian_eigenvalues(loss, x), hessian_eigenvalues(loss, x)
    assert float(first.values[0]) == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-4)
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.vectors, second.vectors)


@pytest.mark.parametrize(("k", "which"), [(3, "largest"), (1, "smallest")])
@pytest.mark.parametrize("error", [0.0, 1e-5, 0.3, math.nan])
def test_the_search_in_float32_is_measured_in_float64(k: int, which: str, error: float) -> None:
    """The search may be led by another Hessian; values and residuals are of this one, and as small as they must be."""
    matrix, x = symmetric(15, 60), random(16, 60)
    loss, scout = (quadratic(hessian, x, x) for hessian in (matrix, matrix + error * symmetric(17, 60)))
    objective = Scouted(loss, scout)
    result = hessian_eigenvalues(objective, x, k=k, which=which)  # type: ignore[arg-type]
    exact = torch.linalg.eigvalsh(matrix)
    expected = exact.flip(0)[:k] if which == "largest" else exact[:k]
    assert result.converged
    torch.testing.assert_close(result.values, expected, rtol=1e-3, atol=0)
    residuals = torch.linalg.vector_norm(result.vectors @ matrix - result.values[:, None] * result.vectors, dim=1)
    torch.testing.assert_close(result.residuals, residuals, rtol=1e-6, atol=1e-12)
    own = result.evaluations - objective.scout.evaluations
    assert own == 2 + k if error < 0.1 else own > 10
    strict = Scouted(loss, scout)
    assert hessian_eigenvalues(strict, x, k=k, which=which, tol=1e-6).converged  # type: ignore[arg-type]
    assert strict.scout.evaluations == 0


def test_infinite_loss_is_a_result() -> None:
    result = hessian_eigenvalues(lambda p: p.sum() / 0.0, torch.ones(3).double())
    assert math.isnan(float(result.values[0]))
    assert not result.converged


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "`k` must"),
        ({"k": 4}, "`k` must"),
        ({"which": "top"}, "`which` must"),
        ({"tol": 0.0}, "`tol` must"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hessian_eigenvalues(lambda p: (p**2).sum(), torch.ones(3).double(), **arguments)  # type: ignore[arg-type]
