"""The best setting of a batch size, chosen by the runs that are judged: by hand, and by simulation of the truth."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from narrow import not_none
from simulations import Count

from analysis.data.runs import Runs, read_frame
from analysis.questions.best_setting import CHOSEN, at_best_setting
from analysis.questions.equal_examples import equal_examples
from analysis.questions.steps_to_result import lines, steps_to_result
from analysis.stats.means import Mean, mean_over_replicates, student_t

SWEEPS = 200
STEPS = {  # to a loss of 0.5, of three seeds
    (8, 0.1): (100.0, 120.0, 140.0),
    (8, 0.2): (110.0, 125.0, 150.0),
    (64, 0.1): (40.0, 42.0, 44.0),
}


def cells_of(*by_setting: tuple[float, ...]) -> pd.DataFrame:
    """One batch size; a tuple of values, one of each replicate, for each setting; NaN: no such run."""
    rows = [
        {"batch_size": 8, "setting": setting, "replicate": replicate, "value": value}
        for setting, values in enumerate(by_setting)
        for replicate, value in enumerate(values)
        if not np.isnan(value)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("cells", "setting", "is_chosen"),
    [
        (cells_of((2.0, 3.0), (1.0, 3.0)), 1, True),
        (cells_of((2.0, 3.0)), 0, False),  # nothing to choose
        (cells_of((2.0, 3.0), (1.0, np.nan)), 0, False),  # of many that are tried once the luckiest would win
        (cells_of((2.0, 3.0), (1.0, np.inf)), 0, False),  # a run that does not get there
        (cells_of((2.0, 3.0), (1.0, 1.0), (np.inf, 0.0)), 1, True),
        (cells_of((2.0,), (1.0,)), 1, True),
    ],
)
def test_what_there_is_to_choose_from(cells: pd.DataFrame, setting: int, is_chosen: bool) -> None:
    chosen = at_best_setting(cells, "value")
    assert set(chosen["setting"]) == {setting}
    assert set(chosen[CHOSEN]) == {is_chosen}


def test_a_batch_size_that_no_setting_brings_there() -> None:
    assert at_best_setting(cells_of((np.inf, 1.0), (1.0, np.inf)), "value").empty


@pytest.mark.parametrize(("settings", "apart"), [(12, 0.0), (12, 0.3), (2, 0.0)])
def test_the_luck_of_the_best_is_inside_its_interval(settings: int, apart: float) -> None:
    """The true mean of the best setting is 0, that of the next `apart` standard deviations above, and so on."""
    random = np.random.default_rng(0)
    wide, narrow = Count(), Count()
    for _ in range(SWEEPS):
        values = apart * np.arange(settings)[:, None] + random.normal(size=(settings, 4))
        chosen = at_best_setting(cells_of(*map(tuple, values)), "value")
        for count in (True, False):
            mean = not_none(mean_over_replicates(chosen, "value", chosen=count))
            held = Count(not_none(mean.interval).holds(0), 1)
            wide, narrow = (wide + held, narrow) if count else (wide, narrow + held)
    assert not wide.fails
    assert narrow.fails == (settings == 12 and not apart)  # the plain t-interval, of many that are all alike


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Batch 8 at two rates, batch 64 at one. The loss falls on a line in the step."""
    rows = [
        (f"{size} {rate} {seed}", size, rate, seed, step, 1 - step / (2 * STEPS[size, rate][seed]))
        for (size, rate), seed, step in itertools.product(STEPS, range(3), (0, 40, 400))
    ]
    frame = pd.DataFrame(rows, columns=["run", "batch_size", "learning_rate", "seed", "step", "loss"])
    return read_frame(tmp_path_factory.mktemp("runs") / "runs.csv", frame, "loss", None)


def test_steps_have_the_interval_of_a_choice_where_there_was_one(grid: Runs) -> None:
    found = steps_to_result(grid, 0.5)
    small, large = (np.log(STEPS[size, 0.1]) for size in (8, 64))
    assert_mean(found.rows[0].steps, small, chosen=True, back=np.exp)
    assert_mean(found.rows[1].steps, large, chosen=False, back=np.exp)
    assert_mean(found.rows[1].overhead, large + np.log(8) - small, chosen=True, back=np.exp)
    assert lines(grid, found)[0].endswith(", of 9 runs, at the settings that are best in these runs:")


def test_the_comparison_at_equal_examples_has_it_too(grid: Runs) -> None:
    found = equal_examples(grid, 0.1)
    assert found.examples == 3200  # 400 steps of 8, 50 of 64
    small, large = (1 - steps / (2 * np.array(STEPS[size, 0.1])) for size, steps in ((8, 400), (64, 50)))
    (_, first, _), (_, second, worse) = found.rows
    assert_mean(first, small, chosen=True)
    assert_mean(second, large, chosen=False)
    assert_mean(worse, large - small, chosen=True)


def assert_mean(found: Mean | None, values: Any, *, chosen: bool, back: Any = np.asarray) -> None:
    """That `found` is of these `values`, one of each replicate; `back` is from logarithms."""
    mean, n = not_none(found), len(values)
    half = student_t(0.975, n) * values.std(ddof=1) * np.sqrt(1 / n + (1 / (n - 1) if chosen else 0))
    ends = [not_none(mean.interval).low, not_none(mean.interval).high]
    assert [mean.value, *ends] == pytest.approx(back(values.mean() + half * np.array([0, -1, 1])))
