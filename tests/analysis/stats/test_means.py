"""analysis.stats.means: worked by hand first, then against SciPy, and Fieller's interval against the t-test it
inverts.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from narrow import not_none
from scipy import stats

from analysis.stats.means import (
    Interval,
    Mean,
    differences_by_replicate,
    mean_over_replicates,
    paired_difference,
    ratio_of_means,
)


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def replicates(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_mean_by_hand_counts_replicates_not_trials() -> None:
    # Replicate means 1, 2, 3: mean 2, s = 1, half-width t(0.975, 2) / sqrt(3) = 4.302653 / 1.732051
    frame = replicates(replicate=[0, 0, 1, 1, 2], value=[0.0, 2.0, 1.5, 2.5, 3.0])
    mean = not_none(mean_over_replicates(frame, "value"))
    assert (mean.value, mean.replicates, mean.trials) == (2.0, 3, 5)
    assert not_none(mean.interval).high == pytest.approx(2 + 4.30265273 / 3**0.5, abs=1e-7)
    assert not_none(mean.interval).low == pytest.approx(2 - 4.30265273 / 3**0.5, abs=1e-7)


@pytest.mark.parametrize("factor", [2.0**1000, 2.0**-1000])
def test_the_size_of_the_values_does_not_matter(factor: float) -> None:
    """Squares of 1e300 are beyond the range of floats; they used to give a warning and an interval of -inf to inf."""
    first, second = (replicates(replicate=range(4), matched_set=0, value=v) for v in ([1.0, 2, 4, 7], [1.5, 2, 2, 3]))
    large, larger = (frame.assign(value=frame["value"] * factor) for frame in (first, second))
    assert mean_over_replicates(large, "value") == not_none(mean_over_replicates(first, "value")).times(factor)
    difference = not_none(paired_difference(first, second, "value"))
    assert paired_difference(large, larger, "value") == difference.times(factor)
    ratio = ratio_of_means(first["value"], second["value"])
    assert ratio_of_means(large["value"], larger["value"]) == ratio
    assert not_none(ratio).interval is not None


def test_mean_is_scipys_t_interval_and_test() -> None:
    values = np.random.default_rng(6).normal(0.5, 1, size=7)
    mean = not_none(mean_over_replicates(replicates(replicate=range(7), value=values), "value"))
    reference = stats.ttest_1samp(values, 0)
    interval = reference.confidence_interval(0.95)
    assert (not_none(mean.interval).low, not_none(mean.interval).high) == pytest.approx((interval.low, interval.high))
    assert mean.p_value == pytest.approx(reference.pvalue)
    assert mean.standard_error == pytest.approx(stats.sem(values))
    together = mean.simultaneous(5)
    wide = reference.confidence_interval(0.99)
    assert (not_none(together.interval).low, not_none(together.interval).high) == pytest.approx((wide.low, wide.high))
    assert (together.p_value, together.standard_error) == pytest.approx((mean.p_value, mean.standard_error))


def test_log_mean_is_geometric_and_leaves_out_zeros() -> None:
    frame = replicates(replicate=[0, 1, 2], value=[1.0, 100.0, 0.0])
    mean = not_none(mean_over_replicates(frame, "value", scale="log"))
    assert mean.value == pytest.approx(10.0)
    assert not_none(mean.interval).low > 0
    assert mean.replicates == 2


def test_means_without_an_interval() -> None:
    one = not_none(mean_over_replicates(replicates(replicate=[0, 0], value=[1.0, 2.0]), "value"))
    assert one.value == 1.5
    assert (one.interval, one.p_value, one.standard_error, one.simultaneous(3)) == (None, None, None, one)
    alike = not_none(mean_over_replicates(replicates(replicate=[0, 1], value=[0.1, 0.1]), "value"))
    assert alike.interval is None
    assert mean_over_replicates(replicates(replicate=[0], value=[np.nan]), "value") is None


def test_replicates_that_agree_have_an_interval_from_the_resolution_of_the_test_set() -> None:
    # Six replicates lose exactly one of 100 images, in one cell each: s is half a step, 0.005.
    first = replicates(replicate=range(6), matched_set=range(6), test_accuracy=[0.90] * 6, test_size=[100] * 6)
    second = first.assign(test_accuracy=0.89)
    found = not_none(paired_difference(first, second, "test_accuracy"))
    half = stats.t.ppf(0.975, 5) * 0.005 / 6**0.5
    assert (not_none(found.interval).low, not_none(found.interval).high) == pytest.approx((0.01 - half, 0.01 + half))
    assert not_none(found.p_value) < 0.01
    # In four cells of each replicate a step of their mean is a quarter of that.
    four, other_four = (
        pd.concat([side.assign(matched_set=side["matched_set"] + 10 * k) for k in range(4)]) for side in (first, second)
    )
    narrow = not_none(paired_difference(four, other_four, "test_accuracy"))
    assert not_none(narrow.interval).high - narrow.value == pytest.approx(half / 4)
    # A spread that is seen is taken as it is.
    seen = first.assign(test_accuracy=[0.90, 0.95, 0.93, 0.91, 0.92, 0.99])
    assert not_none(paired_difference(seen, second, "test_accuracy")).standard_error == pytest.approx(
        stats.sem(seen["test_accuracy"])
    )


def test_the_floor_covers_what_agreement_of_all_replicates_leaves_possible() -> None:
    # All n may agree although each differs by a step with probability up to 1 - 0.025^(1/n) (Clopper and Pearson).
    for n in range(2, 30):
        frame = replicates(replicate=range(n), value=[0.5] * n)
        found = not_none(mean_over_replicates(frame, "value", step=0.01))
        assert not_none(found.interval).high - 0.5 >= 0.01 * (1 - 0.025 ** (1 / n))


def test_values_chosen_by_the_other_replicates_have_a_wider_interval() -> None:
    frame = replicates(replicate=range(4), value=[0.1, 0.4, 0.2, 0.5])
    plain, chosen = (mean_over_replicates(frame, "value", chosen=left_out) for left_out in (False, True))
    assert not_none(chosen).value == not_none(plain).value
    assert not_none(chosen).standard_error == pytest.approx(np.std(frame["value"], ddof=1) * (1 / 4 + 1 / 3) ** 0.5)
    assert not_none(plain).standard_error == pytest.approx(np.std(frame["value"], ddof=1) / 2)


def test_geometric_means_stay_within_the_range_of_floats() -> None:
    found = not_none(
        mean_over_replicates(replicates(replicate=range(4), value=[1e300, 1.0, 2.0, 1.5]), "value", scale="log")
    )
    assert found.value == pytest.approx((3e300) ** 0.25)
    assert 0 < not_none(found.interval).low < found.value < not_none(found.interval).high < np.inf


def test_paired_difference_by_hand() -> None:
    # Splits differ by 10, which pairing removes: differences 1 and 3 in replicate 0, 2 in replicate 1.
    first = replicates(replicate=[0, 0, 1], matched_set=[0, 1, 2], value=[11.0, 13.0, 2.0])
    second = replicates(replicate=[0, 0, 1, 1], matched_set=[0, 1, 2, 3], value=[10.0, 10.0, 0.0, 99.0])
    found = not_none(paired_difference(first, second, "value"))
    assert found.value == 2.0
    assert found.replicates == 2
    assert found.interval is None  # both replicates say 2
    assert differences_by_replicate(first, second, "value")["mean"].to_dict() == {0: 2.0, 1: 2.0}
    assert paired_difference(first, second.assign(matched_set=9), "value") is None


def test_paired_ratio_by_hand() -> None:
    # Ratios 2 and 8 in replicate 0 (geometric mean 4), 1 in replicate 1: together 2.
    first = replicates(replicate=[0, 0, 1], remedy_set=[0, 1, 2], value=[2.0, 8.0, 5.0])
    second = replicates(replicate=[0, 0, 1], remedy_set=[0, 1, 2], value=[1.0, 1.0, 5.0])
    found = not_none(paired_difference(first, second, "value", match="remedy_set", scale="log"))
    assert found.value == pytest.approx(2.0)
    assert found.trials == 3
    assert not_none(found.interval).low == pytest.approx(4.0 / not_none(found.interval).high)


def test_fiellers_interval_ends_where_the_t_test_turns() -> None:
    generator = np.random.default_rng(1)
    gain, gap = pd.Series(generator.normal(0.5, 0.2, 6)), pd.Series(generator.normal(1.0, 0.2, 6))
    found = not_none(ratio_of_means(gain, gap))
    assert found.value == pytest.approx(gain.mean() / gap.mean())
    for end in (not_none(found.interval).low, not_none(found.interval).high):
        assert stats.ttest_1samp(gain - end * gap, 0).pvalue == pytest.approx(0.05, abs=1e-9)
    assert stats.ttest_1samp(gain - found.value * gap, 0).pvalue == pytest.approx(1.0)


def test_fiellers_interval_for_several_comparisons_is_that_of_a_stricter_test() -> None:
    generator = np.random.default_rng(1)
    gain, gap = pd.Series(generator.normal(0.5, 0.2, 6)), pd.Series(generator.normal(1.0, 0.2, 6))
    found = not_none(ratio_of_means(gain, gap, comparisons=5))
    assert stats.ttest_1samp(gain - not_none(found.interval).low * gap, 0).pvalue == pytest.approx(0.01, abs=1e-9)
    # gains and gaps that agree in all replicates: the resolution alone gives the interval
    equal = not_none(ratio_of_means(gain * 0 + 0.01, gap * 0 + 0.02, step=0.001))
    spread = stats.t.ppf(0.975, 5) * 0.0005 / 6**0.5
    assert not_none(equal.interval).low < (0.01 - spread) / 0.02 < equal.value == 0.5 < not_none(equal.interval).high


def test_a_ratio_to_what_may_be_zero_has_no_interval() -> None:
    gain, gap = pd.Series([1.0, 2.0, 3.0]), pd.Series([1.0, -1.0, 0.5])
    assert not_none(ratio_of_means(gain, gap)).interval is None
    assert ratio_of_means(gain, pd.Series([1.0, -1.0, 0.0])) is None
    assert not_none(ratio_of_means(gain[:1], gap)).interval is None
    assert ratio_of_means(gain, gap[3:]) is None


def test_interval_holds_its_ends() -> None:
    assert Interval(0.0, 1.0).holds(0.0)
    assert not Interval(0.1, 1.0).holds(0.0)


def test_a_mean_in_another_unit() -> None:
    mean = Mean(2.0, Interval(1.0, 4.0), 3, 6)
    assert mean.times(60) == Mean(120.0, Interval(60.0, 240.0), 3, 6)
    assert mean.times(-1) == Mean(-2.0, Interval(-4.0, -1.0), 3, 6)
    assert Mean(2.0, None, 1, 1).times(3) == Mean(6.0, None, 1, 1)
