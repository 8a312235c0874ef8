"""Power and the number of replicates: against SciPy's noncentral t, known sample sizes, and simulated pilots."""

import numpy as np
import pytest
from scipy import stats
from simulations.sequential import Study, errors, fixed_power, plans

from analysis.stats.group_sequential import planned_looks
from analysis.stats.power import (
    ASSURANCE,
    cap_for,
    power,
    power_of_all,
    replicates_for,
    replicates_for_all,
    upper_limit_of_deviation,
)


@pytest.mark.parametrize(("count", "effect"), [(2, 0.1), (3, 1.0), (4, 2.0), (10, 0.9), (50, 0.4)])
def test_power_is_that_of_the_noncentral_t(count: int, effect: float) -> None:
    limit = stats.t.ppf(0.975, count - 1)
    assert power(count, effect) == pytest.approx(stats.nct.sf(limit, count - 1, effect * count**0.5), rel=1e-8)
    assert power(count, 0.0) == pytest.approx(0.025, rel=1e-8)


def test_known_sample_sizes() -> None:
    """One-sample t-test at one-sided 2.5 %, power 80 %: 34 at an effect of 0.5, 10 at 1 (Cohen 1988)."""
    assert replicates_for(0.5, 0.8) == 34
    assert replicates_for(1.0, 0.8) == 10
    assert power(9, 1.0) < 0.8 <= power(10, 1.0)


def test_no_number_for_no_effect() -> None:
    assert replicates_for(0.0, 0.8) is None
    assert replicates_for(0.001, 0.8) is None
    assert cap_for(0.0, 0.8, 4) is None


def test_a_cap_of_hundreds_of_replicates() -> None:
    """As of a loss near the margin; the first look is far too early to decide anything."""
    cap = cap_for(0.095, 0.8, 4)
    assert cap is not None
    assert replicates_for(0.095, 0.8) == 872
    assert 872 <= cap < 872 * 1.07  # 4 % for the stricter last look, and 2 % for the steps of the search


@pytest.mark.parametrize("effect", [0.8, 1.5, 3.0])
def test_promised_power_is_met(effect: float) -> None:
    random = np.random.default_rng(1)
    count, cap = replicates_for(effect, 0.8), cap_for(effect, 0.8, 3)
    assert count is not None
    assert cap is not None
    assert fixed_power(count, effect, random, 40_000) == pytest.approx(power(count, effect), abs=4 * 0.5 / 200)
    looks = planned_looks(3, cap)
    found = errors(Study("no loss", looks, (0.0,), sigma=1 / effect), random, 40_000)
    # Its own promise is the power of the last look alone, which is at least what was asked for.
    assert 0.8 - 4 * 0.4 / 200 < found.answered < power(cap, effect) + 0.03


def test_upper_limit_of_the_deviation_holds_as_often_as_promised() -> None:
    random = np.random.default_rng(2)
    deviations = random.standard_normal((40_000, 4)).std(axis=1, ddof=1)
    limits = np.array([upper_limit_of_deviation(float(value), 4) for value in deviations[:4000]])
    assert (limits > 1).mean() == pytest.approx(ASSURANCE, abs=4 * 0.4 / 4000**0.5)
    assert upper_limit_of_deviation(1.0, 4) == pytest.approx((3 / stats.chi2.ppf(0.2, 3)) ** 0.5, rel=1e-10)


def test_safe_plans_have_the_power_in_the_promised_share_of_pilots() -> None:
    found = plans(4, 1.0, 0.8, np.random.default_rng(3), 1500)
    assert (found["safe"] >= 0.8).mean() >= ASSURANCE - 4 * 0.4 / 1500**0.5
    assert (found["plug-in"] >= 0.8).mean() < 0.6


@pytest.mark.parametrize("shared", [0.0, 0.7])
def test_all_tests_reject_together_at_least_as_often_as_promised(shared: float) -> None:
    """Three batch sizes, independent or with the noise of the smallest batch in common: each rejects as often as its
    own power says, and all together at least as often as the bound, which is below the power of the weakest."""
    random, count, effects, runs = np.random.default_rng(4), 20, [0.7, 0.8, 1.0], 20_000
    common = random.standard_normal((runs, 1, count))
    own = random.standard_normal((runs, len(effects), count))
    losses = np.array(effects)[:, None] + shared**0.5 * common + (1 - shared) ** 0.5 * own
    statistic = losses.mean(axis=2) / losses.std(axis=2, ddof=1) * count**0.5
    rejected = statistic > stats.t.ppf(0.975, count - 1)
    error = 4 * 0.5 / runs**0.5
    assert rejected.mean(axis=0) == pytest.approx([power(count, effect) for effect in effects], abs=error)
    promised, together = power_of_all(count, effects), float(rejected.all(axis=1).mean())
    assert promised - error < together < power(count, effects[0]) + error
    if shared == 0:
        assert together == pytest.approx(np.prod([power(count, effect) for effect in effects]), abs=error)


def test_replicates_for_all_are_the_fewest() -> None:
    count = replicates_for_all([0.7, 0.8], 0.8)
    assert count is not None
    assert power_of_all(count - 1, [0.7, 0.8]) < 0.8 <= power_of_all(count, [0.7, 0.8])
    assert power_of_all(2, [0.1, 0.1]) == 0.0
    assert replicates_for_all([0.7, 0.0], 0.8) is None
