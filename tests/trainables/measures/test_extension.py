"""Measuring more of a trained trial: its rows are extended, with the same bits as if all had been asked for at once."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from sweeps.execution.worker_deaths import write_failures
from sweeps.monitoring.progress import Progress
from sweeps.studies.study import say_failures
from sweeps.tuning.campaign import Known
from sweeps.tuning.optuna_study import Outcome
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.measures.extension import measured_by
from trainables.records.resume import incomplete_trials
from trainables.records.tables import Record, compact, read_tables, record_of, write_record
from trainables.trial import Trial, run_trial

Make = Callable[..., TrialConfig]
TIMES = ("seconds", "train_seconds", "sharpness_seconds", "finished_at", "measured_at", "resumed_epoch")
BEFORE = "box_sharpness,hessian_max_eig"
AFTER = f"{BEFORE},hessian_trace"


@pytest.fixture(scope="module")
def make_config(make_config: Make) -> Make:
    """A trial that is quickly trained and measured."""
    return partial(make_config, epochs=2, model_options='{"widths": [4]}', measure_examples=50)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("trials", "weights", "checkpoints"):
        (tmp_path / part).mkdir()
    return tmp_path


def stored(folder: Path, config: TrialConfig, source: Source) -> Record:
    """The record of a trial that was run and kept in the tables, as it is read back."""
    trial = Trial(config, source)
    trial.train()
    trial.save_weights(folder / "weights" / f"{config.trial_id}.pt")
    trial.measure()
    write_record(folder, trial.record())
    return record_of(compact(folder), config.trial_id)


def extend(folder: Path, config: TrialConfig, source: Source, *, weights: bool = True) -> Record:
    """The stored trial measured as `config` asks, from its kept weights or by training again, as it is read back."""
    trial = Trial(config, source, known=record_of(read_tables(folder), config.trial_id))
    path = folder / "weights" / f"{config.trial_id}.pt"
    if not (weights and trial.load_weights(path)):
        trial.train()
    trial.measure()
    write_record(folder, trial.record())
    return record_of(compact(folder), config.trial_id)


def timeless(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps({name: row[name] for name in row if name not in TIMES}, sort_keys=True) for row in rows)


@pytest.mark.parametrize("weights", [True, False])
def test_a_measure_that_is_added_has_the_bits_of_one_asked_for_at_once(
    make_config: Make, digits: Source, folder: Path, tmp_path_factory: pytest.TempPathFactory, weights: bool
) -> None:
    before = stored(folder, make_config(measures=BEFORE), digits)
    after = extend(folder, make_config(measures=AFTER), digits, weights=weights)
    other = tmp_path_factory.mktemp("at_once")
    for part in ("trials", "weights"):
        (other / part).mkdir()
    at_once = stored(other, make_config(measures=AFTER), digits)
    assert timeless([after.trial]) == timeless([at_once.trial])
    assert timeless(after.measures) == timeless(at_once.measures)
    assert after.epochs == before.epochs
    assert after.measures[: len(before.measures)] == before.measures  # seconds included
    assert after.trial["train_seconds"] == before.trial["train_seconds"]
    assert after.trial["finished_at"] == before.trial["finished_at"]
    assert after.trial["measured_at"] is not None
    assert before.trial["measured_at"] is None
    assert not incomplete_trials(folder, [make_config(measures=AFTER), make_config(measures=BEFORE)])
    assert timeless([extend(folder, make_config(measures=AFTER), digits).trial]) == timeless([after.trial])


def test_what_is_missing_is_known_without_training(make_config: Make, digits: Source, folder: Path) -> None:
    stored(folder, make_config(measures=BEFORE), digits)
    wanted = [make_config(measures=AFTER), make_config(measures=AFTER, seed=1), make_config(measures=BEFORE)]
    missing = incomplete_trials(folder, wanted)
    assert [(config.seed, config.measures) for config in missing] == [(0, "hessian_trace"), (1, AFTER)]
    for change in ({"measure_dtype": "float32"}, {"measure_examples": 40}, {"measure_every": 2}):
        assert incomplete_trials(folder, [make_config(measures=BEFORE, **change)])
    assert not incomplete_trials(folder, [make_config(measures="")])


def test_two_settings_side_by_side(make_config: Make, digits: Source, folder: Path) -> None:
    before = stored(folder, make_config(), digits)
    after = extend(folder, make_config(measure_dtype="float32", measure_examples=40), digits)
    old, new = (
        [row for row in after.measures if (row["dtype"], row["examples"]) == setting]
        for setting in (("float64", 50), ("float32", 40))
    )
    assert old == before.measures
    assert len(new) == len(old)
    assert len(after.measures) == len(old) + len(new)
    strong = next(row for row in new if row["method"] == "strong" and row["epsilon"] == 1e-3)
    assert after.trial["box_sharpness"] == strong["value"] != before.trial["box_sharpness"]  # of the row's own setting
    assert (after.trial["measure_dtype"], after.trial["measure_examples"]) == ("float32", 40)
    assert not incomplete_trials(folder, [make_config(), make_config(measure_dtype="float32", measure_examples=40)])
    other = make_config(measure_examples=30, measures="hessian_trace")  # nothing that trials.parquet has a column for
    last = extend(folder, other, digits)
    assert len(last.measures) == len(after.measures) + 1
    names = ("box_sharpness", "hessian_max_eig", "measures", "measure_dtype", "measure_examples")
    assert [last.trial[name] for name in names] == [after.trial[name] for name in names]
    assert not incomplete_trials(folder, [other])


def test_rows_along_the_run_are_added_by_training_again(make_config: Make, digits: Source, folder: Path) -> None:
    stored(folder, make_config(measures="hessian_max_eig", epochs=3, measure_every=2), digits)
    wanted = make_config(measures=BEFORE, epochs=3, measure_every=1)
    after = extend(folder, wanted, digits)
    at_once = run_trial(wanted, digits)
    assert len(after.measures) == len(at_once.measures)
    names = ("epoch", "measure", "method", "epsilon", "value")
    rows = [{tuple(row.get(name) for name in names) for row in record.measures} for record in (after, at_once)]
    assert rows[0] == rows[1]
    assert after.trial["measure_every"] == 1
    assert not incomplete_trials(folder, [wanted])


def test_measures_of_the_optimizers_steps_need_the_training(make_config: Make, digits: Source, folder: Path) -> None:
    """`stability` of Adam needs its moments, which are not among the weights."""
    stored(folder, make_config(), digits)
    wanted = make_config(measures=f"{BEFORE},stability")
    methods = {row["method"] for row in extend(folder, wanted, digits).measures if row["measure"] == "stability"}
    assert methods == {"plain", "adam"}


@pytest.mark.parametrize("weights", [True, False])
def test_weights_that_are_not_the_trials_are_not_measured(
    make_config: Make, digits: Source, folder: Path, weights: bool
) -> None:
    """Rows without a value say why, and a later run tries again: it may have the right weights or machine."""
    config = make_config(measures=AFTER, measure_dtype="auto")
    before = stored(folder, make_config(measures=BEFORE, measure_dtype="auto"), digits)
    path = folder / "weights" / f"{config.trial_id}.pt"
    kept = path.read_bytes()
    if weights:
        torch.save({name: 2 * value for name, value in torch.load(path).items()}, path)
    else:
        tables = read_tables(folder)
        record = record_of(tables, config.trial_id)
        record.epochs[-1]["train_loss"] *= 1.1
        write_record(folder, record)
    after = extend(folder, config, digits, weights=weights)
    row = after.measures[-1]
    assert (row["measure"], row["value"]) == ("hessian_trace", None)
    assert row["error"].startswith("the weights could not be reached again: train_loss ")
    assert after.measures[:-1] == before.measures
    assert "a measure failed" in after.trial["flags"]
    assert after.trial["measures"] == BEFORE
    assert len(extend(folder, config, digits, weights=weights).measures) == len(after.measures)
    assert incomplete_trials(folder, [config])
    if weights:
        path.write_bytes(kept)
        again = extend(folder, config, digits)
        found = [row for row in again.measures if row["measure"] == "hessian_trace"]
        assert [row["error"] for row in found] == [None]
        assert found[0]["value"] is not None
        assert again.trial["flags"] == before.trial["flags"]


def test_a_checkpoint_without_the_measures_along_the_run_is_not_used(
    make_config: Make, digits: Source, folder: Path
) -> None:
    def begun(**changes: Any) -> Trial:
        return Trial(make_config(epochs=4, measures="hessian_max_eig", **changes), digits)

    path = folder / "checkpoints" / "trial.pt"
    trial = begun()
    trial.train(0)
    trial.save(path)
    assert not begun(measure_every=1).resume(path)
    assert begun().resume(path)
    along = begun(measure_every=1)
    along.train(0)
    along.save(path)
    resumed = begun(measure_every=1)
    assert resumed.resume(path)
    assert [row["epoch"] for row in resumed.measures] == [1]
    without = begun()
    assert without.resume(path)
    assert without.measures == []


def test_a_trial_that_could_not_be_extended_keeps_its_rows(make_config: Make, digits: Source, folder: Path) -> None:
    """Its worker died in the middle: the reason is in its row, the next run tries again, and then it is gone."""
    before = stored(folder, make_config(measures=BEFORE), digits)
    wanted = make_config(measures=AFTER)
    progress = Progress([wanted], already_done=0, console=Console(quiet=True))
    progress.errors[wanted.trial_id] = "the worker died"
    write_failures(folder, [wanted], progress)
    after = record_of(compact(folder), wanted.trial_id)
    assert after == Record({**before.trial, "error": "the worker died"}, before.epochs, before.measures)
    assert say_failures(read_tables(folder), [wanted.trial_id]) == 1
    assert incomplete_trials(folder, [wanted])
    assert extend(folder, wanted, digits).trial["error"] is None
    assert say_failures(read_tables(folder), [wanted.trial_id]) == 0


def test_a_campaign_measures_its_retrained_trials_further(make_config: Make) -> None:
    outcome = Outcome("key", "completed")
    known = Known(outcome, [], measured_by(make_config(measures=BEFORE)))
    assert known.is_complete(make_config(measures=BEFORE))
    assert known.is_complete(make_config(measures=""))  # as tuning trials are
    assert not known.is_complete(make_config(measures=AFTER))
    assert Known(Outcome("key", "diverged"), []).is_complete(make_config(measures=AFTER))


def test_a_noise_scale_is_added_by_training_again(make_config: Make, digits: Source, folder: Path) -> None:
    """To the same rows, though the weights were kept; and not twice."""
    before = stored(folder, make_config(measures=BEFORE), digits)
    wanted = make_config(measures=BEFORE, noise_scale="all")
    (missing,) = incomplete_trials(folder, [wanted])
    assert (missing.measures, missing.noise_scale) == ("", "all")
    after = extend(folder, wanted, digits)
    at_once = run_trial(wanted, digits)
    assert {name for name, value in at_once.trial.items() if value != after.trial[name]} <= set(TIMES)
    assert [row["gradient_noise_scale"] for row in after.epochs] == [
        row["gradient_noise_scale"] for row in at_once.epochs
    ]
    assert [row["seconds"] for row in after.epochs] == [row["seconds"] for row in before.epochs]
    assert after.measures == before.measures
    assert not incomplete_trials(folder, [wanted, make_config(measures=BEFORE)])
    more = extend(folder, make_config(measures=AFTER), digits)  # without asking for it again
    assert (more.trial["noise_scale"], more.epochs) == ("all", after.epochs)
