"""L-BFGS-B: SciPy's points one by one, dense models of every iteration, closed forms, limits, bad values.

Tolerances: both codes round at 1e-16, and the path amplifies that, by up to 1e6 where there is one pair and a
curved valley: 1e-8 on the points leaves a factor of 100. Counts are compared where the search stops well
above rounding; below it the last digit of f decides them.
"""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import Bounds, OptimizeResult, minimize
from torch import Tensor

from trainables.sharpness import lbfgsb, limited_memory
from trainables.sharpness.lbfgsb import BoxMinimum, minimize_in_box
from trainables.sharpness.line_search import Sample, wolfe_step

Function = Callable[[Tensor], tuple[float, Tensor]]
Problem = tuple[Function, Tensor, Tensor, Tensor]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=generator(seed))


def quadratic(matrix: Tensor, linear: Tensor) -> Function:
    """x'Ax / 2 - b'x."""

    def function(x: Tensor) -> tuple[float, Tensor]:
        product = matrix @ x
        return float(x @ product / 2 - linear @ x), product - linear

    return function


def by_autograd(loss: Callable[[Tensor], Tensor], sign: float = 1.0) -> Function:
    def function(x: Tensor) -> tuple[float, Tensor]:
        leaf = x.detach().requires_grad_()
        value = sign * loss(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.item(), gradient

    return function


def convex(seed: int, n: int) -> Problem:
    root = random(seed, n, n)
    function = quadratic(root @ root.T / n + 0.1 * torch.eye(n), 2 * random(seed + 1, n))
    return function, torch.zeros(n).double(), -uniform(seed + 2, n), uniform(seed + 3, n)


def indefinite(seed: int, n: int) -> Problem:
    root = random(seed, n, n)
    function = quadratic((root + root.T) / (2 * n**0.5), random(seed + 1, n) / 3)
    return function, random(seed + 2, n) / 10, -torch.ones(n).double(), torch.ones(n).double()


def rosenbrock(n: int) -> Problem:
    function = by_autograd(lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())
    lower, upper = torch.full((n,), -1.5).double(), torch.linspace(0.6, 2, n).double()
    return function, torch.linspace(-1.2, 1, n).double(), lower, upper


def tanh_network(sign: float, half_width: float) -> Problem:
    inputs, targets, start = random(0, 40, 6), random(1, 40), random(2, 41) / 2

    def loss(w: Tensor) -> Tensor:
        hidden = torch.tanh(inputs @ w[:30].reshape(6, 5) + w[30:35])
        return ((hidden @ w[35:40] + w[40] - targets) ** 2).mean()

    return by_autograd(loss, sign), start, start - half_width, start + half_width


def logistic_regression() -> Problem:
    inputs, labels = random(3, 60, 12), (uniform(4, 60) < 0.4).double()

    def loss(w: Tensor) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(inputs @ w, labels)

    start = torch.zeros(12).double()
    return by_autograd(loss), start, start - 0.3, start + 0.5


def at_a_bound() -> Problem:
    function, _, lower, upper = convex(20, 30)
    return function, torch.where(uniform(24, 30) < 0.5, lower, upper), lower, upper


def with_fixed_variables() -> Problem:
    function, _, lower, upper = tanh_network(1.0, 0.5)
    fixed = torch.arange(41) % 3 == 0
    return function, lower, lower, torch.where(fixed, lower, upper)


def outside_the_box() -> Problem:
    function, _, lower, upper = convex(30, 30)
    return function, 3 * random(35, 30), lower, upper


def run(problem: Problem, **options: object) -> tuple[BoxMinimum, list[Tensor], list[float]]:
    function, start, lower, upper = problem
    points, values = [], []

    def recorded(x: Tensor) -> tuple[float, Tensor]:
        value, gradient = function(x)
        points.append(x.clone())
        values.append(value)
        return value, gradient

    return minimize_in_box(recorded, start, lower, upper, **options), points, values  # type: ignore[arg-type]


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


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(("memory", "at_once"), [(10, 1 << 16), (10, 3), (3, 1 << 16), (1, 1 << 16)])
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


@pytest.mark.parametrize("seed", range(60, 85))
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


@pytest.mark.parametrize("at_once", [1 << 16, 4])
@pytest.mark.parametrize("seed", range(100, 120))
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
