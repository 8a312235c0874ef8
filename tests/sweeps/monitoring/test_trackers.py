"""Trackers on a real sweep, without a server: MLflow in SQLite, Weights & Biases offline; TensorBoard after it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from analysis.reporting.event_files import RESULTS, write_events
from sweeps import batch_grid
from sweeps.batch_grid import main
from sweeps.monitoring.trackers import trackers
from trainables.runtime.errors import UserError

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[3] / "sweeps" / "batch_grid.py"


def run(results: Path, *more: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, str(SCRIPT), "--results", str(results), "--name", "test", "--no-dashboard", "--quiet",
        "--batch-sizes", "30", "300", "--learning-rates", "0.01", "--warmup-epochs", "0", "--switch-epochs", "none",
        "--seeds", "0", "1", "--epochs", "6", "--model-options", "widths=16", *more,
    ]  # fmt: skip
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **(environment or {})}
    )


def rows(results: Path, table: str = "trials") -> dict[str, dict[str, Any]]:
    return {row["trial_id"]: row for row in pq.read_table(results / "test" / f"{table}.parquet").to_pylist()}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a sweep that told MLflow of itself, and a tracker that breaks down."""
    pytest.importorskip("mlflow", reason="pip install '.[trackers]'")
    results = tmp_path_factory.mktemp("results")
    process = run(results, "--track", "mlflow")
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.startswith("\n"), process.stdout  # quiet: nothing before the summary
    assert "trials done" not in process.stdout
    assert process.stderr == ""
    return results


def test_mlflow_has_every_trial(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tracked / 'test' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    found = {run.data.params["trial_key"]: run for run in client.search_runs([experiment.experiment_id])}
    trials = rows(tracked)
    assert found.keys() == trials.keys()
    for key, run_ in found.items():
        trial = trials[key]
        assert run_.info.status == "FINISHED"
        assert run_.info.run_name == f"b{trial['batch_size']} lr0.01 seed{trial['seed']}"
        for name in ("batch_size", "learning_rate", "seed", "epochs", "train_size"):
            assert run_.data.params[name] == str(trial[name])
        for name in ("test_accuracy", "train_loss", "box_sharpness", "hessian_max_eig", "generalization_gap"):
            assert run_.data.metrics[name] == trial[name]
        assert not any("/" in name or name in ("pid", "timestamp") for name in run_.data.metrics)
        (point,) = client.get_metric_history(run_.info.run_id, "box_sharpness")
        assert point.step == trial["epochs_done"]


def test_wandb_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="pip install '.[trackers]'")
    process = run(tmp_path, "--track", "wandb:my-project", "--seeds", "0", environment={"WANDB_MODE": "offline"})
    assert process.returncode == 0, process.stdout + process.stderr
    assert "stopped logging" not in process.stderr
    runs = list((tmp_path / "test" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(runs) == 2
    content = b"".join(file.read_bytes() for file in runs)
    assert b"my-project" in content
    assert all(key.encode() in content for key in rows(tmp_path))


def test_a_tracker_that_fails_never_stops_the_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlflow")
    from sweeps.monitoring.trackers import Tracked

    class Unreachable:
        def on_experiment_end(self, trials: list[Any]) -> None:
            raise ConnectionError("server gone")

    tracker = Tracked("mlflow", Unreachable(), "test", {})
    tracker.on_experiment_end([])
    tracker.on_experiment_end([])
    assert capsys.readouterr().err == "mlflow stopped logging, and the sweep continues: server gone\n"


@pytest.mark.parametrize("target", ["nowhere://x", "sqlite:////proc/none/mlflow.db"])
def test_a_store_that_cannot_be_reached_is_one_line(tmp_path: Path, target: str) -> None:
    pytest.importorskip("mlflow", reason="pip install '.[trackers]'")
    with pytest.raises(UserError, match=r"`--track mlflow:.*`: this tracker cannot be reached") as error:
        trackers([("mlflow", target)], tmp_path, {})
    assert "\n" not in str(error.value)


def test_a_tracker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]) -> None:
    """It is refused when the options are read, long before Ray starts."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "--track: must be a tracker that is installed, got wandb:x; pip install wandb" in refusal(
        batch_grid.main, ["--track", "wandb:x"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--track", "comet"], "must be mlflow, mlflow:URI, wandb or wandb:PROJECT, got 'comet'"),
        (["--plain", "--quiet"], "argument --quiet: not allowed with argument --plain"),
    ],
)
def test_mistakes_get_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(options)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_tensorboard_has_curves_and_hparams(tracked: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install '.[trackers]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.metadata import parse_experiment_plugin_data, parse_session_start_info_plugin_data

    folder = tracked / "test"
    write_events(folder)
    (line,) = write_events(folder)  # again, as one does while a sweep runs
    assert line.startswith("4 runs; look at them with: tensorboard --logdir ")
    trials, curves = rows(tracked), pq.read_table(folder / "epochs.parquet").to_pylist()
    folders = sorted((folder / "tensorboard").iterdir())
    assert len(folders) == 4
    for run_folder in folders:
        events = EventAccumulator(str(run_folder)).Reload()
        (trial,) = (row for key, row in trials.items() if run_folder.name.endswith(key[:6]))
        assert run_folder.name.startswith(f"b{trial['batch_size']} lr0.01 seed{trial['seed']} ")
        own = [row for row in curves if row["trial_id"] == trial["trial_id"]]
        for name in ("train_loss", "test_accuracy", "lr", "batch_size"):
            assert [(one.step, one.value) for one in events.Scalars(f"epoch/{name}")] == [
                (row["epoch"], pytest.approx(row[name], rel=1e-6)) for row in own if row[name] is not None
            ]
            assert own[-1][name] is not None
        for name in RESULTS:
            (one,) = events.Scalars(f"result/{name}")
            assert one.value == pytest.approx(trial[name], rel=1e-6)  # TensorBoard keeps float32
            assert one.step == trial["epochs_done"]
        hparams = events.PluginTagToContent("hparams")
        started = parse_session_start_info_plugin_data(hparams["_hparams_/session_start_info"]).hparams
        assert {"batch_size", "seed"} <= started.keys()
        assert "learning_rate" not in started  # it does not vary
        assert started["batch_size"].number_value == trial["batch_size"]
        metrics = parse_experiment_plugin_data(hparams["_hparams_/experiment"]).metric_infos
        assert [metric.name.tag for metric in metrics] == [f"result/{name}" for name in ("test_accuracy", *RESULTS)]


def test_tensorboard_of_a_half_written_folder(tracked: Path, tmp_path: Path) -> None:
    """A folder that is no sweep; records that are not in the tables yet; a failed trial without epochs; odd names."""
    pytest.importorskip("tensorboard", reason="pip install '.[trackers]'")
    with pytest.raises(UserError, match="`results` must be a folder that a sweep has written"):
        write_events(tmp_path)
    (trial, *_) = rows(tracked).values()
    failed = {**trial, "status": "failed", "epochs_done": None, "finished_at": None, "trial_id": "../../../x<b>"}
    failed |= dict.fromkeys(RESULTS)
    (tmp_path / "trials").mkdir()
    record = {"format": 1, "trial": failed, "epochs": [], "measures": []}
    (tmp_path / "trials" / "x.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="it is of trial"):
        write_events(tmp_path)
    record["trial"] = failed | {"trial_id": "x"}
    (tmp_path / "trials" / "x.json").write_text(json.dumps(record))
    write_events(tmp_path)
    (run_folder,) = (tmp_path / "tensorboard").iterdir()
    assert list(run_folder.iterdir())
    assert not (tmp_path.parent / "x").exists()
