"""A network that can be trained and not measured, on real Ray: everything but its measures is kept."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import unmeasurable_model as user

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_a_measure_that_goes_wrong_costs_its_own_rows(tmp_path: Path) -> None:
    """Also where it hangs, or kills the worker each time that Tune tries again."""
    sizes = (user.RIGHT, user.RAISES, user.HANGS, user.KILLED)
    done = subprocess.run(
        [sys.executable, str(ROOT / "sweeps" / "batch_grid.py"), "--results", str(tmp_path), "--name", "test",
         "--model", "unmeasurable_model:build", "--batch-sizes", *map(str, sizes), "--learning-rates", "0.01",
         "--warmup-epochs", "0", "--switch-epochs", "none", "--seeds", "0", "--train-size", "60", "--epochs", "2",
         "--trial-timeout", "20", "--keep-weights", "--no-dashboard", "--plain"],
        cwd=tmp_path, capture_output=True, text=True, timeout=400,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"},
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "Traceback" not in output

    trials = {row["batch_size"]: row for row in pq.read_table(tmp_path / "test/trials.parquet").to_pylist()}
    measures = pq.read_table(tmp_path / "test/measures.parquet").to_pylist()
    for size, reason in (
        (user.RIGHT, None),
        (user.RAISES, "ArithmeticError: the sum of all fears"),
        (user.HANGS, "took more than the 20.0 s of --trial-timeout"),
        (user.KILLED, "died"),
    ):
        row = trials[size]
        assert (row["status"], row["error"], row["epochs_done"]) == ("completed", None, 2)
        assert row["test_accuracy"] > 0.1
        assert (tmp_path / "test" / "weights" / f"{row['trial_id']}.pt").exists()
        own = [measure for measure in measures if measure["trial_id"] == row["trial_id"]]
        assert {measure["measure"] for measure in own} == {"box_sharpness", "hessian_max_eig"}
        if reason is None:
            assert all(measure["value"] is not None and measure["error"] is None for measure in own)
            assert "a measure failed" not in row["flags"]
        else:
            assert [measure["value"] for measure in own] == [None, None]
            assert all(reason in measure["error"] for measure in own)
            assert "a measure failed" in row["flags"]
            assert row["box_sharpness"] is None
    assert list((tmp_path / "test" / "checkpoints").iterdir()) == []
