"""analysis.stats.kendall and analysis.stats.pairs: worked by hand, then against SciPy and naive loops."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from narrow import not_none
from numpy.typing import NDArray
from scipy import stats

from analysis.stats.kendall import granulated_correlation, kendall_correlation, sign_error
from analysis.stats.pairs import pairs_within, ranks_within
from analysis.stats.rank_correlation import granulated_kendall


def test_pairs_are_those_of_each_cell_once() -> None:
    cells = np.array([1, 0, 1, 2, 1, 0])
    found = {tuple(sorted(pair)) for pair in zip(*pairs_within(cells), strict=True)}
    assert found == {(i, j) for i, j in itertools.combinations(range(6), 2) if cells[i] == cells[j]}
    assert len(pairs_within(cells)[0]) == 4
    assert len(pairs_within([])[0]) == 0


@pytest.mark.parametrize("levels", [3, 10**6])  # many ties, and none
@pytest.mark.parametrize("cells", [1, 6])
def test_ranks_are_scipys_in_each_cell(levels: int, cells: int) -> None:
    generator = np.random.default_rng(levels + cells)
    values, cell = generator.integers(0, levels, 40).astype(float), generator.integers(0, cells, 40)
    found = ranks_within(values, cell)
    for one in np.unique(cell):
        n = np.sum(cell == one)
        expected = (stats.rankdata(values[cell == one]) - (n + 1) / 2) / n
        assert found[cell == one] == pytest.approx(expected, abs=1e-15)
    assert ranks_within(np.array([]), np.array([], dtype=np.int64)).size == 0


def test_kendall_by_hand() -> None:
    # Pairs of (1, 2), (2, 1), (3, 3): one discordant, two concordant.
    assert kendall_correlation([1, 2, 3], [2, 1, 3], [0] * 3).value == pytest.approx(1 / 3)


@pytest.mark.parametrize("ties", [False, True])
def test_kendall_is_scipys_tau_b(ties: bool) -> None:
    generator = np.random.default_rng(1)
    x = generator.integers(0, 5, 50) if ties else generator.normal(size=50)
    y = x + generator.integers(0, 4, 50)
    expected = stats.kendalltau(x, y).statistic
    assert kendall_correlation(x, y, [0] * 50).value == pytest.approx(expected, abs=1e-12)


def naive(x: NDArray[Any], y: NDArray[Any], strata: NDArray[Any], loss: NDArray[Any], width: float) -> float:
    agreement, first, second = 0.0, 0.0, 0.0
    for i, j in itertools.combinations(range(len(x)), 2):
        if strata[i] == strata[j] and abs(loss[i] - loss[j]) <= width:
            a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
            agreement, first, second = agreement + a * b, first + a * a, second + b * b
    return float(agreement / np.sqrt(first * second))


@pytest.mark.parametrize("strata", [np.zeros(48, dtype=int), np.arange(48) % 3])
def test_strata_and_window_are_the_naive_ones_in_each_replicate(strata: NDArray[np.int64]) -> None:
    generator = np.random.default_rng(2)
    x, y, loss = generator.normal(size=(3, 48))
    replicates = np.arange(48) // 12
    found = kendall_correlation(x, y, replicates, strata=strata, window=(loss, 0.8))
    rows = [replicates == r for r in range(4)]
    each = [naive(x[row], y[row], strata[row], loss[row], 0.8) for row in rows]
    assert found.value == pytest.approx(np.tanh(np.mean(np.arctanh(each))), abs=1e-12)
    assert (found.trials, found.replicates) == (48, 4)
    assert not_none(found.interval).holds(not_none(found.value))


def test_a_window_compares_only_what_was_trained_equally_far() -> None:
    # x orders y inside each of two losses, and the other way round between them.
    x, y, loss = [1, 2, 11, 12], [11, 12, 1, 2], [0.0, 0.01, 1.0, 1.01]
    assert not_none(kendall_correlation(x, y, [0] * 4).value) < 0
    assert kendall_correlation(x, y, [0] * 4, window=(loss, 0.1)).value == 1.0
    assert kendall_correlation(x, y, [0] * 4, window=(loss, 0.001)).value is None


def test_psi_is_the_granulated_coefficient_of_each_replicate() -> None:
    generator = np.random.default_rng(4)
    frame = pd.DataFrame(itertools.product(range(4), range(3), range(5)), columns=["a", "b", "seed"])
    frame["mu"], frame["g"] = generator.normal(size=(2, len(frame)))
    frame["replicate"] = frame["seed"]
    each = [not_none(granulated_kendall(rows, "mu", "g", ["a", "b"]).mean) for _, rows in frame.groupby("seed")]
    found = granulated_correlation(frame, "mu", "g", ["a", "b"], within=["seed"])
    whole = granulated_kendall(frame, "mu", "g", ["a", "b"], within=["seed"]).mean
    assert found.value == pytest.approx(np.mean(each), abs=1e-12) == pytest.approx(whole, abs=1e-12)
    expected = stats.ttest_1samp(each, 0).confidence_interval(0.95)
    assert not_none(found.interval).low == pytest.approx(expected.low, abs=0.02)  # rounding, with 2 / 30 a step
    assert not_none(found.interval).low < expected.low
    assert granulated_correlation(frame.iloc[:0], "mu", "g", ["a"], within=["seed"]).value is None
    assert granulated_correlation(frame, "mu", "g", [], within=["seed"]).value is None


def test_what_is_not_finite_is_left_out() -> None:
    found = kendall_correlation([1, 2, 3, np.nan], [1, 2, 3, 0], [0] * 4, window=([0, 0, 0, 0], 1))
    assert (found.value, found.trials) == (1.0, 3)
    assert kendall_correlation([1, 2], [1, 2], range(2)).value is None


def test_sign_error_by_hand() -> None:
    # Along a, from 1 to 2: at b = 1 mu rises and g rises (right), at b = 2 mu rises and g falls (wrong): 1/2.
    # Along b, from 1 to 2: at a = 1 mu falls and g rises (wrong), at a = 2 mu is tied: 3/4.
    frame = pd.DataFrame({"a": [1, 2, 1, 2], "b": [1, 1, 2, 2], "mu": [2.0, 3.0, 1.0, 3.0], "g": [1, 2, 4, 3]})
    found = sign_error(frame, "mu", "g", ["a", "b"], least_pairs=2)
    assert [(e.axis, e.values, e.pairs, e.sign_error) for e in found.environments] == [
        ("a", (1, 2), 2, 0.5),
        ("b", (1, 2), 2, 0.75),
    ]
    assert not_none(found.worst).axis == "b"
    assert found.mean == pytest.approx(0.625)


def test_sign_error_is_the_naive_one() -> None:
    generator = np.random.default_rng(3)
    grid = itertools.product([16, 32, 64], [0.1, 0.2], ["x", "y", None], range(4))
    frame = pd.DataFrame(grid, columns=["size", "rate", "kind", "seed"])[5:]
    frame["mu"], frame["g"] = generator.normal(size=(2, len(frame)))
    axes, rows = ["size", "rate", "kind"], frame.astype(object).where(frame.notna(), None).to_dict("records")
    expected: dict[Any, dict[int, list[bool]]] = {}
    for first, second in itertools.combinations(rows, 2):
        differ = [name for name in axes if first[name] != second[name]]
        if len(differ) == 1 and first["seed"] == second["seed"]:
            key = differ[0], frozenset([first[differ[0]], second[differ[0]]])
            right = (first["mu"] - second["mu"]) * (first["g"] - second["g"]) > 0
            expected.setdefault(key, {}).setdefault(first["seed"], []).append(not right)
    found = sign_error(frame, "mu", "g", axes, within=["seed"], least_pairs=1)
    got = {(e.axis, frozenset(e.values)): (e.pairs, e.sign_error) for e in found.environments}
    by_seed = {key: (sum(map(len, wrong.values())), [*map(np.mean, wrong.values())]) for key, wrong in expected.items()}
    assert got.keys() == by_seed.keys()
    for key, (pairs, errors) in by_seed.items():
        assert got[key] == pytest.approx((pairs, np.mean(errors)))
    worst = not_none(found.worst)
    assert worst.sign_error == max(error for _, error in got.values())
    # The interval holds for all of the environments at once, at 1 - 0.05 / m.
    _, errors = by_seed[worst.axis, frozenset(worst.values)]
    level = 1 - 0.05 / len(by_seed)
    plain = stats.ttest_1samp(errors, 0).confidence_interval(level)
    assert not_none(worst.interval).low <= max(0, plain.low)
    assert not_none(worst.interval).high >= min(1, plain.high)
    assert not_none(found.mean_interval).holds(not_none(found.mean))


def test_a_measure_that_fails_in_one_environment_is_found_out() -> None:
    frame = pd.DataFrame(itertools.product(range(4), range(20)), columns=["size", "seed"])
    frame["g"] = frame["size"]
    frame["mu"] = frame["size"].where(frame["size"] < 2, 5 - frame["size"])  # 0, 1, 3, 2
    found = sign_error(frame, "mu", "g", ["size"], within=["seed"])
    assert (not_none(found.worst).values, not_none(found.worst).sign_error) == ((2, 3), 1.0)
    assert found.mean == pytest.approx(1 / 6)
    assert sign_error(frame, "mu", "g", ["size"], within=["seed"], least_pairs=21).worst is None
