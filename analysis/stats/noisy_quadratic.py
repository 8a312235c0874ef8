"""The noisy quadratic model, a training problem whose every answer is known (Zhang et al. 2019, arXiv 1907.04164).

    f(x) = 1/2 sum_i h_i x_i^2,   gradient of a batch of B: h_i x_i + xi_i / sqrt(B),  Var xi_i = c_i,  E x_i(0)^2 = 1

The coordinates do not meet. So what an optimizer does to one of them is a linear recursion of its state z = (x,
velocity, average) with noise, z' = A z + b xi / sqrt(B), and the second moments M = E z z^T obey, exactly,

    M' = A M A^T + b b^T c / B,        E f = 1/2 sum_i h_i M_i[x, x].

Plain SGD needs no recursion: m_i(t) = (1 - a h_i)^(2t) (m_i(0) - s_i) + s_i with s_i = a c_i / (B h_i (2 - a h_i)).

It is the oracle of what this project says of critical batch sizes: the steps to a goal at any batch size, to which
the law of McCandlish et al. 2018 is an approximation, and the gradient noise scale at any moment.

Traps: the loss may fall below a goal and rise again, so "steps to the goal" is the first time, not the last. The noise
of successive batches is independent, as it is in one pass over examples that are drawn one by one; batches that are
drawn without replacement from a small set have less noise, and less still at the end of an epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from analysis.stats.pairs import Floats

LONGEST = 10_000_000  # steps that are looked through for a goal
CHUNK = 64  # of them, at once


@dataclass(frozen=True)
class NoisyQuadratic:
    """Curvatures `h` and noise variances `c`, both (K,) and above 0."""

    h: Floats
    c: Floats

    @classmethod
    def of_size(cls, coordinates: int) -> "NoisyQuadratic":
        """h_i = c_i = 1 / i, as in the paper: the noise is largest where the curvature is."""
        spectrum = 1.0 / np.arange(1, coordinates + 1)
        return cls(spectrum, spectrum)

    def noise_scale(self, moments: Floats) -> float:
        """tr(Sigma) / |G|^2 = sum_i c_i / sum_i h_i^2 m_i at second moments m (K,), in examples."""
        return float(self.c.sum() / (self.h**2 * moments).sum())


@dataclass(frozen=True)
class Rule:
    """An optimizer at a constant `rate` a:

        v <- momentum v + P (h x + xi / sqrt(B)),   x <- x - a v,   y <- average y + (1 - average) x

    with the diagonal preconditioner P = h^-power (0: none, 1: Newton). `average` y is what is evaluated where it is
    above 0; it starts at x(0), and v at 0.
    """

    rate: float
    momentum: float = 0.0
    average: float = 0.0
    power: float = 0.0

    def matrices(self, problem: NoisyQuadratic) -> tuple[Floats, Floats]:
        """A (K, 3, 3) and b (K, 3) of the state (x, v, y)."""
        scaled, rho, one = problem.h ** (1 - self.power), self.average, np.ones_like(problem.h)
        noise = problem.h**-self.power
        x = np.stack([1 - self.rate * scaled, -self.rate * self.momentum * one, 0 * one], axis=-1)
        v = np.stack([scaled, self.momentum * one, 0 * one], axis=-1)
        y = (1 - rho) * x + np.stack([0 * one, 0 * one, rho * one], axis=-1)
        b = np.stack([-self.rate * noise, noise, -(1 - rho) * self.rate * noise], axis=-1)
        return np.stack([x, v, y], axis=-2), b

    def is_stable(self, problem: NoisyQuadratic) -> bool:
        """Whether the moments stay bounded: the spectral radius of each A is below 1."""
        return bool(np.abs(np.linalg.eigvals(self.matrices(problem)[0])).max() < 1)


def moments(problem: NoisyQuadratic, rule: Rule, batch_size: float, steps: int) -> Floats:
    """E x_i^2 of what is evaluated, after 0, 1, ..., `steps` updates: (steps + 1, K)."""
    found = np.empty((steps + 1, len(problem.h)))
    for step, state in zip(range(steps + 1), _states(problem, rule, batch_size), strict=False):
        found[step] = _evaluated(rule, state)
    return found


def losses(problem: NoisyQuadratic, rule: Rule, batch_size: float, steps: int) -> Floats:
    """E f after 0, 1, ..., `steps` updates: (steps + 1,)."""
    return 0.5 * moments(problem, rule, batch_size, steps) @ problem.h


def stationary_loss(problem: NoisyQuadratic, rate: float, batch_size: float) -> float:
    """The loss at which SGD at a constant rate stays, 1/2 sum_i a c_i / (B (2 - a h_i)); infinite where it diverges."""
    if rate * problem.h.max() >= 2:
        return float("inf")
    return float(0.5 * (problem.h * _stationary(problem, rate, batch_size)).sum())


def steps_to_goal(
    problem: NoisyQuadratic, rule: Rule, batch_size: float, goal: float, longest: int = LONGEST
) -> int | None:
    """The first step after which E f is at most `goal`; None where that is never, or later than `longest`."""
    if rule.momentum == rule.average == rule.power == 0 and rule.rate * problem.h.max() < 2:
        return _first_step_of_sgd(problem, rule.rate, batch_size, goal, longest)
    for step, state in zip(range(longest + 1), _states(problem, rule, batch_size), strict=False):
        loss = 0.5 * float(_evaluated(rule, state) @ problem.h)
        if loss <= goal:
            return step
        if not loss < np.finfo(float).max ** 0.5:
            return None
    return None


def fewest_steps(
    problem: NoisyQuadratic, batch_size: float, goal: float, rates: Floats, **options: float
) -> tuple[int, float] | None:
    """The fewest steps to `goal` over `rates`, and the rate that needs them; None where none reaches it.

    `options`: those of `Rule`. The tuning of a real sweep, without its noise.
    """
    best: tuple[int, float] | None = None
    for rate in rates:
        longest = LONGEST if best is None else best[0] - 1
        steps = steps_to_goal(problem, Rule(float(rate), **options), batch_size, goal, longest)
        if steps is not None:
            best = steps, float(rate)
    return best


def _stationary(problem: NoisyQuadratic, rate: float, batch_size: float) -> Floats:
    return np.asarray(rate * problem.c / (batch_size * problem.h * (2 - rate * problem.h)))


def _first_step_of_sgd(
    problem: NoisyQuadratic, rate: float, batch_size: float, goal: float, longest: int
) -> int | None:
    """By the closed form: moments that fall alone cannot be at the goal before the step where a search begins."""
    stationary = _stationary(problem, rate, batch_size)
    shrink, above = (1 - rate * problem.h) ** 2, 1 - stationary

    def loss(steps: Floats, rising: bool) -> Floats:
        moved = np.where(above > 0, shrink ** steps[:, None], shrink ** (steps[:, None] if rising else 0))
        return 0.5 * (moved * above + stationary) @ problem.h

    def bound(step: int) -> float:
        return float(loss(np.array([float(step)]), rising=False)[0])

    if bound(longest) > goal:
        return None
    low, high = -1, longest  # the bound is above the goal at low, and is not at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bound(middle) > goal else (low, middle)
    while high <= longest:
        reached = np.flatnonzero(loss(np.arange(high, high + CHUNK, dtype=float), rising=True) <= goal)
        if len(reached):
            return high + int(reached[0]) if high + reached[0] <= longest else None
        high += CHUNK
    return None


def _states(problem: NoisyQuadratic, rule: Rule, batch_size: float) -> Iterator[Floats]:
    """M (K, 3, 3) of the state (x, v, y), from the start on without end."""
    a, b = rule.matrices(problem)
    noise = b[:, :, None] * b[:, None, :] * (problem.c / batch_size)[:, None, None]
    state = np.zeros_like(a)
    state[:, [0, 0, 2, 2], [0, 2, 0, 2]] = 1.0  # y(0) = x(0)
    transposed = a.swapaxes(-1, -2)
    while True:
        yield state
        state = a @ state @ transposed + noise


def _evaluated(rule: Rule, state: Floats) -> Floats:
    return state[:, 2, 2] if rule.average else state[:, 0, 0]
