"""How many replicates an answer needs: the power of a one-sided t-test, and of one that looks several times.

    power(n) = P(T > t(1 - alpha, n - 1)),    T ~ noncentral t(n - 1, effect sqrt(n)),    effect = distance / sigma

distance is how far the true loss is from the margin, sigma the standard deviation of the paired losses of replicates,
alpha 2.5 %: exactly the test of non-inferiority of analysis/questions/free_batch.py.

sigma is estimated from the few replicates of a pilot. With this estimate in its place ("plug-in") more than half of all
plans are too small. With an upper confidence limit, which sigma exceeds with probability 1 - ASSURANCE, the power is at
least the promised one in ASSURANCE of all pilots:

    sigma_upper = s sqrt((n0 - 1) / chi2(1 - ASSURANCE, n0 - 1))    (Browne 1995, Statistics in Medicine 14:1933)

Sources: Julious 2004, Statistics in Medicine 23:1921 (non-inferiority); Browne 1995.
"""

from collections.abc import Sequence

import numpy as np
from scipy import special

from analysis.stats.group_sequential import ALPHA, levels_of_plan, planned_looks
from analysis.stats.means import student_t

ASSURANCE = 0.8
MOST_REPLICATES = 10_000  # more are no plan
LARGEST_NONCENTRALITY = 35.0  # beyond, the power is 1 in double precision unless n is 2 or 3 and alpha tiny


def power(replicates: int, effect: float, alpha: float = ALPHA) -> float:
    """The probability that the t-test of `replicates` at the one-sided level `alpha` rejects (top of the file)."""
    noncentrality = min(effect * replicates**0.5, LARGEST_NONCENTRALITY)
    return float(1 - special.nctdtr(replicates - 1, noncentrality, student_t(1 - alpha, replicates)))


def replicates_for(effect: float, wanted: float) -> int | None:
    """The fewest replicates with the power `wanted`; None where MOST_REPLICATES are too few, as for an effect of 0."""
    return replicates_for_all([effect], wanted)


def power_of_all(replicates: int, effects: Sequence[float]) -> float:
    """A lower bound of the probability that the tests of all `effects` reject, however they depend on each other.

    By Bonferroni's inequality it is 1 minus the sum of their probabilities to fail, or 0; of one effect it is `power`.
    """
    return max(0.0, 1 - sum(1 - power(replicates, effect) for effect in effects))


def replicates_for_all(effects: Sequence[float], wanted: float) -> int | None:
    """The fewest replicates for which `power_of_all` is `wanted`; None as above."""
    if min(effects) <= 0 or power_of_all(MOST_REPLICATES, effects) < wanted:
        return None
    low, high = 1, 2  # too few, and perhaps enough
    while power_of_all(high, effects) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of_all(middle, effects) >= wanted else (middle, high)
    return high


def cap_for(effect: float, wanted: float, first: int) -> int | None:
    """The smallest cap of a sequential test of power `wanted`, with a first look after `first`; None as above.

    Counted is the power of the last look alone, so the true one is a little higher: looks before it reject where it
    would not have, but rarely.
    """
    cap = replicates_for(effect, wanted)
    while cap is not None and cap <= MOST_REPLICATES:
        cap = max(cap, first + 1)
        if power(cap, effect, levels_of_plan(planned_looks(first, cap))[-1]) >= wanted:
            return cap
        cap += 1 + cap // 50
    return None


def upper_limit_of_deviation(deviation: float, replicates: int, assurance: float = ASSURANCE) -> float:
    """The limit below which the true standard deviation is with probability `assurance`, from that of n values."""
    return float(deviation * np.sqrt((replicates - 1) / special.chdtri(replicates - 1, assurance)))
