"""Trials of two workers under real Ray, killed twice; and trials that run out of memory."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from rich.console import Console

from sweeps.execution.launch import exclusive_results_folder, run_trials
from sweeps.monitoring.progress import Progress
from sweeps.session.placement import Placement
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.records.tables import Tables, read_tables
from trainables.trial import run_trial
from trainables.tune.trial_placement import TrialPlacement
from trainables.tune.tune_trial import TuneTrial

pytestmark = pytest.mark.slow

EPOCHS = 300
NUMBERS = ("train_loss", "test_loss", "train_accuracy", "box_sharpness", "hessian_max_eig", "generalization_gap")


def run(folder: Path, configs: list[TrialConfig], source: Source, **placement: Any) -> Tables:
    progress = Progress(configs, already_done=0, console=Console(quiet=True))
    with exclusive_results_folder(folder, resume=False):
        (folder / "sweep.json").write_text("{}")  # without it the folder counts as removed, after three minutes
        tables, interrupted = run_trials(configs, source, folder, Placement(dashboard=False, **placement), progress)
    assert not interrupted
    return tables


def processes(name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found


def saved_at(folder: Path) -> float:
    with contextlib.suppress(OSError):  # between two of them
        return max((file.stat().st_mtime for file in (folder / "checkpoints").glob("[!.]*.pt")), default=0.0)
    return 0.0


def kill(folder: Path, heard: set[str], killed: list[str]) -> None:
    """Kills a worker of the trial, and when it goes on the actor that waits for its workers.

    `heard` are the addresses that the workers listened on.
    """
    before: set[int] = set()

    def members() -> list[psutil.Process]:
        return [process for process in processes("RayTrainWorker") if process.pid not in before]

    for name in ("RayTrainWorker", "ray::ParallelTrial"):
        while not members():
            time.sleep(0.02)
        since = time.time()
        while saved_at(folder) <= since:
            time.sleep(0.02)
        for member in members():
            listening = [c for c in member.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            heard.update(connection.laddr.ip.removeprefix("::ffff:") for connection in listening)
            before.add(member.pid)
        processes(name)[-1].kill()
        killed.append(name)


def test_two_workers_come_to_the_numbers_of_one_though_killed(
    tmp_path: Path, make_config: Callable[..., TrialConfig], digits: Source
) -> None:
    config = make_config(
        batch_size=128,
        epochs=EPOCHS,
        model_options='{"widths": [16], "batch_norm": true, "dropout": 0.1}',
        ghost_batch_size=64,
        optimizer="sgd",
        measure_every=EPOCHS - 20,
    )
    heard: set[str] = set()
    killed: list[str] = []
    thread = threading.Thread(target=kill, args=(tmp_path, heard, killed), daemon=True)
    thread.start()
    tables = run(tmp_path, [config], digits, workers_per_trial=2, memory_per_trial=1.0, checkpoint_seconds=0.0)
    assert len(killed) == 2
    assert heard == {"127.0.0.1"}  # nobody else can join
    (row,) = tables.trials.to_pylist()
    assert row["status"] == "completed", row["error"]
    assert row["resumed_epoch"] is not None
    expected = run_trial(config, digits)
    for name in NUMBERS:
        assert row[name] == pytest.approx(expected.trial[name], rel=1e-3), name
    assert len(tables.epochs) == EPOCHS
    assert [m["epoch"] for m in tables.measures.to_pylist()] == [m["epoch"] for m in expected.measures]
    assert list((tmp_path / "checkpoints").iterdir()) == []


@ray.remote
class Worker:
    """Drives the adapter as Tune does, and tells how each trial ended and in which micro-batches."""

    def run(self, config: dict[str, Any], trial_ids: list[str]) -> list[tuple[str, int | None]]:
        trainable = TuneTrial(config={**config, "trial_id": trial_ids[0]})
        ends = []
        for trial_id in trial_ids:
            trainable.reset_config({**config, "trial_id": trial_id})
            while not (result := trainable.step())["done"]:
                pass
            ends.append((result["status"], trainable._micro_batch_size))
        return ends


def test_out_of_memory_is_tried_again_in_parts_then_failed(
    tmp_path: Path, make_config: Callable[..., TrialConfig], digits: Source
) -> None:
    """A batch of 300 at width 100 000 takes 120 MB an activation, weights 26 MB; 0.35 GiB hold the weights alone."""

    def wide(batch_norm: str) -> TrialConfig:
        options = f'{{"batch_norm": {batch_norm}, "widths": [100000]}}'
        return make_config(batch_size=300, epochs=2, model_options=options, optimizer="sgd", measures="")

    cannot, can = wide("true"), wide("false")
    (tmp_path / "trials").mkdir()
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        shared = {
            "configs": ray.put({config.trial_id: config for config in (cannot, can)}),
            "source": ray.put(digits),
            "folder": str(tmp_path),
            "placement": TrialPlacement(memory_per_trial=0.35, checkpoint_seconds=1e6),
        }
        worker = Worker.remote()  # type: ignore[attr-defined]  # of ray.remote
        ends = ray.get(worker.run.remote(shared, [cannot.trial_id, can.trial_id, can.trial_id]))
    finally:
        ray.shutdown()
    assert ends == [("failed", None), ("completed", 300 // 8), ("completed", 300 // 8)]
    rows = {row["trial_id"]: row for row in read_tables(tmp_path).trials.to_pylist()}
    assert rows[can.trial_id]["train_loss"] == pytest.approx(run_trial(can, digits).trial["train_loss"], rel=1e-4)
    assert rows[cannot.trial_id]["error"].splitlines()[-1].startswith("out of memory; give --workers-per-trial")


def test_a_measure_that_fails_on_one_worker_is_left_to_the_first(
    tmp_path: Path, make_config: Callable[..., TrialConfig], digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other workers wait in a sum for the one that failed; so all begin again, and the first measures alone."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    fields = {"batch_size": 100, "epochs": 2, "model_options": "{}"}
    second, both = (make_config(model=f"unmeasurable_model:{name}", **fields) for name in ("by_second", "by_any"))
    tables = run(tmp_path, [second, both], digits, workers_per_trial=2)
    trials = {row["trial_id"]: row for row in tables.trials.to_pylist()}
    assert [trials[config.trial_id]["status"] for config in (second, both)] == ["completed", "completed"]
    expected = run_trial(second, digits)  # by one process
    for name in NUMBERS:
        assert trials[second.trial_id][name] == pytest.approx(expected.trial[name], rel=1e-3), name
    assert "a measure failed" in trials[both.trial_id]["flags"]
    own = [row for row in tables.measures.to_pylist() if row["trial_id"] == both.trial_id]
    assert [row["error"] for row in own] == ["ArithmeticError: measured"] * 2
