"""Box sharpness: closed forms at any gradient, brute force over corners, the two methods' order, bad input."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from oracles import Scouted, best_gain_of_corners, half_widths, quadratic, random, separable_gain
from torch import Tensor

from trainables.sharpness import box_sharpness, box_sharpness_grid
from trainables.sharpness.objective import Objective

EPSILONS = [1e-3, 5e-4]


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("gradient_scale", [0.0, 1e-8, 1e-3, 1.0])
def test_separable_quadratic(epsilon: float, gradient_scale: float) -> None:
    x, g, h = random(0, 50), gradient_scale * random(1, 50), random(2, 50).abs()
    result = box_sharpness(quadratic(torch.diag(h), g, x, offset=0.25), x, epsilon=epsilon)
    expected = separable_gain(h, g, half_widths(x, epsilon))
    assert result.value == pytest.approx(100 * expected / 1.25, rel=1e-9)
    assert result.loss_center == 0.25
    assert result.loss_max == pytest.approx(0.25 + expected, rel=1e-12)
    assert result.converged


@pytest.mark.parametrize("method", ["paper", "strong"])
def test_linear_loss(method: str) -> None:
    x, g = random(3, 40), random(4, 40)
    result = box_sharpness(lambda p: g @ (p - x), x, epsilon=1e-3, method=method)  # type: ignore[arg-type]
    bound = float((g.abs() * half_widths(x, 1e-3)).sum())
    if method == "strong":
        assert result.value == pytest.approx(100 * bound, rel=1e-9)
    else:
        assert 0 < result.value <= 100 * bound * (1 + 1e-12)


def test_the_box_is_wider_where_weights_are_larger() -> None:
    """b_i = epsilon (|x_i| + 1), by a loss that sees one coordinate at a time."""
    x = torch.tensor([0.0, 3.0, -7.0], dtype=torch.float64)

    def along(index: int) -> Callable[[Tensor], Tensor]:
        return lambda p: p[index] - x[index]

    for index, width in enumerate((1e-3, 4e-3, 8e-3)):
        result = box_sharpness(along(index), x, epsilon=1e-3)
        assert result.value == pytest.approx(100 * width, rel=1e-9)


def test_concave_at_its_top_has_no_gain() -> None:
    x = random(5, 10)
    result = box_sharpness(quadratic(-torch.eye(10, dtype=torch.float64), torch.zeros(10).double(), x), x)
    assert result.value == 0
    assert result.converged


def test_interior_maximum() -> None:
    """One coordinate: g y - h y^2 / 2 has its maximum g^2 / (2 h) inside the box."""
    x = torch.zeros(1, dtype=torch.float64)
    g, h = torch.tensor([1e-4], dtype=torch.float64), torch.tensor([[-1.0]], dtype=torch.float64)
    result = box_sharpness(quadratic(h, g, x), x, epsilon=1e-3)
    assert result.value == pytest.approx(100 * 1e-8 / 2, rel=1e-6)


@pytest.mark.parametrize("n", [1, 6, 12])
@pytest.mark.parametrize("indefinite", [False, True])
@pytest.mark.parametrize("gradient_scale", [0.0, 1e-3, 1.0])
def test_strong_reaches_the_best_corner(n: int, indefinite: bool, gradient_scale: float) -> None:
    """Dense quadratics, all 2^n corners tried: at least 95 % of the gain; where f is convex, never above it."""
    root, x = random(0, n, n), random(100, n)
    hessian = (root + root.T) / 2 if indefinite else root @ root.T
    gradient, widths = gradient_scale * random(200, n), half_widths(x, 1e-2)
    result = box_sharpness(quadratic(hessian, gradient, x), x, epsilon=1e-2)
    best = 100 * max(0.0, best_gain_of_corners(hessian, gradient, widths))
    assert 0.95 * best <= result.value
    if not indefinite:
        assert result.value <= best * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_paper_is_never_above_strong(seed: int) -> None:
    root, x = random(seed, 30, 30), random(50 + seed, 30)
    loss = quadratic(root + root.T, 1e-4 * random(70 + seed, 30), x, offset=1.0)
    both = box_sharpness_grid(loss, x, epsilons=(1e-3,))
    paper, strong = both[1e-3, "paper"], both[1e-3, "strong"]
    assert 0 <= paper.value <= strong.value
    assert box_sharpness(loss, x, method="paper") == paper
    alone = box_sharpness(loss, x, method="strong")
    assert alone == replace(strong, evaluations=paper.evaluations + strong.evaluations)


@pytest.mark.parametrize("subspace", [None, random(99, 30, 5)])
def test_several_epsilons_share_their_work(subspace: Tensor | None) -> None:
    """The first box is searched as alone; `paper` is the same in every one; the others cost less, and find as much."""
    root, x = random(3, 30, 30), random(4, 30)
    objective = Objective(quadratic(root @ root.T, 1e-3 * random(5, 30), x))
    epsilons = (1e-3, 5e-4, 2e-3)
    grid = box_sharpness_grid(objective, x, epsilons=epsilons, subspace=subspace)
    assert sum(one.evaluations for one in grid.values()) == objective.evaluations
    for epsilon in epsilons:
        alone = {
            m: box_sharpness(objective, x, epsilon=epsilon, method=m, subspace=subspace) for m in ("paper", "strong")
        }
        assert grid[epsilon, "paper"].value == alone["paper"].value
        assert grid[epsilon, "strong"].value >= 0.99 * alone["strong"].value
        assert grid[epsilon, "strong"].value >= grid[epsilon, "paper"].value
    assert grid[1e-3, "strong"].value == box_sharpness(objective, x, subspace=subspace).value
    assert grid[5e-4, "strong"].evaluations < grid[1e-3, "strong"].evaluations


def test_subspace_of_unit_columns() -> None:
    """A that picks coordinates: A+ x are the picked ones, and only they move."""
    x, g, h = random(6, 20), random(7, 20), random(8, 20).abs()
    picked = torch.tensor([2, 5, 11])
    subspace = torch.eye(20, dtype=torch.float64)[:, picked]
    result = box_sharpness(quadratic(torch.diag(h), g, x), x, subspace=subspace)
    expected = separable_gain(h[picked], g[picked], half_widths(x[picked], 1e-3))
    assert result.value == pytest.approx(100 * expected, rel=1e-9)


def test_subspace_bounds_use_the_pseudo_inverse() -> None:
    """One scaled column a = 2 e_1: A+ x = x_1 / 2, so the reach in x_1 is 2 epsilon (|x_1| / 2 + 1)."""
    x = torch.tensor([6.0, 1.0], dtype=torch.float64)
    subspace = torch.tensor([[2.0], [0.0]], dtype=torch.float64)
    result = box_sharpness(lambda p: p[0] - x[0], x, subspace=subspace, epsilon=1e-3)
    assert result.value == pytest.approx(100 * 2e-3 * 4, rel=1e-9)


def test_repeated_calls_agree_and_leave_the_global_random_state() -> None:
    root, x = random(9, 30, 30), random(10, 30)
    loss = quadratic(root + root.T, torch.zeros(30).double(), x)
    state = torch.get_rng_state()
    assert box_sharpness(loss, x) == box_sharpness(loss, x)
    assert torch.equal(state, torch.get_rng_state())


def test_evaluations_are_counted() -> None:
    calls = 0
    x = random(11, 5)

    def loss(p: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return (p**2).sum()

    assert box_sharpness(loss, x).evaluations == calls
    objective = Objective(loss)
    assert box_sharpness(objective, x).evaluations == objective.evaluations


def test_infinite_center_is_a_result() -> None:
    result = box_sharpness(lambda p: p.sum() / 0.0, torch.ones(3).double())
    assert math.isnan(result.value)
    assert not result.converged


def test_points_that_are_not_finite_are_passed_over() -> None:
    """A wall of infinity on one side: the best finite point counts."""
    x = torch.zeros(2, dtype=torch.float64)
    result = box_sharpness(lambda p: torch.where(p[0] > 5e-4, torch.inf, 1.0) * p.sum().abs() + p[1], x)
    assert math.isfinite(result.value)
    assert result.value > 0


@pytest.mark.parametrize("factor", [1.0, 1.001, 0.5, math.nan])
def test_the_search_in_float32_is_measured_in_float64(factor: float) -> None:
    """The gain is that of the loss itself, and where its float32 form tells another one, all of its own search's."""
    root, x = random(0, 40, 40), random(1, 40)
    loss = quadratic(root @ root.T, 1e-3 * random(2, 40), x)
    plain, objective = box_sharpness(loss, x), Scouted(loss, lambda p: factor * loss(p))
    result = box_sharpness(objective, x)
    assert result.value == plain.value if factor == 1.0 else result.value == pytest.approx(plain.value, rel=0.01)
    assert result.converged
    if abs(factor - 1) < 0.01:  # the centre, L-BFGS-B of the paper, and the best point
        assert result.evaluations - objective.scout.evaluations <= 15
    else:
        assert result.evaluations > plain.evaluations
    assert objective.scout.evaluations > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0.0}, "`epsilon` must be a number above 0"),
        ({"epsilon": math.nan}, "`epsilon` must be a number above 0"),
        ({"method": "weak"}, "`method` must be 'paper' or 'strong'"),
        ({"subspace": torch.ones(3, 2)}, r"`subspace` must have shape \(4, p\)"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        box_sharpness(lambda p: p.sum(), torch.ones(4).double(), **arguments)  # type: ignore[arg-type]


def test_bad_losses() -> None:
    x = torch.ones(4).double()
    with pytest.raises(ValueError, match="must be deterministic"):
        box_sharpness(lambda p: (p * torch.rand(4)).sum(), x)
    with pytest.raises(ValueError, match="differentiable"):
        box_sharpness(lambda p: torch.ones(()), x)
    with pytest.raises(ValueError, match="scalar"):
        box_sharpness(lambda p: p, x)
    with pytest.raises(ValueError, match="floating point"):
        box_sharpness(lambda p: p.sum(), torch.ones(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="flat vector"):
        box_sharpness(lambda p: p.sum(), torch.ones(2, 2).double())
