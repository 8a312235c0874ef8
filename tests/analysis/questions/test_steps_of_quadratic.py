"""Comparisons at equal examples against the exact losses of the noisy quadratic, in simulated results folders."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import write
from simulations import Count
from simulations.quadratic import paths, records

from analysis.data.load import load_sweep
from analysis.data.runs import read_results
from analysis.questions.equal_examples import equal_examples
from analysis.stats.means import mean_over_replicates
from analysis.stats.noisy_quadratic import NoisyQuadratic, Rule, losses, moments

PROBLEM = NoisyQuadratic.of_size(50)
EXAMPLES = 384
SETTINGS = {4: (0.2, 96), 16: (0.5, 24), 64: (1.2, 6)}  # rate and steps: all of them see 384 examples
EXACT = {size: losses(PROBLEM, Rule(rate), size, steps)[-1] for size, (rate, steps) in SETTINGS.items()}


def test_a_results_folder_has_the_exact_losses(tmp_path: Path) -> None:
    """Var f = sum_i h_i^2 / 4 (2 v_i^2 + 4 mu_i^2 v_i), v_i the variance of x_i around +-mu_i; 4.5 standard errors."""
    replicates = 60
    folder = write(tmp_path / "sweep", records(PROBLEM, SETTINGS, replicates, np.random.default_rng(0)))
    found = equal_examples(read_results(load_sweep(folder), "test_loss", None), margin=0.1)
    assert found.examples == EXAMPLES
    silent = dataclasses.replace(PROBLEM, c=0 * PROBLEM.c)
    for size, mean, _ in found.rows:
        rate, steps = SETTINGS[size]
        mu_squared = moments(silent, Rule(rate), size, steps)[-1]
        v = moments(PROBLEM, Rule(rate), size, steps)[-1] - mu_squared
        variance = float((PROBLEM.h**2 / 4 * (2 * v**2 + 4 * mu_squared * v)).sum())
        assert abs(mean.value - EXACT[size]) < 4.5 * (variance / replicates) ** 0.5
    assert EXACT[64] > EXACT[4] + 0.2  # the largest batch is far from done


@pytest.mark.slow
@pytest.mark.parametrize("replicates", [3, 5])
def test_intervals_of_the_loss_hold_the_exact_one(replicates: int) -> None:
    """Of 1000 sweeps, as many as 95 % intervals promise; each interval is that of `equal_examples`."""
    random, sweeps = np.random.default_rng(1), 1000
    for size, (rate, steps) in SETTINGS.items():
        last = paths(PROBLEM, rate, size, steps, sweeps * replicates, random)[:, -1].reshape(sweeps, replicates)
        held = 0
        for row in last:
            frame = pd.DataFrame({"value": row, "replicate": range(replicates), "matched_set": 0})
            mean = mean_over_replicates(frame, "value")
            assert mean is not None
            assert mean.interval is not None
            held += mean.interval.holds(EXACT[size])
        assert not Count(held, sweeps).fails, f"batch {size}: {held} of {sweeps}"
