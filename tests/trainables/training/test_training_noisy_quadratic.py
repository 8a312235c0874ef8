"""Real training on the noisy quadratic against its exact recursion."""

import dataclasses

import numpy as np
import pytest
from narrow import not_none

from analysis.stats.noisy_quadratic import NoisyQuadratic, Rule, moments
from sweeps.plan.grid import Grid, expand
from trainables.data import load_source
from trainables.runtime.errors import UserError
from trainables.trial import Trial

STEPS, EVERY = 24, 4


@pytest.mark.parametrize("runs", [25, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("rule", "batch_size"), [(Rule(0.5), 1), (Rule(0.1, momentum=0.9), 4)])
def test_the_mean_loss_of_trials_is_exact(rule: Rule, batch_size: int, runs: int) -> None:
    """The loss at every logging point, averaged over independent data, signs and orders, is E f of the recursion.

    x_i is normal around +-mu_i, mu_i what it is without noise, so with v_i = E x_i^2 - mu_i^2

        Var f = sum_i h_i^2 / 4 (2 v_i^2 + 4 mu_i^2 v_i)

    and the mean of all runs misses E f by more than 4.5 of its standard deviations once in 150 000 times.
    """
    problem, coordinates = NoisyQuadratic.of_size(6), 6
    found = []
    for run in range(runs):
        options = {"coordinates": coordinates, "examples": STEPS * batch_size, "seed": run}
        source = load_source("noisy_quadratic", options=options)
        grid = Grid(
            batch_sizes=[batch_size],
            learning_rates=[rule.rate],
            warmup_epochs=[0.0],
            switch_epochs=[None],
            seeds=[run],
            model="noisy_quadratic",
            model_options={},
            optimizers=[("sgd", {})],
            momentum=rule.momentum,
            epochs=1,
            evaluate_every=f"{EVERY}steps",
            measures=[],
        )
        trial = Trial(expand(grid, source)[0], source)
        trial.train()
        found.append([row["test_loss"] for row in trial.training.epochs])
    m = moments(problem, rule, batch_size, STEPS)[EVERY::EVERY]
    mu_squared = moments(dataclasses.replace(problem, c=0 * problem.c), rule, batch_size, STEPS)[EVERY::EVERY]
    v = m - mu_squared
    variance = (problem.h**2 / 4 * (2 * v**2 + 4 * mu_squared * v)).sum(1)
    expected = 0.5 * m @ problem.h
    assert np.shape(found) == (runs, STEPS // EVERY)
    error = np.abs(np.mean(found, axis=0) - expected)
    assert (error <= 4.5 * (variance / runs) ** 0.5 + 1e-5 * expected).all()  # and float32


def test_the_spectra_are_powers() -> None:
    source = load_source("noisy_quadratic", options={"coordinates": 3, "examples": 40_000, "power": 2.0})
    deviations = source.inputs.std(0)  # i^-1, with a standard error of i^-1 / sqrt(2 N)
    np.testing.assert_allclose(deviations * [1, 2, 3], 1, atol=4.5 / (2 * 40_000) ** 0.5)
    assert not not_none(source.test_inputs).any()


@pytest.mark.parametrize("options", [{"coordinates": 0}, {"examples": 1.5}])
def test_what_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="must be a whole number of 1 or more"):
        load_source("noisy_quadratic", options=options)
