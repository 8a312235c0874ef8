"""analysis.statistics: worked by hand first, then against SciPy, least squares and naive loops."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import (
    bootstrapped,
    granulated_kendall,
    partial_rank_correlation,
    rank_correlation,
    rank_correlations,
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


def test_p_value_by_hand():
    # Of 10 resamples 8 are above 0, one is 0 and one below: p = 2 * 2 / 10, as 0 counts on both sides.
    values = iter([np.array([[0.5]]), np.array([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.0, -0.1]])])
    (found,) = bootstrapped(lambda counts: next(values), 1, 5, 10, 0, trials=5)
    assert found.p_value == pytest.approx(0.4)
    values = iter([np.array([[0.5]]), np.full((1, 10), 0.5)])
    (found,) = bootstrapped(lambda counts: next(values), 1, 5, 10, 0, trials=5)
    assert found.p_value == pytest.approx(0.1)  # 1 / B


def test_p_value_is_below_5_percent_where_the_interval_leaves_out_zero():
    generator = np.random.default_rng(8)
    for strength in np.linspace(0, 0.8, 12):
        x = generator.normal(size=40)
        found = rank_correlation(x, strength * x + generator.normal(size=40), np.arange(40), resamples=400)
        if abs(found.p_value - 0.05) > 0.01:  # a quantile lies between two resamples
            assert (found.p_value < 0.05) == (not found.interval.holds(0))


def test_partial_correlation_of_ranks_by_hand():
    # Ranks x 1 2 3 4 5, y 2 1 4 3 5, z 1 3 2 5 4: r_xy = 0.8, r_xz = 0.8, r_yz = 0.3
    # partial = (0.8 - 0.8 * 0.3) / sqrt((1 - 0.64) (1 - 0.09)) = 0.56 / sqrt(0.3276)
    x, y, z = [1, 2, 3, 4, 5], [20, 10, 40, 30, 50], [0.1, 0.3, 0.2, 0.5, 0.4]
    assert stats.spearmanr(y, z).statistic == pytest.approx(0.3)
    found = partial_rank_correlation(x, y, [z], range(5), resamples=10)
    assert found.value == pytest.approx(0.56 / 0.3276**0.5, abs=1e-12)


def residual_correlation(x, y, given):
    """The partial rank correlation by least squares with an intercept."""
    ranks = [stats.rankdata(column) for column in (x, y)]
    design = np.column_stack([np.ones(len(x)), *[stats.rankdata(column) for column in given]])
    left = [rank - design @ np.linalg.lstsq(design, rank, rcond=None)[0] for rank in ranks]
    return stats.pearsonr(*left).statistic


def test_partial_correlation_is_that_of_least_squares_residuals_in_every_resample():
    generator = np.random.default_rng(9)
    batch, rate = generator.integers(0, 5, 60), generator.integers(0, 3, 60)
    x = batch + generator.normal(size=60)
    y = batch - rate + generator.normal(size=60)
    groups, given = np.arange(60) // 4, [batch, rate, 2 * rate + 1, rate == 1]  # the third is the second again
    found = partial_rank_correlation(x, y, given, groups, resamples=60, seed=3)
    assert found.value == pytest.approx(residual_correlation(x, y, given), abs=1e-9)
    drawn = np.random.default_rng(3).multinomial(15, np.full(15, 1 / 15), size=60)
    values = []
    for counts in drawn:
        picked = np.concatenate([np.tile(np.flatnonzero(groups == g), counts[g]) for g in range(15)])
        values.append(residual_correlation(x[picked], y[picked], [column[picked] for column in given]))
    low, high = np.quantile(values, [0.025, 0.975])
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=1e-9)


def test_partial_correlation_sees_through_a_common_cause_and_keeps_what_is_beyond():
    generator = np.random.default_rng(10)
    batch = np.repeat(np.arange(6), 30)
    x, y = batch + generator.normal(size=(2, 180))
    assert rank_correlation(x, y, np.arange(180)).value > 0.6
    assert abs(partial_rank_correlation(x, y, [batch], np.arange(180)).value) < 0.2
    assert partial_rank_correlation(x, x + 0.1 * y, [batch], np.arange(180)).value > 0.9


def test_nothing_is_left_of_what_is_given():
    x = np.random.default_rng(11).normal(size=30)
    found = partial_rank_correlation(x, np.arange(30), [np.exp(x)], np.arange(30))
    assert (found.value, found.interval, found.p_value) == (None, None, None)


def test_a_stratified_partial_correlation_needs_no_intercepts():
    generator = np.random.default_rng(12)
    strata = np.repeat(np.arange(3), 10)
    x, y, z = generator.normal(size=(3, 30)) + 100 * strata
    parts = [[stats.rankdata(column[strata == s]) - 5.5 for s in range(3)] for column in (x, y, z)]
    a, b, c = (np.concatenate(part) for part in parts)
    left = [rank - c * (rank @ c) / (c @ c) for rank in (a, b)]
    found = partial_rank_correlation(x, y, [z], np.arange(30), strata=strata)
    assert found.value == pytest.approx(left[0] @ left[1] / np.sqrt((left[0] @ left[0]) * (left[1] @ left[1])))


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


def test_granulated_kendall_is_scipys_tau_b_where_values_are_tied():
    generator = np.random.default_rng(13)
    frame = pd.DataFrame({"a": np.repeat(np.arange(9), 4), "b": np.tile(np.arange(4), 9)})
    frame["mu"], frame["g"] = generator.integers(0, 3, (2, 36))
    expected = [stats.kendalltau(cell["mu"], cell["g"]).statistic for _, cell in frame.groupby("b")]
    assert granulated_kendall(frame, "mu", "g", ["a", "b"]).coefficients["a"] == pytest.approx(np.nanmean(expected))


def test_many_at_once_are_each_alone():
    generator = np.random.default_rng(14)
    y, z, *xs = generator.normal(size=(5, 30))
    xs[1] = np.where(np.arange(30) == 4, np.nan, xs[1])
    groups = np.arange(30) // 3
    found = rank_correlations(xs, y, [z], groups, resamples=50)
    assert found == [partial_rank_correlation(x, y, [z], groups, resamples=50) for x in xs]
    assert [each.trials for each in found] == [30, 29, 30]
