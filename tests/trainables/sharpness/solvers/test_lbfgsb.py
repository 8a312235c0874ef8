"""L-BFGS-B alone: closed forms, limits, bad values, bad arguments."""

import math

import pytest
import torch
from box_problems import convex, quadratic, rosenbrock, run, uniform
from oracles import random
from torch import Tensor

from trainables.sharpness.solvers import limited_memory
from trainables.sharpness.solvers.lbfgsb import minimize_in_box
from trainables.sharpness.solvers.line_search import Sample, wolfe_step


def test_separable_quadratic_is_solved_by_clipping() -> None:
    curvatures, linear = 0.1 + uniform(0, 200), random(1, 200)
    lower, upper = -uniform(2, 200), uniform(3, 200)
    result = minimize_in_box(
        quadratic(torch.diag(curvatures), linear),
        torch.zeros(200).double(),
        lower,
        upper,
        iterations=100,
        gradient_tolerance=1e-6,
    )
    expected = (linear / curvatures).clamp(lower, upper)
    assert result.converged
    torch.testing.assert_close(result.point, expected, rtol=0, atol=1e-6 / 0.1)
    held = (expected == lower) | (expected == upper)
    assert held.any()
    assert torch.equal(result.point[held], expected[held])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_linear_function_ends_exactly_in_the_vertex(scale: float) -> None:
    slope, lower, upper = scale * random(0, 50), -uniform(1, 50), uniform(2, 50)
    start = torch.zeros(50).double()
    result = minimize_in_box(lambda x: (float(slope @ x), slope), start, lower, upper, iterations=60)
    assert result.message == "projected gradient within gradient_tolerance"
    assert torch.equal(result.point, torch.where(slope > 0, lower, upper))


def test_indefinite_pairs_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    inverse, calls = limited_memory.Pairs._saddle_inverse, []

    def failing(pairs: limited_memory.Pairs, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        calls.append(pairs.count)
        return inverse(pairs, -a if len(calls) in (3, 4, 8) else a, b, c)

    expected, _, _ = run(convex(4, 50), iterations=100, gradient_tolerance=1e-6)
    monkeypatch.setattr(limited_memory.Pairs, "_saddle_inverse", failing)
    result, _, _ = run(convex(4, 50), iterations=100, gradient_tolerance=1e-6)
    assert calls[:10] == [1, 1, 2, 1, 1, 1, 2, 2, 1, 1]
    assert result.converged
    torch.testing.assert_close(result.point, expected.point, rtol=0, atol=1e-5)


def test_no_line_search_without_descent() -> None:
    start = Sample(0.0, 1.0, 0.0)
    assert wolfe_step(lambda step: start, start, lambda: 1.0, 20) is None


def test_twins_stay_twins() -> None:
    """Variables with the same breakpoint are held together: SciPy may part them."""
    root = random(0, 10, 10)
    half = root + root.T
    function = quadratic(half.repeat(2, 2) + 4 * torch.eye(20).double(), random(1, 10).repeat(2))
    bound = 0.3 * (1 + uniform(2, 10)).repeat(2)
    _, points, _ = run((function, torch.zeros(20).double(), -bound, bound), iterations=30, gradient_tolerance=1e-8)
    assert len(points) > 3
    for point in points:
        torch.testing.assert_close(point[:10], point[10:], rtol=0, atol=1e-10)


def test_all_variables_fixed() -> None:
    function, start, _, _ = convex(0, 5)
    result = minimize_in_box(function, start, start, start, iterations=10)
    assert (result.evaluations, result.iterations, result.converged) == (1, 0, True)
    assert torch.equal(result.point, start)


def test_gradient_tolerance_holds_at_the_start() -> None:
    function, start, lower, upper = convex(0, 5)
    result = minimize_in_box(function, start, lower, upper, iterations=10, gradient_tolerance=2.0)
    assert (result.evaluations, result.iterations, result.converged) == (1, 0, True)


def test_value_tolerance_is_relative_to_one_or_more() -> None:
    problem = convex(4, 50)
    loose, _, _ = run(problem, iterations=100, value_tolerance=1e-2)
    tight, _, _ = run(problem, iterations=100, value_tolerance=1e-12)
    assert loose.message == tight.message == "decrease within value_tolerance"
    assert loose.iterations < tight.iterations
    assert 0 < loose.value - tight.value < 1e-2 * abs(tight.value)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_iteration_limit(iterations: int) -> None:
    result, _, _ = run(rosenbrock(20), iterations=iterations)
    assert (result.iterations, result.converged) == (iterations, False)
    assert result.message == "iteration limit reached"


def test_value_that_does_not_follow_its_gradient_ends_with_the_best_point() -> None:
    """f rises wherever the gradient points: the line search fails, the start is the best point."""

    def function(x: Tensor) -> tuple[float, Tensor]:
        return float(x.abs().sum()), torch.ones_like(x)

    start = torch.zeros(4).double()
    result, points, values = run((function, start, start - 1, start + 1), iterations=10, line_search_limit=5)
    assert not result.converged
    assert result.message == "line search failed on the steepest descent path"
    assert len(points) == result.evaluations == 6
    assert result.value == min(values) == 0
    assert torch.equal(result.point, start)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["value", "gradient"])
def test_what_is_not_finite_ends_the_search_at_the_best_point_so_far(bad: float, where: str) -> None:
    matrix = torch.diag(torch.tensor([1.0, 4.0, 9.0]).double())
    inner = quadratic(matrix, 3 * torch.ones(3).double())

    def function(x: Tensor) -> tuple[float, Tensor]:
        value, gradient = inner(x)
        if x.norm() > 1:
            return (bad, gradient) if where == "value" else (value, torch.where(x == x.max(), bad, gradient))
        return value, gradient

    start = torch.zeros(3).double()
    result, points, _ = run((function, start, start - 4, start + 4), iterations=50)
    assert not result.converged
    assert result.message == "value or gradient not finite"
    assert result.evaluations == len(points)
    assert result.value == inner(result.point)[0] < inner(start)[0] or torch.equal(result.point, start)
    assert result.point.norm() <= 1


def test_not_finite_at_the_start() -> None:
    start = torch.zeros(3).double()
    result, _, _ = run((lambda x: (math.nan, x), start, start - 1, start + 1), iterations=5)
    assert math.isnan(result.value)
    assert (result.evaluations, result.iterations, result.converged) == (1, 0, False)
    assert torch.equal(result.point, start)


def test_one_gradient_tensor_may_serve_every_evaluation() -> None:
    function, start, lower, upper = convex(4, 50)
    buffer = torch.empty_like(start)

    def reusing(x: Tensor) -> tuple[float, Tensor]:
        value, gradient = function(x)
        return value, buffer.copy_(gradient)

    expected, points, _ = run((function, start, lower, upper), iterations=8)
    result, reused_points, _ = run((reusing, start, lower, upper), iterations=8)
    assert torch.equal(torch.stack(points), torch.stack(reused_points))
    assert result.value == expected.value


def test_arguments_are_left_alone_and_gradients_are_not_tracked() -> None:
    function, start, lower, upper = convex(4, 50)
    start.requires_grad_()
    copies = [tensor.detach().clone() for tensor in (start, lower, upper)]
    result = minimize_in_box(function, start, lower, upper, iterations=5)
    assert not result.point.requires_grad
    assert all(torch.equal(a.detach(), b) for a, b in zip((start, lower, upper), copies, strict=True))


def test_float32() -> None:
    """The bounds are kept exactly, and the minimum is as good as float32 can say it."""
    function, start, *bounds = convex(4, 50)
    lower, upper = (bound.float() for bound in bounds)

    def rounded(x: Tensor) -> tuple[float, Tensor]:
        value, gradient = function(x.double())
        return value, gradient.float()

    result, points, _ = run((rounded, start.float(), lower, upper), iterations=50, gradient_tolerance=1e-5)
    exact, _, _ = run((function, start, lower.double(), upper.double()), iterations=50)
    assert result.converged
    assert result.point.dtype == torch.float32
    assert all(((lower <= point) & (point <= upper)).all() for point in points)
    torch.testing.assert_close(result.point.double(), exact.point, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": torch.zeros(2, 2)}, "`start` must be an"),
        ({"start": torch.zeros(3, dtype=torch.int64)}, "`start` must be an"),
        ({"lower": torch.zeros(2)}, "`lower` must be like `start`"),
        ({"upper": torch.ones(3).double()}, "`upper` must be like `start`"),
        ({"upper": torch.tensor([1.0, math.inf, 1.0])}, "`upper` must be finite"),
        ({"lower": torch.tensor([0.0, 2.0, 0.0])}, "`lower` must be at most `upper`, got 2.0 > 1.0 at 1"),
        ({"iterations": 0}, "`iterations` must be at least 1, got 0"),
        ({"memory": 0}, "`memory` must be at least 1, got 0"),
        ({"line_search_limit": 0}, "`line_search_limit` must be at least 1, got 0"),
        ({"value_tolerance": -1.0}, "`value_tolerance` must be at least 0, got -1.0"),
        ({"gradient_tolerance": math.nan}, "`gradient_tolerance` must be at least 0, got nan"),
        (
            {"value_and_gradient": lambda x: (0.0, x[:2])},
            "`value_and_gradient` must return a gradient of shape",
        ),
    ],
)
def test_wrong_arguments(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "value_and_gradient": lambda x: (float(x @ x), 2 * x),
        "start": torch.zeros(3),
        "lower": torch.zeros(3),
        "upper": torch.ones(3),
        "iterations": 3,
    }
    with pytest.raises(ValueError, match=message):
        minimize_in_box(**arguments | changes)  # type: ignore[arg-type]
