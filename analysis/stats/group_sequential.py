"""Looking several times: the levels at which repeated t-tests keep their error.

A test that is repeated as replicates come in, each time at 2.5 %, is wrong far more often than that. Here look k, after
n_k of at most N replicates, may spend what the function of O'Brien and Fleming's type has released by then:

    spent(t) = 2 - 2 Phi(z(1 - alpha / 2) / sqrt(t)),    t = n_k / N,    spent(1) = alpha    (Lan and DeMets 1983)

and rejects where its t-statistic is beyond the quantile t(1 - p_k, n_k - 1). The levels p_k solve, one after another,

    P(T_1 rejects) = spent(t_1),    P(T_k rejects, T_(k-1) does not) = spent(t_k) - spent(t_(k-1))

The sum of these is at least the probability that any look rejects (Hunter 1976, Worsley 1982), so the error is at most
alpha. Both probabilities are exact for normal data and unknown variance, also for three replicates. Levels p_k taken
from the normal distribution would be wrong in more than alpha with a dozen replicates.

Why the second probability is an integral over one variable. Under the null hypothesis u_k = sum(x) / sqrt(sum(x^2)) of
the first k replicates is independent of sum(x^2) (Basu 1955), so with m further replicates

    u' = u r + sqrt(m (1 - r^2)) v,    r^2 ~ Beta(n / 2, m / 2),    v = cosine of a random direction in m dimensions

Trap: the number and the times of the looks may not depend on the results. A look may find fewer replicates than
planned, but looks must not be added.

Sources: Lan and DeMets 1983, Biometrika 70:659; Jennison and Turnbull 2000, "Group Sequential Methods", chapters 4
(t-tests), 7 (spending) and 9 (repeated confidence intervals).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import special
from scipy.optimize import brentq

from analysis.stats.means import CONFIDENCE, Floats

ALPHA = (1 - CONFIDENCE) / 2  # of each side
MOST_LOOKS = 5
NODES = 200  # of each integral
LEAST_LEVEL = 1e-100  # a smaller one is none: its quantile of t, or the square of that, may not be finite


def planned_looks(first: int, cap: int) -> tuple[int, ...]:
    """The replicates at each look: from `first` to `cap` in equal steps as far as possible, at most MOST_LOOKS."""
    number = min(MOST_LOOKS, cap - first + 1)
    return tuple(round(place) for place in np.linspace(first, cap, number))


def spent(fraction: float, alpha: float = ALPHA) -> float:
    """The error that may be spent when this fraction of the replicates is in; the formula is at the top of the file."""
    return float(2 * special.ndtr(special.ndtri(alpha / 2) / np.sqrt(fraction)))


@lru_cache(maxsize=256)
def look_levels(replicates: tuple[int, ...], cap: int, alpha: float = ALPHA) -> tuple[float, ...]:
    """The one-sided level p_k of each look, after `replicates` (n_1, ..., n_k) of at most `cap`.

    A look at fewer than two replicates, at no new ones, or far too early has the level 0. A test at the last level, or
    an interval at 1 - 2 p_k, holds together with those of all looks before.
    """
    levels: list[float] = []
    before, level = 0, 0.0
    for count in replicates:
        if count < 2 or count <= before:
            levels.append(0.0)
            continue
        released = spent(count / cap, alpha) - (spent(before / cap, alpha) if before else 0.0)
        level = _level(count, released, before, level) if level else released
        level = level if level > LEAST_LEVEL else 0.0
        before = count
        levels.append(level)
    return tuple(levels)


def _level(count: int, released: float, before: int, level_before: float) -> float:
    """The p with P(T_k rejects at p, T_(k-1) does not at `level_before`) = `released`."""
    both = _BothReject(before, level_before, count)
    upper = released + level_before  # the probability is at least p - level_before
    return float(brentq(lambda p: p - both(p) - released, released, upper + 1e-12, xtol=1e-12))


class _BothReject:
    """P(T of `before` replicates rejects at `level`, T of `count` rejects at p), by cells of equal probability."""

    def __init__(self, before: int, level: float, count: int) -> None:
        cells = (np.arange(NODES) + 0.5) / NODES
        t = -special.stdtrit(before - 1, level * cells)
        further = count - before
        kept = special.betaincinv(before / 2, further / 2, cells)  # r^2
        self.level, self.count, self.further = level, count, further
        self.carried: Floats = _cosine(t, before)[:, None] * np.sqrt(before * kept)
        self.added: Floats = np.sqrt(further * (1 - kept))

    def __call__(self, p: float) -> float:
        limit = _cosine(-special.stdtrit(self.count - 1, p), self.count) * np.sqrt(self.count)
        v = (limit - self.carried) / self.added
        return float(self.level * _beyond(v, self.further).mean())


def _cosine(t: Floats, count: int) -> Floats:
    """sum(x) / sqrt(n sum(x^2)) of n values with the t-statistic `t`."""
    return np.asarray(t / np.sqrt(count - 1 + t**2))


def _beyond(v: Floats, dimensions: int) -> Floats:
    """P(V > v) for V the cosine of a random direction with a fixed one; in one dimension V is -1 or 1."""
    if dimensions == 1:
        return np.where(v < -1, 1.0, np.where(v > 1, 0.0, 0.5))
    half = (dimensions - 1) / 2
    return np.asarray(special.betainc(half, half, (1 - np.clip(v, -1, 1)) / 2))


def levels_of_plan(looks: Sequence[int]) -> tuple[float, ...]:
    """The levels where every look finds the replicates that were planned."""
    return look_levels(tuple(looks), looks[-1])
