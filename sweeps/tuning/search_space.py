"""The nuisance hyperparameters that are searched, and where: the same for every batch size and remedy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from optuna.distributions import FloatDistribution

from trainables.runtime.errors import UserError
from trainables.runtime.seeds import derive_seed

STARTUP_POINTS = 8
NUISANCES = ("learning_rate", "warmup_epochs", "weight_decay")
LOGARITHMIC = ("learning_rate", "weight_decay")
Values = dict[str, float]
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Space:
    """Where is searched: LOW to HIGH of each, log-uniform but for the warmup; a range of one value is not searched."""

    learning_rate: Range
    warmup_epochs: Range
    weight_decay: Range

    def __post_init__(self) -> None:
        for name in NUISANCES:
            low, high = getattr(self, name)
            least = "above 0, or 0 twice" if name in LOGARITHMIC else "0 or more"
            if low > high or (name in LOGARITHMIC and low == 0 < high):
                raise UserError(f"`{name}` must be LOW HIGH with LOW <= HIGH, {least}, got {low:g} {high:g}")
        if not self.distributions:
            raise UserError(
                "`learning_rate` must be a range LOW HIGH, as must one of the others, got nothing to search"
            )

    @property
    def distributions(self) -> dict[str, FloatDistribution]:
        """What is searched, for Optuna."""
        ranges = {name: getattr(self, name) for name in NUISANCES}
        return {
            name: FloatDistribution(low, high, log=name in LOGARITHMIC)
            for name, (low, high) in ranges.items()
            if low < high
        }

    def whole(self, searched: Mapping[str, float]) -> Values:
        """All three values, those that are not searched too."""
        return {name: searched.get(name, getattr(self, name)[0]) for name in NUISANCES}

    def startup_points(self, seed: int) -> list[Values]:
        """A Latin hypercube: every eighth of every range holds one point."""
        random = np.random.default_rng(derive_seed(seed, "startup"))
        points: list[Values] = [{} for _ in range(STARTUP_POINTS)]
        for name, (low, high) in ((name, getattr(self, name)) for name in self.distributions):
            shares = (random.permutation(STARTUP_POINTS) + random.random(STARTUP_POINTS)) / STARTUP_POINTS
            for point, share in zip(points, shares, strict=True):
                inside = low * (high / low) ** share if name in LOGARITHMIC else low + (high - low) * share
                point[name] = min(high, max(low, float(inside)))
        return points

    def edges(self, values: Mapping[str, float], share: float = 0.05) -> list[str]:
        """Names of the values within `share` of an end of their range, where going on beyond could be better.

        Almost no warmup and almost no weight decay are ends by nature and do not count.
        """
        found = []
        for name in self.distributions:
            low, high = getattr(self, name)
            place = (values[name] - low) / (high - low)
            if name in LOGARITHMIC:
                place = math.log(values[name] / low) / math.log(high / low)
            if place > 1 - share or (place < share and name == "learning_rate"):
                found.append(name)
        return found
