"""A power law through a few points, how well it predicts the points that are left out, and what it says beyond them.

    log y_i = a + b log x_i + e_i,      i = 1 .. k, by least squares

The errors hold both the scatter of replicates and how far the points miss the law, so intervals are Student's with
k - 2 degrees of freedom: of b, and of a further point at x (a prediction interval, Draper and Smith 1998, section 3.3)

    a + b log x  +-  t(0.975, k - 2) s sqrt(1 + 1/k + (log x - mean)^2 / S_xx)

Leaving out point i, the law of the others misses it by d_i = e_i / (1 - h_i) in log y, with leverages h_i. Two checks
follow: the deleted residuals over their standard errors are Student's with k - 3 degrees of freedom (Cook and Weisberg
1982, section 2.2), each at 5 % / k; and the d_i must be smaller, in the sum of squares, than those of the mean of the
other points, which is what a law without a slope predicts.
"""

from dataclasses import dataclass

import numpy as np

from analysis.stats.means import CONFIDENCE, Interval, student_t
from analysis.stats.pairs import Floats

LEAST_POINTS = 4  # of which three are left for a line with an error
ROUNDING = 1e-12  # of logarithms


@dataclass(frozen=True)
class PowerLaw:
    """y = `factor` x^`exponent`, with the interval of the exponent and the prediction of each point by the others.

    `misses`: y_i over its prediction. `outlier`: the place of the point that lies furthest beyond its interval, None
    where none does. `beats_mean`: whether the points that are left out are predicted better than by the others' mean.
    """

    factor: float
    exponent: float
    exponent_interval: Interval
    misses: tuple[float, ...]
    outlier: int | None
    beats_mean: bool
    deviation: float  # s
    points: int
    center: float  # of log x
    spread: float  # S_xx

    def at(self, x: float) -> float:
        """The law's value."""
        return float(self.factor * x**self.exponent)

    def interval(self, x: float) -> Interval:
        """The 95 % prediction interval of a further point at `x`."""
        variance = 1 + 1 / self.points + (np.log(x) - self.center) ** 2 / self.spread
        half = _t(CONFIDENCE, self.points - 2) * self.deviation * np.sqrt(variance)
        return Interval(self.at(x) * float(np.exp(-half)), self.at(x) * float(np.exp(half)))


def fit_power_law(x: Floats, y: Floats) -> PowerLaw:
    """The law of k >= LEAST_POINTS points with different `x`, all above 0: (k,) each."""
    u, v = np.log(x), np.log(y)
    k, center = len(u), float(u.mean())
    spread = float(((u - center) ** 2).sum())
    slope = float(((u - center) * (v - v.mean())).sum() / spread)
    left = v - v.mean() - slope * (u - center)
    free = 1 - 1 / k - (u - center) ** 2 / spread  # 1 - h
    total = float((left**2).sum())
    others = np.sqrt(np.maximum(total - left**2 / free, 0) / (k - 3)) + ROUNDING
    ratios = np.abs(left) / (others * np.sqrt(free))
    furthest = int(ratios.argmax())
    deviation = float(np.sqrt(total / (k - 2)))
    half = _t(CONFIDENCE, k - 2) * deviation / np.sqrt(spread)
    return PowerLaw(
        factor=float(np.exp(v.mean() - slope * center)),
        exponent=slope,
        exponent_interval=Interval(slope - half, slope + half),
        misses=tuple(np.exp(left / free).tolist()),
        outlier=furthest if ratios[furthest] > _t(1 - (1 - CONFIDENCE) / k, k - 3) else None,
        beats_mean=bool(((left / free) ** 2).sum() < (((v - v.mean()) * k / (k - 1)) ** 2).sum()),
        deviation=deviation,
        points=k,
        center=center,
        spread=spread,
    )


def _t(confidence: float, freedom: int) -> float:
    return student_t((1 + confidence) / 2, freedom + 1)
