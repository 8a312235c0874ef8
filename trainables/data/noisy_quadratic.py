"""Gradient noise of the noisy quadratic, a problem whose every answer is known (Zhang et al. 2019, arXiv 1907.04164).

    loss of example j at x:  1/2 sum_i h_i x_i^2 + sum_i x_i xi_ji,      xi_ji ~ N(0, c_i),  c_i = i^-power

An example is its noise xi_j, (K,). The gradient of a batch of B is H x plus noise of variance c / B, which is
independent between batches in the first pass over the examples. Test examples have no noise, so that the test loss is
f(x) = 1/2 x'Hx itself. The model `noisy_quadratic` has x and h; analysis/stats/noisy_quadratic.py says what must come
out: the exact expected loss after any number of steps.

Trap: more than one pass over few examples has less noise than the theory.
"""

from pathlib import Path

import numpy as np

from trainables.data.source import Source
from trainables.runtime.errors import UserError

TASK = "trainables.tasks.output_loss:OutputLoss"
TEST_EXAMPLES = 2  # they are all the same


def read_noisy_quadratic(
    root: Path, download: bool, *, coordinates: int = 100, examples: int = 2**16, power: float = 1.0, seed: int = 0
) -> Source:
    """`examples` draws of the noise of `coordinates` K, (K,) float32; `seed` draws others.

    Raises UserError where `coordinates` or `examples` is not a whole number above 0.
    """
    for name, value in (("coordinates", coordinates), ("examples", examples)):
        if type(value) is not int or value < 1:
            raise UserError(f"`{name}` must be a whole number of 1 or more, got {value!r}")
    deviations = np.arange(1, coordinates + 1) ** (-power / 2)
    noise = np.random.default_rng(seed).standard_normal((examples, coordinates), np.float32)
    return Source(
        "noisy_quadratic",
        noise * deviations.astype(np.float32),
        np.zeros(examples, np.float32),
        np.zeros((TEST_EXAMPLES, coordinates), np.float32),
        np.zeros(TEST_EXAMPLES, np.float32),
        num_classes=1,
        task=TASK,
    )
