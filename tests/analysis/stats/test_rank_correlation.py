"""analysis.stats.rank_correlation: worked by hand first, then against SciPy, least squares and naive loops."""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from narrow import not_none
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.stats.rank_correlation import (
    Correlation,
    PerReplicate,
    correlation_difference,
    granulated_kendall,
    over_replicates,
    partial_rank_correlation,
    rank_correlation,
)


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def over(
    values: ArrayLike,
    steps: float = 0.0,
    free: ArrayLike = 9,
    trials: int = 0,
    **options: Any,
) -> Correlation:
    """`over_replicates` of these coefficients."""
    each = np.asarray(values, dtype=np.float64)
    found = PerReplicate(each, np.full(each.shape, steps), np.broadcast_to(np.asarray(free), each.shape))
    return over_replicates(found, trials, **options)


def test_the_mean_over_replicates_is_students_on_fishers_scale() -> None:
    values = [0.5, 0.7, -0.1, 0.8]
    expected = stats.ttest_1samp(np.arctanh(values), 0)
    found = over(values)
    assert found.value == pytest.approx(np.tanh(np.mean(np.arctanh(values))), abs=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    low, high = np.tanh(expected.confidence_interval(0.95))
    assert (not_none(found.interval).low, not_none(found.interval).high) == pytest.approx((low, high), abs=1e-9)
    linear = over(values, scale="linear")
    expected = stats.ttest_1samp(values, 0)
    assert linear.value == pytest.approx(np.mean(values))
    assert linear.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert not_none(linear.interval).high == 1  # of 1.12


def test_the_interval_of_replicates_that_agree_is_as_wide_as_their_rounding() -> None:
    # z = artanh 0.6, q = 0.2 / (1 - 0.36) / sqrt(12), half = t(0.975, 3) q / 2
    found = over([0.6] * 4, steps=0.2)
    half = stats.t.ppf(0.975, 3) * (0.2 / 0.64 / 12**0.5) / 2
    assert not_none(found.interval).high == pytest.approx(np.tanh(np.arctanh(0.6) + half), abs=1e-12)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_perfect_correlation_is_known_to_half_a_step(sign: int) -> None:
    found = over([sign] * 4, steps=0.1)
    assert found.value == pytest.approx(sign * 0.95)
    assert not_none(found.interval).holds(not_none(found.value))
    assert not_none(found.p_value) < 0.002


def test_p_values_can_be_significant_beside_a_hundred_others() -> None:
    x = np.tile(np.arange(9.0), 16)
    found = rank_correlation(x, x, np.repeat(np.arange(4), 36), strata=np.repeat(np.arange(16), 9))
    assert 100 * not_none(found.p_value) < 0.05


def test_claims_and_intervals_agree_and_the_value_lies_inside() -> None:
    generator = np.random.default_rng(8)
    for n, strength in itertools.product([2, 3, 8], np.linspace(-1, 1, 15)):
        found = over(np.clip(strength + 0.2 * generator.normal(size=n), -1, 1), steps=0.05)
        assert not_none(found.interval).holds(not_none(found.value))
        assert (not_none(found.p_value) < 0.05) == (not not_none(found.interval).holds(0))


def test_what_has_no_interval() -> None:
    assert over([]) == Correlation(None, None, 0, 0)
    assert over([np.nan, np.nan]) == Correlation(None, None, 0, 0)
    assert over([0.5]) == Correlation(0.5, None, 0, 1)
    assert over([0.5, 0.7], free=2) == Correlation(0.6, None, 0, 2)
    assert over([0.5, 0.7, 0.6], inflation=np.inf).interval is None


def test_replicates_with_too_few_ranks_are_left_out_where_others_have_enough() -> None:
    assert over([0.5, 0.7, -1.0, np.nan], free=[5, 3, 2, 9]) == over([0.5, 0.7])


@pytest.mark.parametrize("sizes", [(2, 2, 2), (2, 2, 2, 2), (4,), (3, 3), (5,)])
@pytest.mark.parametrize("replicates", [3, 4])
def test_few_ranks_claim_nothing_more_often_than_they_say(sizes: tuple[int, ...], replicates: int) -> None:
    """With LEAST_FREE ranks or more, correlations of pure chance leave out 0 in at most 5 % of all cases."""
    generator, runs = np.random.default_rng(5), 300
    points = sum(sizes)
    sets = np.tile(np.repeat(np.arange(len(sizes)), sizes), replicates)
    labels, wrong = np.repeat(np.arange(replicates), points), 0
    for _ in range(runs):
        x, y = generator.normal(size=(2, labels.size))
        wrong += not not_none(rank_correlation(x, y, labels, strata=sets).interval).holds(0)
    assert stats.binom.sf(wrong - 1, runs, 0.055) > 1e-4


def test_spearman_by_hand() -> None:
    # ranks 1 2 3 4 and 2 1 4 3: rho = 1 - 6 * 4 / (4 * 15) = 0.6
    assert rank_correlation([1, 2, 3, 4], [20, 10, 40, 30], [0] * 4).value == pytest.approx(0.6, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_is_scipys_in_each_replicate(ties: bool) -> None:
    generator = np.random.default_rng(1)
    x = generator.integers(0, 5, 40) if ties else generator.normal(size=40)
    y = x + generator.integers(0, 4, 40)
    replicates = np.repeat([7, 8, 9], [10, 18, 12])
    each = [stats.spearmanr(x[replicates == r], y[replicates == r]).statistic for r in (7, 8, 9)]
    found = rank_correlation(x, y, replicates)
    assert found.value == pytest.approx(np.tanh(np.mean(np.arctanh(each))), abs=1e-12)
    assert (found.trials, found.replicates) == (40, 3)
    assert rank_correlation(x[:10], y[:10], [0] * 10).value == pytest.approx(each[0], abs=1e-12)


def test_neighbouring_values_lie_a_step_apart() -> None:
    # Of 5 points the coefficient below 1 is 0.9, so a perfect one is 0.95; of sets of 3 and 2 it is (a3 + a2) / scale.
    perfect = rank_correlation(np.arange(10), np.arange(10), [0] * 5 + [1] * 5)
    assert perfect.value == pytest.approx(0.95)
    agreement, swap = 2 / 9 + 2 / 16, 1 / 9  # sum of a^2 over both sets, and two neighbours of the larger one
    perfect = rank_correlation(np.arange(10), np.arange(10), [0] * 5 + [1] * 5, strata=[0, 0, 0, 1, 1] * 2)
    assert perfect.value == pytest.approx(1 - swap / agreement / 2)


def test_it_is_invariant_to_monotone_maps_and_leaves_out_what_is_not_finite() -> None:
    generator = np.random.default_rng(2)
    x, y = generator.normal(size=30), generator.normal(size=30)
    replicates = np.arange(30) % 3
    plain = rank_correlation(x, y, replicates)
    assert rank_correlation(np.exp(x), y**3, replicates) == plain
    assert rank_correlation(np.where(x == x.max(), 1e300, x), y, replicates) == plain
    holes = rank_correlation([*x, np.nan, 1.0], [*y, 1.0, np.inf], [*replicates, 0, 100])
    assert holes == plain


def test_what_a_replicate_adds_to_a_side_does_not_enter() -> None:
    generator = np.random.default_rng(3)
    x, y = generator.normal(size=(2, 4, 10))
    shift = 100 * np.arange(4)[:, None]
    replicates = np.repeat(np.arange(4), 10)
    shifted = rank_correlation((x + shift).ravel(), (y - shift).ravel(), replicates)
    assert shifted == rank_correlation(x.ravel(), y.ravel(), replicates)


def test_stratified_ranks_see_through_simpsons_paradox() -> None:
    # Inside each stratum y rises with x; across strata it falls.
    x, y = [1, 2, 3, 11, 12, 13], [11, 12, 13, 1, 2, 3]
    assert not_none(rank_correlation(x, y, [0] * 6).value) < 0
    assert rank_correlation(x, y, [0] * 6, strata=["a"] * 3 + ["b"] * 3).value == pytest.approx(1.0)


def test_stratified_correlation_of_equal_strata_is_the_mean_of_theirs() -> None:
    generator = np.random.default_rng(5)
    x, y = generator.normal(size=(2, 4, 9))
    parts = [stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    found = rank_correlation(x.ravel(), y.ravel(), [0] * 36, strata=np.repeat(np.arange(4), 9))
    assert found.value == pytest.approx(np.mean(parts), abs=1e-12)


@pytest.mark.parametrize(("x", "y"), [([], []), ([1], [1]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3, 4], [np.nan] * 4)])
def test_degenerate_correlations_are_none(x: list[float], y: list[float]) -> None:
    found = rank_correlation(x, y, [0] * len(x))
    assert (found.value, found.interval, found.p_value) == (None, None, None)
    assert partial_rank_correlation(x, y, range(len(x)), [0] * len(x)).value is None


def test_singletons_and_constant_strata_are_undefined() -> None:
    assert rank_correlation([1, 2, 3], [3, 1, 2], [0] * 3, strata=range(3)).value is None


def residuals(ranks: NDArray[Any], configurations: NDArray[Any], replicates: NDArray[Any]) -> NDArray[Any]:
    """What least squares on indicators of both leaves."""
    labels = (configurations, replicates)
    design = np.column_stack([label[:, None] == np.unique(label) for label in labels]).astype(float)
    found: NDArray[Any] = ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0]
    return found


@pytest.mark.parametrize("missing", [0, 13])
def test_a_partial_correlation_is_that_of_least_squares_residuals(missing: int) -> None:
    generator = np.random.default_rng(9)
    configurations, replicates = np.tile(np.arange(12), 5), np.repeat(np.arange(5), 12)
    x, y = generator.normal(size=(2, 60)) + 2 * generator.normal(size=12)[configurations]
    kept = generator.permutation(60)[missing:]
    x, y, configurations, replicates = x[kept], y[kept], configurations[kept], replicates[kept]
    each = []
    sides = np.zeros((2, kept.size))
    for r, (side, values) in itertools.product(range(5), enumerate((x, y))):
        here = replicates == r
        sides[side, here] = (stats.rankdata(values[here]) - (here.sum() + 1) / 2) / here.sum()
    e, f = (residuals(ranks, configurations, replicates) for ranks in sides)
    for r in range(5):
        here = replicates == r
        each.append(e[here] @ f[here] / np.sqrt((e[here] @ e[here]) * (f[here] @ f[here])))
    found = partial_rank_correlation(x, y, configurations, replicates)
    assert found.value == pytest.approx(np.tanh(np.mean(np.arctanh(each))), abs=1e-9)
    m = kept.size / 12
    plain = stats.ttest_1samp(np.arctanh(each), 0).confidence_interval(0.95)
    width = np.arctanh(not_none(found.interval).high) - np.arctanh(not_none(found.interval).low)
    assert width / (plain.high - plain.low) == pytest.approx((m * 4 / ((m - 1) * 4 - 1)) ** 0.5, rel=0.02)  # rounding


def test_a_partial_correlation_sees_through_configurations_and_keeps_what_is_beyond() -> None:
    """An interaction moves both sides: at the second rate alone the batch matters."""
    generator = np.random.default_rng(10)
    batch, rate = np.tile(np.arange(12) % 6, 8), np.tile(np.arange(12) // 6, 8)
    configurations, replicates = np.tile(np.arange(12), 8), np.repeat(np.arange(8), 12)
    x, y = 3 * batch * rate + generator.normal(size=(2, 96))
    assert not_none(rank_correlation(x, y, replicates).value) > 0.6
    assert not_none(partial_rank_correlation(x, y, configurations, replicates).interval).holds(0)
    both = partial_rank_correlation(x, x + 0.3 * y, configurations, replicates)
    assert not_none(both.interval).low > 0.5


@pytest.mark.parametrize("replicates", [3, 4, 8])
def test_beyond_an_interaction_nothing_is_claimed_more_often_than_in_5_percent(replicates: int) -> None:
    generator, runs, wrong = np.random.default_rng(11), 300, 0
    batch, rate = np.arange(20) % 5, np.arange(20) // 5 % 2
    configurations, labels = np.tile(np.arange(20), replicates), np.repeat(np.arange(replicates), 20)
    for _ in range(runs):
        luck = generator.normal(size=(2, replicates, 1)) * batch
        x, y = (2 * batch * rate + 0.5 * luck + generator.normal(size=(2, replicates, 20))).reshape(2, -1)
        wrong += not not_none(partial_rank_correlation(x, y, configurations, labels).interval).holds(0)
    assert stats.binom.sf(wrong - 1, runs, 0.055) > 1e-3


def test_nothing_is_left_of_what_the_configuration_decides() -> None:
    configurations, replicates = np.tile(np.arange(10), 3), np.repeat(np.arange(3), 10)
    y = np.random.default_rng(11).normal(size=30)
    for kept in (np.arange(30), np.arange(4, 27)):
        found = partial_rank_correlation(0.1 * configurations[kept], y[kept], configurations[kept], replicates[kept])
        assert (found.value, found.interval, found.p_value) == (None, None, None)


def test_two_replicates_leave_the_same_residuals_and_no_interval() -> None:
    x, y = np.random.default_rng(12).normal(size=(2, 20))
    found = partial_rank_correlation(x, y, np.tile(np.arange(10), 2), np.repeat([0, 1], 10))
    assert found.value is not None
    assert found.interval is None


def test_granulated_kendall_by_hand() -> None:
    # Along batch at lr 1: (1, 2, 3) against (1, 3, 2): 1/3; at lr 2: (3, 2, 1) against (1, 2, 3): -1.
    frame = pd.DataFrame(
        {"batch": [1, 2, 3] * 2, "lr": [1] * 3 + [2] * 3, "mu": [1, 2, 3, 3, 2, 1], "g": [1, 3, 2, 1, 2, 3]}
    )
    found = granulated_kendall(frame, "mu", "g", ["batch", "lr"])
    # Along lr at batch 1 g is tied and at 2 mu is: undefined; at 3 mu falls as g rises: -1.
    assert found.coefficients == {"batch": pytest.approx(-1 / 3), "lr": -1.0}
    assert found.mean == pytest.approx(-2 / 3)


def naive_granulated_kendall(rows: list[dict[str, Any]], axes: Sequence[str]) -> dict[str, Any]:
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
def test_granulated_kendall_is_the_naive_one_with_and_without_holes(holes: int) -> None:
    generator = np.random.default_rng(7)
    rows = [
        {"a": a, "b": b, "c": c, "mu": generator.normal(), "g": generator.normal()}
        for a, b, c in itertools.product(range(4), range(3), range(3))
    ][holes:]
    found = granulated_kendall(pd.DataFrame(rows), "mu", "g", ["a", "b", "c"])
    assert found.coefficients == pytest.approx(naive_granulated_kendall(rows, ["a", "b", "c"]))
    assert found.mean == pytest.approx(np.mean(list(found.coefficients.values())))


def test_granulated_kendall_takes_null_as_a_value_and_holds_replicates_fixed() -> None:
    frame = pd.DataFrame(
        {"switch": [np.nan, 5.0] * 2, "seed": [0, 0, 1, 1], "mu": [1.0, 2.0, 11.0, 12.0], "g": [5, 6, 1, 2]}
    )
    found = granulated_kendall(frame, "mu", "g", ["switch"], within=["seed"])
    assert found.coefficients == {"switch": 1.0}
    assert not_none(granulated_kendall(frame, "mu", "g", ["switch"]).mean) < 0


def test_granulated_kendall_undefined() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [1, 1], "mu": [1.0, np.nan], "g": [1.0, 2.0]})
    found = granulated_kendall(frame, "mu", "g", ["a", "b"])
    assert found.coefficients == {"a": None, "b": None}
    assert found.mean is None
    assert granulated_kendall(frame.iloc[:0], "mu", "g", ["a", "b"]).mean is None


def test_granulated_kendall_is_scipys_tau_b_where_values_are_tied() -> None:
    generator = np.random.default_rng(13)
    frame = pd.DataFrame({"a": np.repeat(np.arange(9), 4), "b": np.tile(np.arange(4), 9)})
    frame["mu"], frame["g"] = generator.integers(0, 3, (2, 36))
    expected = [stats.kendalltau(cell["mu"], cell["g"]).statistic for _, cell in frame.groupby("b")]
    assert granulated_kendall(frame, "mu", "g", ["a", "b"]).coefficients["a"] == pytest.approx(np.nanmean(expected))


def test_the_difference_of_two_correlations_is_paired_inside_replicates() -> None:
    random = np.random.default_rng(11)
    replicates = np.repeat(np.arange(5), 12)
    y = random.normal(size=60)
    x, other = y + random.normal(size=60), -y + 2 * random.normal(size=60)
    other[3] = np.nan  # left out of both
    found = correlation_difference(x, other, y, replicates)
    known = np.isfinite(other)
    differences = []
    for replicate in range(5):
        rows = known & (replicates == replicate)
        pair = [abs(stats.spearmanr(side[rows], y[rows]).statistic) for side in (x, other)]
        differences.append(pair[0] - pair[1])
    assert found.value == pytest.approx(np.mean(differences), abs=1e-12)
    assert found.trials == 59
    half = stats.t.ppf(0.975, 4) * np.std(differences, ddof=1) / np.sqrt(5)
    low, high = found.value - half, found.value + half
    assert not_none(found.interval).low < low  # the steps of the ranks make it a little wider
    assert not_none(found.interval).high > high
    assert not_none(found.interval).high - not_none(found.interval).low < 1.1 * (high - low)
