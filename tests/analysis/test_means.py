"""analysis.means: worked by hand first, then against SciPy, and Fieller's interval against the t-test it inverts."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.means import (
    Interval,
    differences_by_replicate,
    mean_over_replicates,
    paired_difference,
    ratio_of_means,
)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def replicates(**columns):
    return pd.DataFrame(columns)


def test_mean_by_hand_counts_replicates_not_trials():
    # Replicate means 1, 2, 3: mean 2, s = 1, half-width t(0.975, 2) / sqrt(3) = 4.302653 / 1.732051
    frame = replicates(replicate=[0, 0, 1, 1, 2], value=[0.0, 2.0, 1.5, 2.5, 3.0])
    mean = mean_over_replicates(frame, "value")
    assert (mean.value, mean.replicates, mean.trials) == (2.0, 3, 5)
    assert mean.interval.high == pytest.approx(2 + 4.30265273 / 3**0.5, abs=1e-7)
    assert mean.interval.low == pytest.approx(2 - 4.30265273 / 3**0.5, abs=1e-7)


def test_mean_is_scipys_t_interval_test_and_one_sided_bound():
    values = np.random.default_rng(6).normal(0.5, 1, size=7)
    mean = mean_over_replicates(replicates(replicate=range(7), value=values), "value")
    reference = stats.ttest_1samp(values, 0)
    interval = reference.confidence_interval(0.95)
    assert (mean.interval.low, mean.interval.high) == pytest.approx((interval.low, interval.high))
    assert mean.p_value == pytest.approx(reference.pvalue)
    assert mean.standard_error == pytest.approx(stats.sem(values))
    one_sided = stats.ttest_1samp(values, 0, alternative="less").confidence_interval(0.95)
    assert mean.upper_bound() == pytest.approx(one_sided.high)


def test_log_mean_is_geometric_and_leaves_out_zeros():
    frame = replicates(replicate=[0, 1, 2], value=[1.0, 100.0, 0.0])
    mean = mean_over_replicates(frame, "value", scale="log")
    assert mean.value == pytest.approx(10.0)
    assert mean.interval.low > 0
    assert mean.replicates == 2


def test_means_without_an_interval():
    one = mean_over_replicates(replicates(replicate=[0, 0], value=[1.0, 2.0]), "value")
    assert one.value == 1.5
    assert (one.interval, one.p_value, one.upper_bound(), one.standard_error) == (None, None, None, None)
    alike = mean_over_replicates(replicates(replicate=[0, 1], value=[0.1, 0.1]), "value")
    assert alike.interval is None
    assert mean_over_replicates(replicates(replicate=[0], value=[np.nan]), "value") is None


def test_paired_difference_by_hand():
    # Splits differ by 10, which pairing removes: differences 1 and 3 in replicate 0, 2 in replicate 1.
    first = replicates(replicate=[0, 0, 1], matched_set=[0, 1, 2], value=[11.0, 13.0, 2.0])
    second = replicates(replicate=[0, 0, 1, 1], matched_set=[0, 1, 2, 3], value=[10.0, 10.0, 0.0, 99.0])
    found = paired_difference(first, second, "value")
    assert found.value == 2.0
    assert found.replicates == 2
    assert found.interval is None  # both replicates say 2
    assert differences_by_replicate(first, second, "value")["mean"].to_dict() == {0: 2.0, 1: 2.0}
    assert paired_difference(first, second.assign(matched_set=9), "value") is None


def test_paired_ratio_by_hand():
    # Ratios 2 and 8 in replicate 0 (geometric mean 4), 1 in replicate 1: together 2.
    first = replicates(replicate=[0, 0, 1], remedy_set=[0, 1, 2], value=[2.0, 8.0, 5.0])
    second = replicates(replicate=[0, 0, 1], remedy_set=[0, 1, 2], value=[1.0, 1.0, 5.0])
    found = paired_difference(first, second, "value", match="remedy_set", scale="log")
    assert found.value == pytest.approx(2.0)
    assert found.trials == 3
    assert found.interval.low == pytest.approx(4.0 / found.interval.high)


def test_fiellers_interval_ends_where_the_t_test_turns():
    generator = np.random.default_rng(1)
    gain, gap = pd.Series(generator.normal(0.5, 0.2, 6)), pd.Series(generator.normal(1.0, 0.2, 6))
    found = ratio_of_means(gain, gap)
    assert found.value == pytest.approx(gain.mean() / gap.mean())
    for end in (found.interval.low, found.interval.high):
        assert stats.ttest_1samp(gain - end * gap, 0).pvalue == pytest.approx(0.05, abs=1e-9)
    assert stats.ttest_1samp(gain - found.value * gap, 0).pvalue == pytest.approx(1.0)


def test_a_ratio_to_what_may_be_zero_has_no_interval():
    gain, gap = pd.Series([1.0, 2.0, 3.0]), pd.Series([1.0, -1.0, 0.5])
    assert ratio_of_means(gain, gap).interval is None
    assert ratio_of_means(gain, pd.Series([1.0, -1.0, 0.0])) is None
    assert ratio_of_means(gain[:1], gap).interval is None
    assert ratio_of_means(gain, gap[3:]) is None


def test_interval_holds_its_ends():
    assert Interval(0.0, 1.0).holds(0.0)
    assert not Interval(0.1, 1.0).holds(0.0)
