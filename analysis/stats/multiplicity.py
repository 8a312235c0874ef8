"""P-values corrected for how many were looked at: with twenty measures one will reach 0.05 by chance.

Holm's correction bounds the chance of a single false claim (family-wise error), whatever the tests' dependence; that of
Benjamini and Hochberg bounds the expected share of false claims among those made (false discovery rate), for tests that
are independent or positively dependent. Sharpness measures of the same minima are the latter.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Correction = Literal["holm", "benjamini_hochberg"]


def corrected(p_values: Sequence[float | None], method: Correction = "holm") -> list[float | None]:
    """The corrected p-values, in place; None stays None and counts as no test.

        Holm:                 p~_(k) = max_{j <= k} min(1, (m - j + 1) p_(j))      of m p-values in rising order
        Benjamini, Hochberg:  p~_(k) = min_{j >= k} min(1, m p_(j) / j)

    Sources: Holm 1979; Benjamini and Hochberg 1995 (scipy.stats.false_discovery_control).
    """
    places = [place for place, p in enumerate(p_values) if p is not None]
    known = np.array([p for p in p_values if p is not None], dtype=np.float64)
    if method == "holm":
        order = np.argsort(known, kind="stable")
        stepped = np.minimum(1.0, known[order] * np.arange(known.size, 0, -1))
        found = np.empty_like(known)
        found[order] = np.maximum.accumulate(stepped)
    else:
        from scipy import stats  # half a second, which Holm's correction does without

        found = stats.false_discovery_control(known) if known.size else known
    results: list[float | None] = [None] * len(p_values)
    for place, p in zip(places, found, strict=True):
        results[place] = float(p)
    return results
