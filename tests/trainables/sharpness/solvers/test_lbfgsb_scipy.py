"""L-BFGS-B beside SciPy's, point by point, and the model of every iteration beside a dense one.

Tolerances: both codes round at 1e-16, and the path amplifies that, by up to 1e6 where there is one pair and a
curved valley: 1e-8 on the points leaves a factor of 100. Counts are compared where the search stops well
above rounding; below it the last digit of f decides them.
"""

import math

import pytest
import torch
from box_problems import (
    Problem,
    at_a_bound,
    by_autograd,
    convex,
    generator,
    indefinite,
    logistic_regression,
    outside_the_box,
    rosenbrock,
    run,
    tanh_network,
    uniform,
    with_fixed_variables,
)
from oracles import random
from scipy.optimize import Bounds, OptimizeResult, minimize
from torch import Tensor

from trainables.sharpness.solvers import lbfgsb, limited_memory
from trainables.sharpness.solvers.lbfgsb import BoxMinimum


def run_scipy(
    problem: Problem, iterations: int, memory: int, value: float, gradient: float, limit: int
) -> tuple[OptimizeResult, list[Tensor]]:
    function, start, lower, upper = problem
    points = []

    def recorded(x: object) -> tuple[float, object]:
        point = torch.tensor(x)
        points.append(point)
        f, g = function(point)
        return f, g.numpy()

    options = {"maxiter": iterations, "maxcor": memory, "ftol": value, "gtol": gradient, "maxls": limit}
    bounds = Bounds(lower.numpy(), upper.numpy())
    return minimize(recorded, start.numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options=options), points


def assert_like_scipy(
    problem: Problem, iterations: int, memory: int, value: float, gradient: float, limit: int = 20
) -> BoxMinimum:
    theirs, their_points = run_scipy(problem, iterations, memory, value, gradient, limit)
    ours, points, values = run(
        problem,
        iterations=iterations,
        memory=memory,
        value_tolerance=value,
        gradient_tolerance=gradient,
        line_search_limit=limit,
    )
    assert (ours.evaluations, ours.iterations) == (theirs.nfev, theirs.nit)
    assert ours.converged == theirs.success
    torch.testing.assert_close(torch.stack(points), torch.stack(their_points), rtol=0, atol=1e-8)
    assert ours.value == min(values)
    assert torch.equal(ours.point, points[values.index(ours.value)])
    _, _, lower, upper = problem
    assert all(((lower <= point) & (point <= upper)).all() for point in points)
    return ours


PROBLEMS = {
    "convex quadratic, n = 3": lambda: convex(0, 3),
    "convex quadratic, n = 50": lambda: convex(4, 50),
    "convex quadratic, n = 300": lambda: convex(8, 300),
    "indefinite quadratic": lambda: indefinite(0, 50),
    "Rosenbrock, n = 5": lambda: rosenbrock(5),
    "Rosenbrock, n = 20": lambda: rosenbrock(20),
    "tanh network": lambda: tanh_network(1.0, 0.5),
    "tanh network, maximum at vertices": lambda: tanh_network(-1.0, 0.1),
    "tanh network, maximum": lambda: tanh_network(-1.0, 0.5),
    "logistic regression": logistic_regression,
    "start at bounds": at_a_bound,
    "fixed variables": with_fixed_variables,
    "start outside": outside_the_box,
}


CASES = [(name, 10, 1 << 16) for name in PROBLEMS]
CASES += [(name, 10, 3) for name in ("convex quadratic, n = 50", "indefinite quadratic", "start at bounds")]
CASES += [(name, memory, 1 << 16) for name in ("convex quadratic, n = 50", "Rosenbrock, n = 5") for memory in (3, 1)]


@pytest.mark.parametrize(("name", "memory", "at_once"), CASES)
def test_points_are_scipys(name: str, memory: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited_memory, "AT_ONCE", at_once)
    ours = assert_like_scipy(PROBLEMS[name](), 100, memory, 1e-10, 1e-6)
    assert ours.iterations > 1


@pytest.mark.parametrize("name", PROBLEMS)
def test_points_are_scipys_for_ten_iterations_without_tolerances(name: str) -> None:
    assert_like_scipy(PROBLEMS[name](), 3 if name == "convex quadratic, n = 3" else 10, 10, 0.0, 0.0)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_failed_line_searches_drop_the_pairs_as_in_scipy(limit: int) -> None:
    function = by_autograd(lambda x: (torch.sin(9 * x) + x**2 / 2).sum() + torch.cos(4 * x.sum()))
    bound = torch.full((6,), 2.0).double()
    assert_like_scipy((function, random(40, 6) / 2, -bound, bound), 30, 5, 1e-10, 1e-6, limit)


# Waves lead the line search through all of its cases. In these seeds SciPy never has an iteration without
# free variables, after which its model is another.
WAVES = [(1, seed) for seed in (0, 14, 31, 58, 62, 79, 89, 110, 123, 133, 144)]
WAVES += [(3, seed) for seed in (2, 3, 5, 56, 66, 94, 102, 122, 123, 130, 141)]


@pytest.mark.parametrize(("n", "seed"), WAVES)
def test_points_are_scipys_among_waves(n: int, seed: int) -> None:
    heights, numbers, phases = (
        random(seed, n, 4),
        18 * uniform(seed + 1000, n, 4),
        6 * uniform(seed + 2000, n, 4),
    )
    function = by_autograd(lambda x: (heights * torch.sin(numbers * x[:, None] + phases)).sum() + 0.1 * x @ x)
    bound = torch.full((n,), 3.0).double()
    assert_like_scipy((function, random(seed + 3000, n), -bound, bound), 100, 10, 1e-10, 1e-6)


@pytest.mark.parametrize("seed", range(60, 70))
def test_points_are_scipys_on_random_quadratics(seed: int) -> None:
    n, memory = (int(torch.randint(1, top, (), generator=generator(seed))) for top in (80, 14))
    assert_like_scipy(convex(seed, n), 50, memory, 1e-10, 1e-6)


def dense_target(search: lbfgsb._Search) -> Tensor:
    """Where the model is least: dense BFGS updates, one breakpoint at a time, a dense Newton step."""
    x, gradient = search.here.point, search.here.gradient
    lower, upper, pairs = search._lower, search._upper, search._pairs
    hessian = pairs.theta * torch.eye(len(x), dtype=torch.float64)
    for slot in pairs._slots:
        y, s = pairs.rows[2 * slot : 2 * slot + 2]
        product = hessian @ s
        hessian += torch.outer(y, y) / (s @ y) - torch.outer(product, product) / (s @ product)
    bound = torch.where(gradient < 0, upper, lower)
    times = torch.where(gradient == 0, math.inf, (x - bound) / gradient)
    held = (times == 0) | ((gradient == 0) & ((x == lower) | (x == upper)))
    way, time = torch.zeros_like(x), 0.0
    while (~held & (gradient != 0)).any():
        direction = torch.where(held, 0.0, -gradient)
        slope, curvature = gradient @ direction + direction @ hessian @ way, direction @ hessian @ direction
        following = times[~held].min()
        ahead = max(0.0, float(-slope / curvature))
        if ahead < following - time:
            way += ahead * direction
            break
        way += (following - time) * direction
        held, time = held | (times == following), float(following)
    way = torch.where(held, bound - x, way)
    free = ~held
    if pairs.count == 0 or not free.any():
        return x + way
    newton = torch.zeros_like(x)
    reduced = (gradient + hessian @ way)[free]
    newton[free] = -torch.linalg.solve(hessian[free][:, free], reduced)
    target = (x + way + newton).clamp(lower, upper)
    if gradient @ (target - x) > 0:
        room = torch.where(newton > 0, upper, lower) - x - way
        part = torch.where(newton == 0, math.inf, room / newton).min()
        target = (x + way + min(1.0, float(part)) * newton).clamp(lower, upper)
    return target


@pytest.mark.parametrize(("seed", "at_once"), [(seed, 1 << 16 if seed % 4 < 2 else 4) for seed in range(100, 116)])
def test_every_model_is_minimized(seed: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited_memory, "AT_ONCE", at_once)
    n, memory = (int(torch.randint(1, top, (), generator=generator(seed))) for top in (50, 12))
    aim, checked = lbfgsb._Search._aim, []

    def checked_aim(search: lbfgsb._Search) -> float:
        slope = aim(search)
        expected = dense_target(search)
        torch.testing.assert_close(search._target, expected, rtol=0, atol=1e-8)
        assert slope == pytest.approx(float(search.here.gradient @ (search._target - search.here.point)))
        checked.append(search._pairs.count)
        return slope

    monkeypatch.setattr(lbfgsb._Search, "_aim", checked_aim)
    problem = indefinite(seed, n) if seed % 2 else convex(seed, n)
    result, points, values = run(problem, iterations=25, memory=memory, gradient_tolerance=1e-6)
    assert len(checked) >= result.iterations
    assert result.value == min(values)
    assert all(((problem[2] <= point) & (point <= problem[3])).all() for point in points)
