"""Fair tuning: the same study in whatever order trials end and whoever is killed, and no look at the test set.

Most of it drives a `Campaign` in this process, with trials whose result is a formula of their configuration, so that
order, interruption and early stopping can be chosen. One run is real: Ray, real training, and `kill -9`.
"""

import dataclasses
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest

from analysis.data.load import load_sweep
from sweeps.cli.tuning_options import parse
from sweeps.tuning.campaign import Campaign, Known, Plan, with_test_set
from sweeps.tuning.optuna_study import Outcome, Point, open_storage
from sweeps.tuning.run import begin, plan_of, write_tuning
from sweeps.tuning.search_space import STARTUP_POINTS, Space
from sweeps.tuning.under_tune import curve_of, judged_epoch, outcome_of
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.records.tables import compact
from trainables.runtime.errors import UserError
from trainables.trial import Trial

SCRIPT = Path(__file__).parents[3] / "sweeps" / "tuned_gap.py"
SPACE = Space(learning_rate=(1e-3, 1e-1), warmup_epochs=(0.0, 2.0), weight_decay=(0.0, 0.0))
QUICK = (  # noqa: SIM905
    "--batch-sizes 30 300 --seeds 0 1 --trials 8 --round-size 4 --epochs 6 --grace-epochs 2 --warmup-epochs-range 0 2 "
    "--train-size 300 --model-options widths=16"
).split()


def quick_plan(digits: Source, *more: str) -> Plan:
    return plan_of(parse([*QUICK, *more]), with_test_set(digits, None))


def made_up(config: TrialConfig, grace_epochs: int) -> tuple[list[Point], Outcome]:
    """A trial whose accuracy is best at a learning rate that grows with the batch; one corner of the space diverges."""
    distance = abs(math.log(config.learning_rate / (0.003 * (config.batch_size / 30) ** 0.5)))
    accuracy = 0.95 - 0.05 * distance - 0.001 * config.warmup_epochs
    assert config.epochs is not None
    judged = [epoch for epoch in range(1, config.epochs + 1) if judged_epoch(epoch - 1, epoch, grace_epochs)]
    curve = [Point(epoch, 1 - accuracy, accuracy * epoch / (epoch + 1)) for epoch in judged]
    if config.learning_rate > 0.09:
        return curve[:1], Outcome(config.trial_id, "diverged", 1, 10, None, 0.1, 0.0)
    return curve, Outcome(config.trial_id, "completed", config.epochs, 60, 1 - accuracy, accuracy, 0.0)


def trained(config: TrialConfig, source: Source, grace_epochs: int) -> tuple[list[Point], Outcome]:
    """A real trial in this process."""
    trial = Trial(config, source)
    trial.train()
    trial.measure()
    record = trial.record()
    return curve_of(record.epochs, grace_epochs), outcome_of(record.trial)


def drive(
    campaign: Campaign,
    run: Callable[[TrialConfig], tuple[Sequence[Point], Outcome]],
    *,
    at_once: int = 1,
    seed: int = 0,
    ends: float = math.inf,
) -> dict[str, Known]:
    """Runs up to `at_once` trials side by side, which end in random order, until `ends` trials have ended."""
    order = random.Random(seed)
    running: list[TrialConfig] = []
    known: dict[str, Known] = {}
    while len(known) < ends:
        while len(running) < at_once and (config := campaign.next()) is not None:
            running.append(config)
        if not running:
            assert not campaign.open
            break
        config = running.pop(order.randrange(len(running)))
        curve, outcome = run(config)
        for length in range(1, len(curve) + 1):
            if campaign.report(config.trial_id, curve[:length]):
                curve = curve[:length]
                last = curve[-1]
                steps = last.epoch * math.ceil(config.train_size / config.batch_size)
                outcome = Outcome(config.trial_id, "stopped", last.epoch, steps, last.loss, last.metric)
                break
        known[config.trial_id] = Known(outcome, curve)
        campaign.end(outcome)
    return known


def rows(campaign: Campaign) -> dict[str, list[dict[str, Any]]]:
    drop = "train_seconds"
    return {
        study.name: [{name: value for name, value in row.items() if name != drop} for row in study.rows()]
        for study in campaign.studies.values()
    }


@pytest.mark.slow
def test_the_same_study_in_any_order_of_ends(digits: Source) -> None:
    plan = quick_plan(digits, "--trials", "14", "--round-size", "4")
    found = []
    for at_once, seed in ((1, 0), (3, 1), (100, 2)):
        campaign = begin(plan, open_storage("sqlite://"), "x", {}, False)
        drive(campaign, lambda config: made_up(config, 2), at_once=at_once, seed=seed)
        assert all(study.is_finished for study in campaign.studies.values())
        assert sum(campaign.missing().values()) == 0
        assert campaign.planned() == 2 * 14 + 3 * 2
        found.append((rows(campaign), sorted(campaign.begun)))
    assert found[0] == found[1] == found[2]
    statuses = {row["status"] for study in found[0][0].values() for row in study}
    assert statuses >= {"completed", "stopped"}


@pytest.fixture(scope="module")
def undisturbed(digits: Source) -> Campaign:
    """A campaign of eight trials each that nobody killed."""
    campaign = begin(quick_plan(digits, "--trials", "8"), open_storage("sqlite://"), "x", {}, False)
    drive(campaign, lambda config: made_up(config, 2))
    return campaign


def test_asking_again_builds_no_configuration_again(digits: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune asks many times a second what is next."""
    campaign = begin(quick_plan(digits, "--trials", "8"), open_storage("sqlite://"), "x", {}, False)
    while campaign.next() is not None:
        pass
    assert campaign.open

    def built(*_: object) -> TrialConfig:
        raise AssertionError("built again")

    monkeypatch.setattr(Plan, "tuned", built)
    assert campaign.next() is None


def test_all_batch_sizes_start_from_the_same_points(undisturbed: Campaign) -> None:
    small, large = (
        [(row["learning_rate"], row["warmup_epochs"]) for row in study.rows()] for study in undisturbed.studies.values()
    )
    assert len(small) == STARTUP_POINTS
    assert small == large


@pytest.mark.parametrize("ends", [4, *(pytest.param(ends, marks=pytest.mark.slow) for ends in (1, 7, 13))])
def test_killed_anywhere_nothing_is_lost_or_run_again(digits: Source, undisturbed: Campaign, ends: int) -> None:
    """What ended is known from the results folder, even where Optuna has not been told of the last one."""
    plan = quick_plan(digits, "--trials", "8")
    storage = open_storage("sqlite://")
    first = begin(plan, storage, "x", {}, False)
    known = drive(first, lambda config: made_up(config, 2), at_once=3, ends=ends)
    config = first.next() or first.begun[next(iter(first.open))]
    curve, outcome = made_up(config, 2)
    if plan.rules.round_size > ends:  # in the first round none is stopped, so this one has left its record
        known[config.trial_id] = Known(outcome, curve)
    records = {key: one for key, one in known.items() if one.outcome.status in ("completed", "diverged")}

    second = begin(plan, storage, "x", records, True)
    again = drive(second, lambda config: made_up(config, 2), at_once=2, seed=5)
    assert not set(again) & set(known)
    assert rows(second) == rows(undisturbed)
    assert set(again) | set(known) == set(undisturbed.begun)


def test_the_test_set_is_not_seen_by_tuning(digits: Source) -> None:
    """With the test examples replaced by NaN and wrong labels tuning gives the same numbers, and testing does not."""
    clean = with_test_set(digits, None)
    assert clean.test_inputs is not None
    assert clean.test_labels is not None
    assert len(clean.test_inputs) == len(digits.inputs) // 2
    together = np.concatenate([clean.inputs, clean.test_inputs])
    order = np.lexsort(together.reshape(len(together), -1).T)
    expected = digits.inputs[np.lexsort(digits.inputs.reshape(len(together), -1).T)]
    np.testing.assert_array_equal(together[order], expected)  # each image is in one of the two, once

    campaigns = []
    for poisoned in (False, True):
        source = dataclasses.replace(clean, test_inputs=clean.test_inputs.copy(), test_labels=clean.test_labels.copy())
        assert source.test_inputs is not None
        assert source.test_labels is not None
        source.fingerprint  # noqa: B018  of the clean data, so that the keys are the same
        if poisoned:
            source.test_inputs[:] = np.nan
            source.test_labels[:] = (source.test_labels + 1) % 10
        plan = plan_of(parse([*QUICK, "--epochs", "3"]), source)
        tested: dict[str, float | None] = {}

        def run(config: TrialConfig, source: Source = source, tested: dict[str, float | None] = tested) -> Any:
            curve, outcome = trained(config, source, 2)
            if config.validation_size is None:
                tested[config.trial_id] = outcome.validation_metric
            else:
                assert config.measures == ""
            return curve, outcome

        campaign = begin(plan, open_storage("sqlite://"), "x", {}, False)
        drive(campaign, run)
        campaigns.append((rows(campaign), tested))
    (clean_rows, clean_tests), (poisoned_rows, poisoned_tests) = campaigns
    assert clean_rows == poisoned_rows
    assert len(clean_rows) == 2
    assert clean_tests.keys() == poisoned_tests.keys()  # the same was chosen
    assert all(clean_tests[key] != poisoned_tests[key] for key in clean_tests)  # and only then the test set was read


def test_tuning_and_retraining_are_of_other_seeds_and_splits(digits: Source) -> None:
    plan = quick_plan(digits)
    cell, values = plan.cells[0], SPACE.whole({"learning_rate": 0.01})
    tuning, retrained = plan.tuned(cell, values), plan.retrained(cell, values)
    assert (tuning.seed, tuning.split_seed, tuning.validation_size) == (1000, 1000, 500)
    assert [(config.seed, config.split_seed, config.validation_size) for config in retrained] == [
        (0, 0, None),
        (1, 1, None),
    ]
    assert {config.train_size for config in (tuning, *retrained)} == {300}


@pytest.mark.slow
def test_more_trials_later_go_on_with_the_study(digits: Source) -> None:
    storage = open_storage("sqlite://")
    drive(begin(quick_plan(digits, "--trials", "3"), storage, "x", {}, False), lambda c: made_up(c, 2))
    wider = begin(quick_plan(digits, "--trials", "9"), storage, "x", {}, True)
    drive(wider, lambda config: made_up(config, 2))
    whole = begin(quick_plan(digits, "--trials", "9"), open_storage("sqlite://"), "x", {}, False)
    drive(whole, lambda config: made_up(config, 2))
    assert rows(wider) == rows(whole)


def test_another_study_is_not_taken_for_this_one(digits: Source, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    begin(quick_plan(digits), open_storage(url), "x", {}, False)
    with pytest.raises(UserError, match=r"already holds the study 'x: batch 30, none'; --resume"):
        begin(quick_plan(digits), open_storage(url), "x", {}, False)
    for change, name in ((["--grace-epochs", "3"], "grace_epochs"), (["--epochs", "7"], "subject")):
        with pytest.raises(UserError, match=rf"begun with other options \({name}"):
            begin(quick_plan(digits, *change), open_storage(url), "x", {}, True)


def test_remedies_that_mean_plain_training_are_tuned_once(digits: Source) -> None:
    plan = quick_plan(digits, "--remedies", "none", "learning_rate_scaling=sqrt", "sam_radius=0.05")
    assert [cell.name for cell in plan.cells] == [
        "batch 30",
        "batch 30, sam_radius=0.05",
        "batch 300",
        "batch 300, learning_rate_scaling=sqrt",
        "batch 300, sam_radius=0.05",
    ]
    (scaled,) = plan.retrained(plan.cells[3], SPACE.whole({"learning_rate": 0.01}))[:1]
    assert scaled.base_batch_size == 30


@pytest.mark.slow
def test_a_real_run_killed_and_resumed(digits: Source, tmp_path: Path) -> None:
    folder = tmp_path / "test"
    command = [sys.executable, str(SCRIPT), "--results", str(tmp_path), "--name", "test", "--no-dashboard", *QUICK]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while len(list((folder / "trials").glob("[!.]*.json"))) < 4:
        assert driver.poll() is None, driver.stdout.read() if driver.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    kept = {file.stem: file.stat().st_mtime_ns for file in (folder / "trials").glob("[!.]*.json")}
    finished = {key: json.loads((folder / "trials" / f"{key}.json").read_text())["trial"] for key in kept}

    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=240, check=False)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "Traceback" not in resumed.stdout
    assert "Tuned separately, batch 300" in resumed.stdout
    trials = {row["trial_id"]: row for row in pq.read_table(folder / "trials.parquet").to_pylist()}
    for key, row in finished.items():
        assert trials[key]["finished_at"] == row["finished_at"]  # not run again

    plan = quick_plan(digits)
    expected = begin(plan, open_storage("sqlite://"), "test", {}, False)
    known = drive(expected, lambda config: trained(config, plan.source, 2))
    storage = open_storage(f"sqlite:///{folder / 'optuna.db'}")
    assert optuna.get_all_study_names(storage) == ["test: batch 30, none", "test: batch 300, none"]
    real = begin(plan, storage, "test", {}, True)
    assert rows(real) == rows(expected)
    retrained = {key for key, config in expected.begun.items() if config.validation_size is None}
    assert {key for key, row in trials.items() if row["validation_size"] is None} == retrained
    for key in retrained:
        assert trials[key]["test_accuracy"] == known[key].outcome.validation_metric
        assert trials[key]["box_sharpness"] is not None
    tuning = pq.read_table(folder / "tuning.parquet").to_pylist()
    assert len(tuning) == 16
    stopped = {row["trial_id"] for row in tuning if row["status"] == "stopped"}
    assert stopped
    assert not stopped & set(trials)
    assert set(trials) == retrained | {row["trial_id"] for row in tuning} - stopped
    assert all(trials[row["trial_id"]]["large_batch_gap"] is None or row["status"] == "completed" for row in tuning
               if row["trial_id"] in trials)  # fmt: skip
    assert not list((folder / "checkpoints").glob("*.pt"))
    assert len(load_sweep(folder).trials) == len(trials)

    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0
    assert "Ray:" not in done.stdout  # nothing to do


def test_tables_of_a_campaign_that_is_not_finished(digits: Source, tmp_path: Path) -> None:
    """An interrupted run leaves tables that say how far it came."""
    (tmp_path / "trials").mkdir()
    campaign = begin(quick_plan(digits), open_storage("sqlite://"), "x", {}, False)
    drive(campaign, lambda config: made_up(config, 2), ends=3)
    compact(tmp_path)
    write_tuning(tmp_path, campaign)
    assert pq.read_table(tmp_path / "tuning.parquet").num_rows == 3
    assert json.loads((tmp_path / "tuning.json").read_text())["cells"][0]["best"] is None
