"""Trials that are long report to Tune on their way, also where the test set was not looked at."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from trainables.training.looks import is_look

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[1] / "sweeps"
EPOCHS = 15


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("batch_grid.py", ["--learning-rates", "0.01", "--warmup-epochs", "0", "--switch-epochs", "none"]),
        ("tuned_gap.py", ["--trials", "2", "--round-size", "2", "--validation-size", "100"]),
    ],
)
def test_they_end_as_others_do(tmp_path: Path, script: str, options: list[str]) -> None:
    command = [
        sys.executable, str(SCRIPTS / script), "--results", str(tmp_path), "--name", "slow", "--no-dashboard",
        "--model", "slow_model:build", "--batch-sizes", "50", "100", "--train-size", "100", "--seeds", "0",
        "--target-loss", "1e-9", "--epochs", str(EPOCHS), "--measures", "none", *options,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    epochs = pq.read_table(tmp_path / "slow" / "epochs.parquet").to_pylist()
    untested = {row["epoch"] for row in epochs if row["test_loss"] is None}
    assert untested == {epoch for epoch in range(1, EPOCHS) if not is_look(epoch)}
