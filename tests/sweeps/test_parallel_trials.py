"""Trials of two workers under real Ray, one of which is killed; and trials that run out of memory."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from rich.console import Console

from sweeps.launch import Placement, own_results_folder, run_trials
from sweeps.progress import Progress
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.tables import Tables, read_tables
from trainables.trial import run_trial
from trainables.tune_trial import TuneTrial

EPOCHS = 120
NUMBERS = ("train_loss", "test_loss", "train_accuracy", "box_sharpness", "hessian_max_eig", "generalization_gap")


def run(folder: Path, configs: list[TrialConfig], source: Source, **placement: Any) -> Tables:
    progress = Progress(configs, already_done=0, console=Console(quiet=True))
    with own_results_folder(folder, resume=False):
        tables, interrupted = run_trials(configs, source, folder, Placement(dashboard=False, **placement), progress)
    assert not interrupted
    return tables


def kill_a_member(folder: Path, heard: set[str]) -> None:
    """Kills a worker of the trial once there is a checkpoint; `heard` are the addresses that all listened on."""
    while not list((folder / "checkpoints").glob("*.pt")):
        time.sleep(0.02)
    members = [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]
    listening = [c for p in members for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    heard.update(connection.laddr.ip.removeprefix("::ffff:") for connection in listening)
    members[-1].kill()


def test_two_workers_come_to_the_numbers_of_one_though_one_is_killed(
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
    thread = threading.Thread(target=kill_a_member, args=(tmp_path, heard), daemon=True)
    thread.start()
    tables = run(tmp_path, [config], digits, workers_per_trial=2, memory_per_trial=1.0, checkpoint_seconds=0.0)
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
            "cpus": 1,
            "gpus": 0,
            "memory": 0.35,
            "checkpoint_seconds": 1e6,
            "keep_weights": False,
            "reuse_actors": True,
        }
        ends = ray.get(Worker.remote().run.remote(shared, [cannot.trial_id, can.trial_id, can.trial_id]))
    finally:
        ray.shutdown()
    assert ends == [("failed", None), ("completed", 300 // 8), ("completed", 300 // 8)]
    rows = {row["trial_id"]: row for row in read_tables(tmp_path).trials.to_pylist()}
    assert rows[can.trial_id]["train_loss"] == pytest.approx(run_trial(can, digits).trial["train_loss"], rel=1e-4)
    assert rows[cannot.trial_id]["error"].splitlines()[-1].startswith("out of memory; give --workers-per-trial")
