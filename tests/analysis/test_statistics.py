"""analysis.statistics: worked by hand first, then against SciPy and naive loops."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import (
    Interval,
    granulated_kendall,
    mean_over_replicates,
    paired_difference,
    rank_correlation,
)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_spearman_by_hand():
    # ranks 1 2 3 4 and 2 1 4 3: rho = 1 - 6 * 4 / (4 * 15) = 0.6
    assert rank_correlation([1, 2, 3, 4], [20, 10, 40, 30], range(4)).value == pytest.approx(0.6, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_is_scipys(ties):
    generator = np.random.default_rng(1)
    x = generator.integers(0, 5, 40) if ties else generator.normal(size=40)
    y = x + generator.integers(0, 4, 40)
    found = rank_correlation(x, y, np.arange(40))
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert (found.trials, found.groups) == (40, 40)


def test_it_is_invariant_to_monotone_maps_and_leaves_out_what_is_not_finite():
    generator = np.random.default_rng(2)
    x, y = generator.normal(size=30), generator.normal(size=30)
    groups = np.arange(30) // 3
    plain = rank_correlation(x, y, groups)
    assert rank_correlation(np.exp(x), y**3, groups) == plain
    holes = rank_correlation([*x, np.nan, 1.0], [*y, 1.0, np.inf], [*groups, 99, 100])
    assert holes == plain


def test_interval_is_that_of_a_naive_cluster_bootstrap():
    generator = np.random.default_rng(3)
    groups = np.repeat(np.arange(8), 4)
    x = generator.normal(size=8)[groups] + 0.3 * generator.normal(size=32)
    y = x + generator.normal(size=8)[groups]
    found = rank_correlation(x, y, groups, resamples=500, seed=7)
    drawn = np.random.default_rng(7).multinomial(8, np.full(8, 1 / 8), size=500)
    values = []
    for counts in drawn:
        picked = np.concatenate([np.tile(np.flatnonzero(groups == g), counts[g]) for g in range(8)])
        values.append(stats.spearmanr(x[picked], y[picked]).statistic)
    low, high = np.quantile(values, [0.025, 0.975])
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=1e-12)
    assert found == rank_correlation(x, y, groups, resamples=500, seed=7)
    assert found.interval != rank_correlation(x, y, groups, resamples=500, seed=8).interval


def test_interval_covers_and_clusters_widen_it():
    generator = np.random.default_rng(4)
    groups, narrow, wide = np.repeat(np.arange(12), 10), [], []
    for _ in range(20):
        shared = generator.multivariate_normal([0, 0], [[1, 0], [0, 1]], size=12)
        x, y = shared[groups].T + 0.1 * generator.normal(size=(2, 120))
        wide.append(rank_correlation(x, y, groups, resamples=200).interval)
        narrow.append(rank_correlation(x, y, np.arange(120), resamples=200).interval)
    assert sum(interval.holds(0) for interval in wide) >= 15  # of 20; the naive one is far too narrow
    assert np.mean([i.high - i.low for i in wide]) > 2 * np.mean([i.high - i.low for i in narrow])


def test_stratified_ranks_see_through_simpsons_paradox():
    # Inside each stratum y rises with x; across strata it falls.
    x, y = [1, 2, 3, 11, 12, 13], [11, 12, 13, 1, 2, 3]
    assert rank_correlation(x, y, range(6)).value < 0
    assert rank_correlation(x, y, range(6), strata=["a"] * 3 + ["b"] * 3).value == pytest.approx(1.0)


def test_stratified_correlation_of_equal_strata_is_the_mean_of_theirs():
    generator = np.random.default_rng(5)
    x, y = generator.normal(size=(2, 4, 9))
    parts = [stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    found = rank_correlation(x.ravel(), y.ravel(), np.arange(36), strata=np.repeat(np.arange(4), 9))
    assert found.value == pytest.approx(np.mean(parts), abs=1e-12)


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([1, 2], [1, 2]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3, 4], [np.nan] * 4)]
)
def test_degenerate_correlations_are_none(x, y):
    found = rank_correlation(x, y, range(len(x)))
    assert found.value is None
    assert found.interval is None


def test_singletons_and_constant_strata_are_undefined():
    assert rank_correlation([1, 2, 3], [3, 1, 2], range(3), strata=range(3)).value is None


def test_few_groups_have_no_interval():
    found = rank_correlation([1, 2, 3, 4], [1, 3, 2, 4], range(4))
    assert found.value == pytest.approx(0.8)
    assert found.interval is None


def replicates(**columns):
    return pd.DataFrame(columns)


def test_mean_by_hand_counts_replicates_not_trials():
    # Replicate means 1, 2, 3: mean 2, s = 1, half-width t(0.975, 2) / sqrt(3) = 4.302653 / 1.732051
    frame = replicates(replicate=[0, 0, 1, 1, 2], value=[0.0, 2.0, 1.5, 2.5, 3.0])
    mean = mean_over_replicates(frame, "value")
    assert (mean.value, mean.replicates, mean.trials) == (2.0, 3, 5)
    assert mean.interval.high == pytest.approx(2 + 4.30265273 / 3**0.5, abs=1e-7)
    assert mean.interval.low == pytest.approx(2 - 4.30265273 / 3**0.5, abs=1e-7)


def test_mean_is_scipys_t_interval():
    values = np.random.default_rng(6).normal(size=7)
    mean = mean_over_replicates(replicates(replicate=range(7), value=values), "value")
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean.interval.low, mean.interval.high) == pytest.approx((reference.low, reference.high))


def test_log_mean_is_geometric_and_leaves_out_zeros():
    frame = replicates(replicate=[0, 1, 2], value=[1.0, 100.0, 0.0])
    mean = mean_over_replicates(frame, "value", scale="log")
    assert mean.value == pytest.approx(10.0)
    assert mean.interval.low > 0
    assert mean.replicates == 2


def test_means_without_an_interval():
    one = mean_over_replicates(replicates(replicate=[0, 0], value=[1.0, 2.0]), "value")
    assert one.value == 1.5
    assert one.interval is None
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
    assert paired_difference(first, second.assign(matched_set=9), "value") is None


def test_granulated_kendall_by_hand():
    # Along batch at lr 1: (1, 2, 3) against (1, 3, 2): 1/3; at lr 2: (3, 2, 1) against (1, 2, 3): -1.
    frame = pd.DataFrame(
        {"batch": [1, 2, 3] * 2, "lr": [1] * 3 + [2] * 3, "mu": [1, 2, 3, 3, 2, 1], "g": [1, 3, 2, 1, 2, 3]}
    )
    found = granulated_kendall(frame, "mu", "g", ["batch", "lr"])
    # Along lr at batch 1 g is tied and at 2 mu is: undefined; at 3 mu falls as g rises: -1.
    assert found.coefficients == {"batch": pytest.approx(-1 / 3), "lr": -1.0}
    assert found.mean == pytest.approx(-2 / 3)


def naive_granulated_kendall(rows, axes):
    """psi_i of Jiang et al. 2020 by loops over the other axes' settings, with tau-a over pairs (no ties)."""
    coefficients = {}
    for axis in axes:
        others, taus = [name for name in axes if name != axis], []
        for setting in itertools.product(*[sorted({row[name] for row in rows}) for name in others]):
            cell = [row for row in rows if all(row[n] == v for n, v in zip(others, setting, strict=True))]
            pairs = list(itertools.combinations(cell, 2))
            if pairs:
                agree = [np.sign(a["mu"] - b["mu"]) * np.sign(a["g"] - b["g"]) for a, b in pairs]
                taus.append(np.mean(agree))
        coefficients[axis] = np.mean(taus)
    return coefficients


@pytest.mark.parametrize("holes", [0, 9])
def test_granulated_kendall_is_the_naive_one_with_and_without_holes(holes):
    generator = np.random.default_rng(7)
    rows = [
        {"a": a, "b": b, "c": c, "mu": generator.normal(), "g": generator.normal()}
        for a, b, c in itertools.product(range(4), range(3), range(3))
    ][holes:]
    found = granulated_kendall(pd.DataFrame(rows), "mu", "g", ["a", "b", "c"])
    assert found.coefficients == pytest.approx(naive_granulated_kendall(rows, ["a", "b", "c"]))
    assert found.mean == pytest.approx(np.mean(list(found.coefficients.values())))


def test_granulated_kendall_takes_null_as_a_value_and_holds_replicates_fixed():
    frame = pd.DataFrame(
        {"switch": [np.nan, 5.0] * 2, "seed": [0, 0, 1, 1], "mu": [1.0, 2.0, 11.0, 12.0], "g": [5, 6, 1, 2]}
    )
    found = granulated_kendall(frame, "mu", "g", ["switch"], within=["seed"])
    assert found.coefficients == {"switch": 1.0}
    assert granulated_kendall(frame, "mu", "g", ["switch"]).mean < 0


def test_granulated_kendall_undefined():
    frame = pd.DataFrame({"a": [1, 2], "b": [1, 1], "mu": [1.0, np.nan], "g": [1.0, 2.0]})
    found = granulated_kendall(frame, "mu", "g", ["a", "b"])
    assert found.coefficients == {"a": None, "b": None}
    assert found.mean is None
    assert granulated_kendall(frame.iloc[:0], "mu", "g", ["a", "b"]).mean is None


def test_interval_holds_its_ends():
    assert Interval(0.0, 1.0).holds(0.0)
    assert not Interval(0.1, 1.0).holds(0.0)
