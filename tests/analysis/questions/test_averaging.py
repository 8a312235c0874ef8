"""An average of the weights against the raw ones of its trial: by hand; and that nothing else counts the raw ones."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import grid, judged_by, record
from narrow import not_none
from scipy import stats

import large_batch_sweeps as lbs
from analysis.data.load import Sweep, comparable, load_sweep, measures_of
from analysis.questions.averaging import averaging
from analysis.questions.leaderboard import leaderboard, leaderboard_frame
from analysis.reporting.page import sections as page
from analysis.reporting.tables import averaging_rows
from trainables.records.tables import Record
from trainables.runtime.errors import UserError

RAW_ACCURACY, ACCURACY = [0.90, 0.93, 0.91, 0.95], [0.91, 0.95, 0.91, 0.96]  # gains 0.01, 0.02, 0, 0.01
EMA = {"average": "ema", "average_decay": 0.9}


def averaged(raw_accuracy: Sequence[float] = RAW_ACCURACY, **config: Any) -> list[Record]:
    """Trials with half of the raw training loss, a quarter of the raw box sharpness and no raw eigenvalue."""
    box = {"measure": "box_sharpness", "method": "strong", "epsilon": 1e-3, "space": "full", "converged": True}
    return [
        record(
            accuracy,
            1.0,
            {"raw_test_metric": raw, "train_loss": 0.001, "raw_train_loss": 0.002},
            found=[{**box, "weights": "raw", "value": 4.0}],
            **{"seed": seed, "split_seed": seed, "batch_size": 256, **EMA, **config},
        )
        for seed, (accuracy, raw) in enumerate(zip(ACCURACY, raw_accuracy, strict=True))
    ]


def test_by_hand_without_a_plain_trial(write_sweep: Callable[..., Path]) -> None:
    (found,) = averaging(load_sweep(write_sweep(averaged())))
    assert (found.name, found.batch_size, found.trials) == ("average=ema average_decay=0.9", 256, 4)
    assert found.gain.value == pytest.approx(0.01)
    half = stats.t.ppf(0.975, 3) * np.std([0.01, 0.02, 0, 0.01], ddof=1) / 2
    assert not_none(found.gain.interval).high == pytest.approx(0.01 + half)
    assert not_none(found.train_loss_ratio).value == pytest.approx(0.5)
    assert not_none(found.box_sharpness_ratio).value == pytest.approx(0.25)
    assert found.max_eig_ratio is None


def test_each_average_and_batch_size_is_a_row_and_the_intervals_hold_together(write_sweep: Callable[..., Path]) -> None:
    records = averaged() + averaged(batch_size=16) + averaged(average="swa", average_decay=None)
    found = averaging(load_sweep(write_sweep(records)))
    names = [(row.name, row.batch_size) for row in found]
    ema = "average=ema average_decay=0.9"
    assert names == [(ema, 16), (ema, 256), ("average=swa average_from=0", 256)]
    assert {row.gain.comparisons for row in found} == {3}


def test_less_of_a_loss_is_a_gain(write_sweep: Callable[..., Path]) -> None:
    folder = write_sweep(averaged())
    judged_by(folder, "nats", "nats", 2.0, -1.0)
    trials = pd.read_parquet(folder / "trials.parquet")
    trials.assign(raw_test_metric=2.0 - trials["raw_test_metric"]).to_parquet(folder / "trials.parquet")
    (found,) = averaging(load_sweep(folder))
    assert found.gain.value == pytest.approx(0.01)


def test_nothing_else_counts_the_raw_weights(write_sweep: Callable[..., Path]) -> None:
    records = grid() + averaged(batch_size=512)
    without = [
        Record(one.trial, one.epochs, [row for row in one.measures if row.get("weights") is None]) for one in records
    ]
    found, expected = (load_sweep(write_sweep(some, name)) for some, name in ((records, "with"), (without, "without")))
    pd.testing.assert_frame_equal(found.measures.reset_index(drop=True), expected.measures)
    pd.testing.assert_frame_equal(comparable(found), comparable(expected))
    assert measures_of(found) == measures_of(expected)
    boards = [leaderboard_frame(leaderboard(sweep)) for sweep in (found, expected)]
    pd.testing.assert_frame_equal(*boards)
    assert len(found.raw_measures) == 4
    assert expected.raw_measures.empty


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sweep], list[str]]:
    """The titles of the page's sections, without the correlations, whose counter-example takes seconds."""
    monkeypatch.setattr(page, "_correlations", lambda sweep: [])
    return lambda sweep: [section["title"] for section in page.sections(sweep)]


def test_the_report_has_a_table_of_them(write_sweep: Callable[..., Path], titles: Callable[[Sweep], list[str]]) -> None:
    sweep = load_sweep(write_sweep(averaged()))
    ((cells, keys),) = averaging_rows(sweep)
    assert cells == ["average=ema average_decay=0.9", "256", "1.00 ± 1.30", "0.500", "0.250", "–"]
    assert sorted(keys) == sorted(sweep.trials["trial_id"])
    assert "Averages of the weights" in titles(sweep)
    of_tokens = averaged()
    for entry in of_tokens:
        entry.trial.update(examples=100, tokens=3200)
    ((cells, _),) = averaging_rows(load_sweep(write_sweep(of_tokens, "tokens")))
    assert cells[1] == "256 (8192 tokens)"
    assert lbs.averaging(lbs.SweepResults(sweep))["gain"].tolist() == pytest.approx([0.01])


def test_without_averages_there_is_no_table(
    write_sweep: Callable[..., Path], titles: Callable[[Sweep], list[str]]
) -> None:
    sweep = load_sweep(write_sweep(grid()))
    assert averaging(sweep) == ()
    assert "Averages of the weights" not in titles(sweep)
    with pytest.raises(UserError, match="`results` must hold trials with an `average`"):
        lbs.averaging(lbs.SweepResults(sweep))
