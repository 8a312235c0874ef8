"""The nuisance hyperparameters that are searched, and where: the same for every batch size and remedy.

The learning rate and the weight decay are log-uniform, the warmup is uniform. Momentum and Adam's betas are log-uniform
in 1 - value (Shallue et al. 2019, arXiv 1811.03600, tune the momentum in this way): 0.9 to 0.99 has the same share as
0.99 to 0.999, because 1 / (1 - value) is the number of steps that the average remembers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from optuna.distributions import FloatDistribution

from trainables.optimizer_settings import MOMENTS
from trainables.runtime.errors import UserError
from trainables.runtime.seeds import derive_seed

STARTUP_POINTS = 8
LOGARITHMIC = ("learning_rate", "weight_decay")
FROM_ONE = "1 - "  # before the name of one of MOMENTS, in Optuna's parameters
Values = dict[str, float]
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Space:
    """Where is searched: LOW to HIGH of each; a range of one value is not searched, and None leaves the optimizer's."""

    learning_rate: Range
    warmup_epochs: Range
    weight_decay: Range
    momentum: Range | None = None
    beta1: Range | None = None
    beta2: Range | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in self.ranges.items():
            if name in MOMENTS:
                if not 0 <= low <= high < 1:
                    raise UserError(f"`{name}` must be LOW HIGH with 0 <= LOW <= HIGH < 1, got {low:g} {high:g}")
                continue
            least = "above 0, or 0 twice" if name in LOGARITHMIC else "0 or more"
            if low > high or (name in LOGARITHMIC and low == 0 < high):
                raise UserError(f"`{name}` must be LOW HIGH with LOW <= HIGH, {least}, got {low:g} {high:g}")
        if not self.distributions:
            raise UserError(
                "there is nothing to search: give at least one range with LOW < HIGH, such as "
                "--learning-rate-range 0.0003 0.1"
            )

    @property
    def ranges(self) -> dict[str, Range]:
        """The range of each hyperparameter that has one, by name."""
        return {name: range_ for name, range_ in vars(self).items() if range_ is not None}

    @property
    def distributions(self) -> dict[str, FloatDistribution]:
        """What is searched, for Optuna, whose parameter is `1 - momentum` in the place of `momentum`."""
        return {
            FROM_ONE + name if name in MOMENTS else name: FloatDistribution(
                *((1 - high, 1 - low) if name in MOMENTS else (low, high)), log=name in (*LOGARITHMIC, *MOMENTS)
            )
            for name, (low, high) in self.ranges.items()
            if low < high
        }

    def whole(self, searched: Mapping[str, float]) -> Values:
        """The values of all hyperparameters with a range, from the `searched` parameters of Optuna."""
        found = {name: searched.get(name, low) for name, (low, _) in self.ranges.items()}
        for name in MOMENTS:
            if (rest := searched.get(FROM_ONE + name)) is not None:
                low, high = self.ranges[name]
                found[name] = min(high, max(low, 1 - rest))
        return found

    def startup_points(self, seed: int) -> list[Values]:
        """A Latin hypercube of Optuna's parameters: every eighth of every range holds one point."""
        random = np.random.default_rng(derive_seed(seed, "startup"))
        points: list[Values] = [{} for _ in range(STARTUP_POINTS)]
        for name, of_name in self.distributions.items():
            low, high = of_name.low, of_name.high
            shares = (random.permutation(STARTUP_POINTS) + random.random(STARTUP_POINTS)) / STARTUP_POINTS
            for point, share in zip(points, shares, strict=True):
                inside = low * (high / low) ** share if of_name.log else low + (high - low) * share
                point[name] = min(high, max(low, float(inside)))
        return points

    def edges(self, values: Mapping[str, float], share: float = 0.05) -> list[str]:
        """Names of the values within `share` of an end of their range, where going on beyond could be better.

        Almost no warmup, weight decay, momentum or beta (a range from 0) is an end by nature and does not count.
        """
        found = []
        for name, (low, high) in self.ranges.items():
            if low == high:
                continue
            value = values[name]
            place = (value - low) / (high - low)
            if name in LOGARITHMIC:
                place = math.log(value / low) / math.log(high / low)
            elif name in MOMENTS:
                place = math.log((1 - value) / (1 - low)) / math.log((1 - high) / (1 - low))
            has_lower = name == "learning_rate" or (name in MOMENTS and low > 0)
            if place > 1 - share or (place < share and has_lower):
                found.append(name)
        return found
