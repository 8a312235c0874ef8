"""A sweep of every task, from the command to its tables; and what is wrong with labels, before anything starts."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sweeps.batch_grid import main
from trainables.config import TrialConfig
from trainables.data import load_source
from trainables.trial import run_trial

ROOT = Path(__file__).parents[2]
CODE = """
import numpy as np
r = np.random.default_rng(0)
x = r.normal(size=(120, 4)).astype(np.float32)
def prices(): return x, 3 * x[:, 0] - x[:, 1], None, None, "regression"
def marks(): return x, (x[:, :3] > 0).astype(int), None, None, "multilabel"
def rare(): return x, (x[:, 0] > 1).astype(int), None, None, "binary"
def one_sided(): return x, np.zeros(120, int), None, None, "binary"
def three(): return x, np.arange(120) % 3, None, None, "binary"
def shares(): return x, np.abs(x), None, None, "multilabel"
def floats(): return x, x[:, 0], None, None
def padded():
    tokens = np.arange(400).reshape(80, 5) % 4
    return tokens, np.where(np.arange(5) > np.arange(80)[:, None] % 5, -100, (tokens + 1) % 4), None, None

class Huber:
    metric, unit, direction = "huber", "euros", "lower"
    def loss(self, outputs, labels):
        error = (outputs[:, 0] - labels).abs()
        return (error**2 / 2).where(error < 1, error - 0.5)
    def metrics(self, outputs, labels):
        return {"huber": self.loss(outputs, labels), "far": ((outputs[:, 0] - labels).abs() > 1).float()}
class Mean(Huber):
    def loss(self, outputs, labels):
        return super().loss(outputs, labels).mean()
"""
COLUMNS = {
    "prices": ("regression", "mse", "lower", {"r2"}),
    "marks": ("multilabel", "mean_average_precision", "higher", {"f1"}),
    "rare": ("binary", "auc", "higher", {"balanced_accuracy"}),
    "padded": ("language", "nats", "lower", {"perplexity"}),
}


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sets_of_user.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("name", COLUMNS)
def test_a_trial_of_every_task(name: str) -> None:
    task, metric, direction, others = COLUMNS[name]
    source = load_source(f"sets_of_user:{name}")
    sizes: dict[str, Any] = {"train_size": 60, "test_size": 20, "measure_examples": 60, "batch_size": 10, "epochs": 10}
    model: dict[str, Any] = (
        {"model": "lstm", "model_options": '{"width": 6}'} if name == "padded" else {"model_options": '{"widths": [8]}'}
    )
    data: dict[str, Any] = {"dataset": source.name, "data_fingerprint": source.fingerprint, "split_seed": 0}
    record = run_trial(TrialConfig(learning_rate=0.02, **sizes, **model, **data), source)
    row = record.trial
    assert (row["status"], row["task"], row["metric"], row["metric_direction"]) == (
        "completed",
        task,
        metric,
        direction,
    )
    assert {key.partition("_")[2] for key in json.loads(row["metrics"])} == others
    sign = 1 if direction == "higher" else -1
    assert row["generalization_gap"] == pytest.approx(sign * (row["train_metric"] - row["test_metric"]))
    assert record.epochs[-1]["train_loss"] < record.epochs[0]["train_loss"]
    assert sign * (record.epochs[-1]["train_metric"] - record.epochs[0]["train_metric"]) > 0
    assert row["box_sharpness"] > 0
    assert (row["test_perplexity"] is None) == (name != "padded")
    assert "a measure failed" not in row["flags"]


@pytest.mark.slow
def test_a_sweep_of_a_task_of_ones_own(tmp_path: Path) -> None:
    """In a folder with a file named like a module of Python's own, which nothing may import in its place."""
    (tmp_path / "random.py").write_text("raise ImportError('this is no random')")
    run = subprocess.run(
        [sys.executable, str(ROOT / "sweeps" / "batch_grid.py"), "--results", "results", "--name", "own", "--dataset",
         "sets_of_user:prices", "--task", "sets_of_user:Huber", "--batch-sizes", "8", "48", "--learning-rates", "0.01",
         "--warmup-epochs", "0", "--switch-epochs", "none", "--seeds", "0", "--epochs", "2", "--train-size", "96",
         "--model-options", "widths=4", "--measures", "hessian_max_eig", "--plain", "--no-dashboard"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    rows = pq.read_table(tmp_path / "results/own/trials.parquet").to_pylist()
    assert {row["batch_size"] for row in rows} == {8, 48}
    for row in rows:
        assert (row["task"], row["dataset_task"]) == ("sets_of_user:Huber", "regression")
        assert (row["metric"], row["metric_unit"], row["metric_direction"]) == ("huber", "euros", "lower")
        assert row["task_fingerprint"] is not None
        assert row["hessian_max_eig"] is not None
    small, large = sorted(rows, key=lambda row: row["batch_size"])
    assert small["large_batch_gap"] == 0
    assert large["large_batch_gap"] == large["test_metric"] - small["test_metric"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "sets_of_user:one_sided"], "got only 0 in the training set; AUC needs both"),
        (["--dataset", "sets_of_user:three"], "`labels` must be 0 or 1 for the task binary, got 0 to 2"),
        (["--dataset", "sets_of_user:shares"], "`labels` must be 0 or 1 for each class"),
        (["--dataset", "sets_of_user:floats"], "--task regression, multilabel or binary takes others"),
        (["--dataset", "sets_of_user:prices", "--task", "sets_of_user:Mean"], "do not take its mean"),
        (["--dataset", "sets_of_user:prices", "--task", "sets_of_user:Nobody"], "`task` must be an importable"),
        (["--dataset", "sets_of_user:prices", "--task", "ranking"], "`task` must be one of classification"),
        (["--dataset", "sets_of_user:prices", "--task", "multilabel"], "`labels` must be 0 or 1 for each class"),
        (
            ["--dataset", "sets_of_user:prices", "--remedies", "none", "label_smoothing=0.1"],
            "cannot be used with the task",
        ),
    ],
)
def test_refused_before_anything_starts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Callable[[Callable[[list[str]], int], list[str]], str],
    check_here: None,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--batch-sizes", "8", "--epochs", "1", "--warmup-epochs", "0", "--results", str(tmp_path / "r")]
    assert message in refusal(main, [*options, *few])
    assert not (tmp_path / "r").exists()
