"""Sweeps of the noisy quadratic without a network: SGD on its coordinates in NumPy, as records of a results folder.

The truth is that of analysis/stats/noisy_quadratic.py, exactly: the expected loss of every setting after any number of
steps. Unlike the designs of this package, nothing here follows the law of McCandlish et al. by construction.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from made_up import BASE, record

from analysis.stats.noisy_quadratic import NoisyQuadratic
from analysis.stats.pairs import Floats
from trainables.records.tables import Record


def paths(
    problem: NoisyQuadratic, rate: float, batch_size: int, steps: int, runs: int, random: np.random.Generator
) -> Floats:
    """f after 0, 1, ..., `steps` updates of SGD in independent runs from x_i = +-1: (runs, steps + 1)."""
    x = random.choice([-1.0, 1.0], (runs, len(problem.h)))
    found = np.empty((runs, steps + 1))
    for step in range(steps + 1):
        found[:, step] = 0.5 * x**2 @ problem.h
        x = x - rate * (problem.h * x + np.sqrt(problem.c / batch_size) * random.normal(size=x.shape))
    return found


def records(
    problem: NoisyQuadratic, settings: Mapping[int, tuple[float, int]], replicates: int, random: np.random.Generator
) -> list[Record]:
    """A trial of each batch size and replicate; `settings`: the rate and the number of steps by batch size."""
    found = []
    for size, (rate, steps) in settings.items():
        for seed, losses in enumerate(paths(problem, rate, size, steps, replicates, random)):
            history = [
                {"epoch": step * size / BASE["train_size"], "step": step, "test_loss": float(loss), "train_loss": 1.0}
                for step, loss in enumerate(losses)
            ]
            config: dict[str, Any] = {"batch_size": size, "learning_rate": rate, "seed": seed, "split_seed": seed}
            found.append(record(history=history, row={"test_loss": float(losses[-1])}, **config))
    return found
