"""The simulated sweeps of the noisy quadratic: their trials against the exact losses, and what no batch size loses."""

import dataclasses

import numpy as np
import pytest
from simulations.quadratic_sweeps import EVEN, PLAIN, PROBLEM, draw, schedule, true_gap, true_losses

from analysis.stats.noisy_quadratic import Rule, losses

SMALL = dataclasses.replace(PLAIN, batch_sizes=(16, 300))


def test_true_losses_are_those_of_the_recursions() -> None:
    """Without warmup and switch they are those of analysis/stats/noisy_quadratic.py."""
    exact = true_losses(SMALL)
    for place, (size, rate, warmup, switch, _) in enumerate(SMALL.cells):
        rates, sizes, seen = schedule(SMALL, SMALL.cells[place])
        assert seen[-1] == pytest.approx(6000, abs=16)
        assert rates[-1] == rate
        if switch is None and not warmup:
            assert exact[place] == pytest.approx(losses(PROBLEM, Rule(rate), size, len(sizes))[-1], rel=1e-12)
        if warmup:
            assert rates[0] == pytest.approx(rate * size / 1500)
        if switch is not None:
            assert (sizes[0], sizes[-1]) == (16, 300)


def test_trials_have_the_true_losses() -> None:
    """Within 4.5 standard errors of 300 replicates, at every cell; the largest batch loses, and with even rates not."""
    drawn, exact = draw(SMALL, np.random.default_rng(0), 300), true_losses(SMALL)
    error = drawn.loss.std(axis=0) / 300**0.5
    assert (np.abs(drawn.loss.mean(axis=0) - exact) < 4.5 * error).all()
    assert true_gap(SMALL) > 0.1
    even = dataclasses.replace(EVEN, batch_sizes=(16, 300))
    assert true_gap(even) == pytest.approx(0, abs=1e-9)
    assert true_gap(even, "tuned") != pytest.approx(0, abs=1e-3)
