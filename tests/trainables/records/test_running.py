"""The curves of running trials: when they are written, what is kept, and that nothing depends on them."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.execution.launch import exclusive_results_folder
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.records import running
from trainables.records.running import RunningCurves, read_running, remove_running, thinned
from trainables.trial import Trial
from trainables.tune.tune_trial import leaving_curves

ABOUT = {
    "trial_id": "a",
    "label": "b16 seed0",
    "metric": "accuracy",
    "metric_unit": "points",
    "metric_direction": "higher",
}


def epoch(number: int, **values: Any) -> dict[str, Any]:
    row = dict.fromkeys(running.COLUMNS, 0.5) | {"epoch": number, "batch_size": 16, "within": [{"step": 1}]}
    return {**row, **values}


def test_a_file_at_most_every_so_many_seconds_and_one_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    leave, rows = RunningCurves(tmp_path, ABOUT), [epoch(1)]
    leave(rows, 1.0, is_trained=True)
    assert not (tmp_path / "running").exists()  # over at once: nobody could have looked
    now = running.SECONDS
    leave(rows, 0.1, is_trained=False)
    assert [row["count"] for row in read_running(tmp_path)] == [1]
    leave([*rows, epoch(2)], 0.2, is_trained=False)
    assert [row["count"] for row in read_running(tmp_path)] == [1]
    leave([*rows, epoch(2)], 0.2, is_trained=True)
    [found] = read_running(tmp_path)
    assert (found["count"], found["is_trained"], [row["epoch"] for row in found["epochs"]]) == (2, True, [1, 2])
    remove_running(tmp_path, "a")
    assert read_running(tmp_path) == []


def test_numbers_that_are_not_finite_are_null_and_nothing_else_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "SECONDS", 0.0)
    RunningCurves(tmp_path, ABOUT)([epoch(1, train_loss=math.inf, test_loss=math.nan)], 0.5, is_trained=False)
    [found] = read_running(tmp_path)
    numbers = dict.fromkeys(running.COLUMNS, 0.5) | {"epoch": 1, "batch_size": 16}
    assert found["epochs"] == [numbers | {"train_loss": None, "test_loss": None}]


def test_points_are_thinned_evenly_and_those_with_a_test_result_apart() -> None:
    is_tested = [place in (3, 500, 900) for place in range(1001)]
    assert thinned(is_tested, 5) == [0, 3, 250, 500, 750, 900, 1000]
    assert thinned([True] * 4, 100) == [0, 1, 2, 3]
    assert thinned([], 100) == []


def test_a_trial_goes_on_where_its_curves_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "SECONDS", 0.0)
    (tmp_path / "running").write_text("a file is in the way")
    RunningCurves(tmp_path, ABOUT)([epoch(1)], 0.5, is_trained=False)
    assert read_running(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    [
        {"trial_id": "other"}, {"label": None}, {"epochs": None}, {"epochs": [3]}, {"epochs": [{"epoch": "x"}]},
        {"share_done": None}, {"count": "many"}, {"is_trained": 1}, {"epochs": [{"epoch": [1]}]},
        {"epochs": [{"epoch": 10**400}]},
    ],
)  # fmt: skip
def test_damaged_files_are_left_out(tmp_path: Path, damage: dict[str, Any]) -> None:
    (tmp_path / "running").mkdir()
    whole = {**ABOUT, "share_done": 0.5, "is_trained": False, "count": 1, "epochs": [{"epoch": 1, "train_loss": None}]}
    (tmp_path / "running" / "a.json").write_text(json.dumps(whole))
    assert len(read_running(tmp_path)) == 1
    for content in (json.dumps({**whole, **damage}), json.dumps(whole)[:-5], "[]", "\xff"):
        (tmp_path / "running" / "a.json").write_text(content)
        assert read_running(tmp_path) == []


def test_a_run_begins_and_ends_without_curves_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "SECONDS", 0.0)
    (tmp_path / "trials").mkdir()
    leave = RunningCurves(tmp_path, ABOUT)
    leave([epoch(1)], 0.5, is_trained=False)  # its run was killed
    with exclusive_results_folder(tmp_path, resume=True):
        assert read_running(tmp_path) == []
        leave([epoch(1)], 0.5, is_trained=False)
        assert len(read_running(tmp_path)) == 1
    assert not (tmp_path / "running").exists()


def test_a_trial_leaves_what_it_has_logged(
    make_config: Callable[..., TrialConfig], digits: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "SECONDS", 0.0)
    trial, states = Trial(make_config(epochs=3, measures=""), digits), []
    trial.after_epoch = leaving_curves(tmp_path, trial, lambda: states.append(read_running(tmp_path)[0]))
    trial.train()
    assert [(row["count"], row["share_done"], row["is_trained"]) for row in states] == [
        (1, 1 / 3, False),
        (2, 2 / 3, False),
        (3, 1.0, True),
    ]
    last = states[-1]
    assert last["label"] == trial.config.label
    assert [row["train_loss"] for row in last["epochs"]] == [row["train_loss"] for row in trial.training.epochs]
    assert (last["metric"], last["metric_unit"], last["metric_direction"]) == ("accuracy", "points", "higher")
