"""analysis.stats.multiplicity: worked by hand, then against SciPy and the definition."""

import numpy as np
import pytest
from narrow import not_none
from scipy import stats

from analysis.stats.multiplicity import corrected

P = [0.01, 0.04, 0.03, 0.005]


def test_holm_by_hand() -> None:
    # In order: 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1, none below the one before it.
    assert corrected(P, "holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_benjamini_hochberg_by_hand() -> None:
    # In order: 0.005 * 4 / 1, 0.01 * 4 / 2, 0.03 * 4 / 3, 0.04 * 4 / 4, none above the one after it.
    assert corrected(P, "benjamini_hochberg") == pytest.approx([0.02, 0.04, 0.04, 0.02])


def test_benjamini_hochberg_is_scipys() -> None:
    p = np.random.default_rng(0).uniform(size=30)
    assert corrected(p.tolist(), "benjamini_hochberg") == pytest.approx(stats.false_discovery_control(p))


def test_holm_rejects_what_the_step_down_procedure_rejects() -> None:
    p = np.random.default_rng(1).uniform(size=12) ** 4
    rejected, remaining = set(), sorted(range(12), key=lambda k: p[k])
    for place, k in enumerate(remaining):
        if p[k] > 0.05 / (12 - place):
            break
        rejected.add(k)
    assert {k for k, value in enumerate(corrected(p.tolist())) if not_none(value) <= 0.05} == rejected


def test_null_is_no_test_and_one_is_the_most() -> None:
    assert corrected([None, 0.02, None, 0.9]) == [None, pytest.approx(0.04), None, pytest.approx(0.9)]
    assert corrected([0.8, 0.7]) == [1.0, 1.0]
    assert corrected([None]) == [None]
    assert corrected([], "benjamini_hochberg") == []
