"""A results folder that an earlier version left: it opens, nothing in it runs again, and training still starts alike.

old_folder/ holds the tables of

    python sweeps/batch_grid.py --batch-sizes 30 300 --learning-rates 0.003 0.01 --warmup-epochs 0
        --switch-epochs none 5 --seeds 0 1

as commit c70ff2d wrote them, before modules moved into packages. Whole trials are not compared: over hundreds of epochs
another processor's rounding grows.
"""

import shlex
from pathlib import Path

import pytest

from analysis.data.load import comparable, load_sweep
from analysis.questions.averaging import averaging
from analysis.reporting.summary import summary_lines
from sweeps.cli.options import parse
from sweeps.plan.grid import expand
from sweeps.studies.study import grid_of
from trainables import config as configuration
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.records.resume import incomplete_trials
from trainables.records.saved import config_of
from trainables.records.tables import large_batch_gaps, read_tables
from trainables.trial import Trial

FOLDER = Path(__file__).parent / "old_folder"
OPTIONS = """--batch-sizes 30 300 --learning-rates 0.003 0.01 --warmup-epochs 0 --switch-epochs none 5 --seeds 0 1"""
VERSION = 9


@pytest.fixture
def configs(digits: Source, monkeypatch: pytest.MonkeyPatch) -> list[TrialConfig]:
    monkeypatch.setattr(configuration, "NUMBERS_VERSION", VERSION)
    return expand(grid_of(parse(shlex.split(OPTIONS)), digits), digits)


def test_nothing_runs_again(configs: list[TrialConfig]) -> None:
    rows = read_tables(FOLDER).trials.to_pylist()
    assert {config.trial_id for config in configs} == {row["trial_id"] for row in rows}
    assert incomplete_trials(FOLDER, configs) == []
    assert all(config_of(row).trial_id == row["trial_id"] for row in rows)


def test_gaps_are_as_they_were() -> None:
    rows = read_tables(FOLDER).trials.to_pylist()
    assert large_batch_gaps(rows) == [row["large_batch_gap"] for row in rows]


def test_the_analysis_opens_it() -> None:
    sweep = load_sweep(FOLDER)
    assert len(comparable(sweep)) == 12
    assert sweep.raw_measures.empty
    assert averaging(sweep) == ()
    assert summary_lines(sweep)[0].endswith("12 trials ended: 12 completed, 0 diverged, 0 failed")


def test_training_starts_alike(configs: list[TrialConfig], digits: Source) -> None:
    config = next(config for config in configs if config.batch_size == 30 and config.switch_epoch is None)
    epochs = read_tables(FOLDER).epochs.to_pylist()
    before = sorted((row for row in epochs if row["trial_id"] == config.trial_id), key=lambda row: row["epoch"])[:3]
    trial = Trial(config, digits)
    while trial.training.epochs_done < len(before):
        trial.training.train_epoch()
    for now, then in zip(trial.training.epochs, before, strict=False):
        for name in ("epoch", "step", "lr", "batch_size", "train_loss", "test_loss", "distance"):
            assert now[name] == pytest.approx(then[name], rel=1e-4)
