"""The Tune adapter on real Ray: what a worker sees of the shared data."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.records.tables import read_tables
from trainables.trial import Trial, run_trial
from trainables.tune.trial_placement import TrialPlacement
from trainables.tune.tune_trial import TuneTrial
from trainables.units import Amount


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@ray.remote
class Worker:
    """Drives the adapter as Tune does: setup, steps, then the next trial in the same process."""

    def run(self, config: dict[str, object], trial_ids: list[str]) -> tuple[bool, str, list[str]]:
        trainable = TuneTrial(config={**config, "trial_id": trial_ids[0]})
        statuses = []
        for index, trial_id in enumerate(trial_ids):
            if index:
                assert trainable.reset_config({**config, "trial_id": trial_id})
            while not (result := trainable.step())["done"]:
                pass
            statuses.append(result["status"])
        shared: Source = trainable._source
        vars(shared).pop("fingerprint", None)  # computed again, from the arrays as they are now
        return shared.inputs.flags.writeable, shared.fingerprint, statuses


def drive(configs: dict[str, TrialConfig], source: Source, folder: Path) -> tuple[bool, str, list[str]]:
    """Runs the trials one after another in one worker, their records in `folder`."""
    for part in ("trials", "checkpoints"):
        (folder / part).mkdir()
    shared = {
        "configs": ray.put(configs),
        "source": ray.put(source),
        "folder": str(folder),
        "placement": TrialPlacement(checkpoint_seconds=0.0),
    }
    worker = Worker.remote()  # type: ignore[attr-defined]  # of ray.remote
    found: tuple[bool, str, list[str]] = ray.get(worker.run.remote(shared, list(configs)))
    return found


@pytest.mark.slow
def test_trials_share_read_only_data_and_leave_it_alone(
    local_ray: None, make_config: Callable[..., TrialConfig], digits: Source, tmp_path: Path
) -> None:
    fixed = Source("fixed", digits.inputs[:300], digits.labels[:300], digits.inputs[300:], digits.labels[300:], 10)
    configs = {config.trial_id: config for config in (make_config(seed=seed, epochs=2) for seed in range(3))}
    writeable, fingerprint, statuses = drive(configs, fixed, tmp_path)
    assert not writeable  # Ray's object store: one copy on the node, seen by all its workers
    assert fingerprint == fixed.fingerprint
    assert statuses == ["completed"] * 3
    assert sorted(read_tables(tmp_path).trials["trial_id"].to_pylist()) == sorted(configs)
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.slow
def test_trials_that_switch_start_from_the_states_another_left(
    local_ray: None, make_config: Callable[..., TrialConfig], digits: Source, tmp_path: Path
) -> None:
    """To the same bits as if each had trained from its beginning."""
    switches: dict[str, Any] = {"switch_batch_size": 300, "epochs": 5}
    trials = [make_config(epochs=5), *(make_config(switch_epoch=epoch, **switches) for epoch in (2, 3))]
    trials.append(make_config(switch_epoch=4, **switches, measure_every=2))  # needs measures of the epochs before
    drive({trial.trial_id: trial for trial in trials}, digits, tmp_path)
    tables = read_tables(tmp_path)
    rows = {row["trial_id"]: row for row in tables.trials.to_pylist()}
    assert [rows[trial.trial_id]["resumed_epoch"] for trial in trials] == [None, 2, 3, None]
    assert len(list((tmp_path / "checkpoints").glob("warm-start-*.pt"))) == 2
    for trial in trials:
        alone = run_trial(trial, digits)
        pairs = (
            (
                [rows[trial.trial_id]],
                [alone.trial],
                ("train_seconds", "sharpness_seconds", "finished_at", "resumed_epoch"),
            ),
            (of(tables.epochs, trial), alone.epochs, ("seconds",)),
            (of(tables.measures, trial), alone.measures, ("seconds",)),
        )
        for left, expected, not_compared in pairs:
            assert len(left) == len(expected)
            for row, same in zip(left, expected, strict=True):
                assert {name: row[name] for name in same if name not in not_compared} == {
                    name: value for name, value in same.items() if name not in not_compared
                }


@pytest.mark.parametrize("adapter", ["one worker", "several workers"])
def test_checkpoints_every_so_many_steps(
    make_config: Callable[..., TrialConfig], digits: Source, tmp_path: Path, adapter: str
) -> None:
    """30 steps, a row after each 3: the last checkpoint is of the first row at or after step 28."""
    config = make_config(epochs=3, evaluate_every="3steps", measures="")
    trial, path = Trial(config, digits), tmp_path / "trial.pt"
    if adapter == "one worker":
        tuned = object.__new__(TuneTrial)
        tuned._config, tuned._trial, tuned._checkpoint, tuned._warm_starts = config, trial, path, {}
        tuned._checkpoint_every = Amount(7, "steps")
        trial.after_epoch = tuned._after_logging
    else:
        from trainables.tune.parallel_trial import _Saver

        trial.after_epoch = _Saver(trial, path, 1e9, "7steps")
    trial.train()
    resumed = Trial(config, digits)
    assert resumed.resume(path)
    assert resumed.training.step == 30
    assert path.with_suffix(".previous").exists()
    path.unlink()
    assert resumed.resume(path)
    assert resumed.training.step == 21


def of(table: Any, trial: TrialConfig) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if row["trial_id"] == trial.trial_id]


def test_only_the_trunk_leaves_states_for_trials_that_switch(
    make_config: Callable[..., TrialConfig], digits: Source, tmp_path: Path
) -> None:
    """Not a trial that has switched before, whose weights are no longer those of the same run."""
    (tmp_path / "checkpoints").mkdir()
    configs = [make_config(switch_epoch=at, switch_batch_size=300, epochs=3, measures="") for at in (1, 2)]
    tuned = object.__new__(TuneTrial)
    tuned._config, tuned._folder, tuned._checkpoint_every = configs[0], tmp_path, None
    tuned._trial = Trial(configs[0], digits)
    tuned._warm_starts = {configs[0].warm_start_id: {1.0, 2.0}}
    assert configs[1].warm_start_id == configs[0].warm_start_id
    tuned._trial.after_epoch = tuned._after_logging
    tuned._trial.train()
    left = [path.name for path in (tmp_path / "checkpoints").glob("warm-start-*.pt")]
    assert left == [f"warm-start-{configs[0].warm_start_id}-1.pt"]
