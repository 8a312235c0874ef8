"""Functions with boxes for the tests of L-BFGS-B, and its run with every point and value that it visited."""

from collections.abc import Callable

import torch
from oracles import random
from torch import Tensor

from trainables.sharpness.solvers.lbfgsb import BoxMinimum, minimize_in_box

Function = Callable[[Tensor], tuple[float, Tensor]]
Problem = tuple[Function, Tensor, Tensor, Tensor]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
