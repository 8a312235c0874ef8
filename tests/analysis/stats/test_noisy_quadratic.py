"""The noisy quadratic against published values, its closed forms, and sampled trajectories."""

import numpy as np
import pytest

from analysis.stats.noisy_quadratic import (
    NoisyQuadratic,
    Rule,
    fewest_steps,
    losses,
    moments,
    stationary_loss,
    steps_to_goal,
)

SIZES = (1, 4, 16, 64, 256, 1024, 4096, 16384)
FEWEST = {  # steps to a loss of 0.05 with h = c = 1 / i, over 160 rates, geometric from 1e-5 to 1.999
    100: (4336, 1099, 292, 95, 54, 44, 41, 41),
    1000: (62298, 15677, 4033, 1169, 569, 443, 414, 407),
}
RATES = np.geomspace(1e-5, 1.999, 160)


@pytest.mark.parametrize(
    ("coordinates", "batch_size", "steps"),
    [(k, size, steps) for k, row in FEWEST.items() for size, steps in zip(SIZES, row, strict=True)],
)
def test_the_fewest_steps_to_a_loss(coordinates: int, batch_size: int, steps: int) -> None:
    found = fewest_steps(NoisyQuadratic.of_size(coordinates), batch_size, 0.05, RATES)
    assert found is not None
    assert found[0] == steps


def test_the_recursion_is_the_closed_form_of_sgd() -> None:
    problem, rate, size = NoisyQuadratic.of_size(7), 0.7, 3.0
    stationary = rate**2 * problem.c / size / (1 - (1 - rate * problem.h) ** 2)
    t = np.arange(51)[:, None]
    expected = (1 - rate * problem.h) ** (2 * t) * (1 - stationary) + stationary
    np.testing.assert_allclose(moments(problem, Rule(rate), size, 50), expected, rtol=1e-12)
    assert stationary_loss(problem, rate, size) == pytest.approx(0.5 * problem.h @ stationary, rel=1e-12)
    assert stationary_loss(problem, 2.0, size) == np.inf


@pytest.mark.parametrize("rule", [Rule(0.3), Rule(0.1, momentum=0.9), Rule(0.4, average=0.8), Rule(0.2, 0.5, 0.7, 0.5)])
def test_the_moments_are_those_of_trajectories(rule: Rule) -> None:
    problem, size, steps, runs = NoisyQuadratic.of_size(3), 4.0, 12, 50_000
    generator = np.random.default_rng(0)
    x = generator.choice([-1.0, 1.0], (runs, 3))
    v, y = np.zeros_like(x), x
    for _ in range(steps):
        gradient = problem.h * x + generator.normal(size=x.shape) * np.sqrt(problem.c / size)
        v = rule.momentum * v + problem.h**-rule.power * gradient
        x = x - rule.rate * v
        y = rule.average * y + (1 - rule.average) * x
    squares = (y if rule.average else x) ** 2
    error = squares.std(axis=0) / runs**0.5
    expected = moments(problem, rule, size, steps)[-1]
    assert (np.abs(squares.mean(axis=0) - expected) < 4.5 * error).all()


def test_bisection_and_recursion_find_the_same_step() -> None:
    problem = NoisyQuadratic.of_size(20)
    for rate in (0.01, 0.1, 0.8):
        curve = losses(problem, Rule(rate), 8, 2000)
        for goal in (1.0, 0.3, 0.1):
            below = np.flatnonzero(curve <= goal)
            expected = int(below[0]) if len(below) else None
            assert steps_to_goal(problem, Rule(rate), 8, goal, longest=2000) == expected


def test_a_loss_that_falls_and_rises_again() -> None:
    """The first step counts: a coordinate without gradient noise falls, another one of large noise rises."""
    problem = NoisyQuadratic(np.array([1.0, 0.01]), np.array([1e-9, 100.0]))
    curve = losses(problem, Rule(0.5), 1, 100)
    goal = 0.35
    assert curve[-1] > goal > curve.min()
    assert steps_to_goal(problem, Rule(0.5), 1, goal) == np.flatnonzero(curve <= goal)[0]


def test_newton_at_rate_one_is_at_the_noise_after_a_step() -> None:
    problem = NoisyQuadratic.of_size(5)
    found = moments(problem, Rule(1.0, power=1.0), 10, 3)
    np.testing.assert_allclose(found[1:], np.tile(problem.c / problem.h**2 / 10, (3, 1)), rtol=1e-12)


def test_stability() -> None:
    problem = NoisyQuadratic.of_size(4)
    assert Rule(1.99).is_stable(problem)
    assert not Rule(2.01).is_stable(problem)
    assert Rule(3.7, momentum=0.9).is_stable(problem)  # below 2 (1 + momentum) / h
    assert not Rule(3.81, momentum=0.9).is_stable(problem)
    assert steps_to_goal(problem, Rule(2.5), 1, 1e-3) is None


def test_the_noise_scale_underestimates_the_critical_batch() -> None:
    """At the start tr(Sigma) / |G|^2 is 3 examples, but a batch of 32 still saves most of the steps it can."""
    problem = NoisyQuadratic.of_size(100)
    scale = problem.noise_scale(np.ones(100))
    assert scale == pytest.approx((1 / np.arange(1, 101)).sum() / (1 / np.arange(1, 101) ** 2).sum())
    found = {size: fewest_steps(problem, size, 0.05, RATES) for size in (1, 32)}
    assert all(found.values())
    assert scale < 4
    assert found[1][0] / found[32][0] > 16 * 1.5  # type: ignore[index]
