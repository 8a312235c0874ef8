"""Ranks under many weightings, against ranks of the points written out as often as they occur."""

import numpy as np
import pytest
from scipy import stats

from analysis.ranks import StratumRanks


def written_out(values, strata, counts):
    """(R - (N + 1) / 2) / N of each point that occurs, from SciPy's mid-ranks; NaN of the others."""
    found = np.full(len(values), np.nan)
    for stratum in np.unique(strata):
        places = np.repeat(*(part[strata == stratum] for part in (np.arange(len(values)), counts)))
        ranks = stats.rankdata(values[places])
        found[places] = (ranks - (len(places) + 1) / 2) / max(1, len(places))
    return found


@pytest.mark.parametrize("levels", [3, 10**6])  # many ties, and none
@pytest.mark.parametrize("number_of_strata", [1, 6])
def test_they_are_the_ranks_of_the_points_written_out(levels, number_of_strata):
    generator = np.random.default_rng(levels + number_of_strata)
    columns = generator.integers(0, levels, (2, 40)).astype(float)
    strata = np.sort(generator.integers(0, number_of_strata, 40))
    weights = generator.poisson(1, (25, 40))
    weights[0], weights[1] = 1, strata == strata[-1]  # a stratum that never occurs
    for values, ranks in zip(columns, StratumRanks(columns, strata)(weights), strict=True):
        for row, counts in zip(ranks, weights, strict=True):
            expected = written_out(values, strata, counts)
            assert row[counts > 0] == pytest.approx(expected[counts > 0], abs=1e-15)


def test_ranks_by_hand():
    ranks = StratumRanks([np.array([5.0, 7.0, 7.0, 1.0])], np.array([0, 0, 0, 1]))
    (found,) = ranks(np.array([[1, 1, 1, 1], [2, 1, 0, 3]]))
    assert found[0] == pytest.approx([-1 / 3, 1 / 6, 1 / 6, 0], abs=1e-15)
    assert found[1] == pytest.approx([-1 / 6, 1 / 3, 1 / 3, 0], abs=1e-15)  # 5 5 7: ranks 1.5 1.5 3
