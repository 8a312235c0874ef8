"""benchmarks/gpu.py from its first line to its tables, on the CPU; and what it refuses, in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROJECT = Path(__file__).parents[2]
PARTS = ("correctness", "training", "measures", "packing", "science")


def gpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "benchmarks" / "gpu.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


@pytest.mark.slow
def test_every_part_runs_and_is_not_repeated(tmp_path: Path) -> None:
    done = gpu("--smoke", "--output", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: part["status"] for name, part in results["parts"].items()} == dict.fromkeys(PARTS, "complete")
    rows = {name: part["rows"] for name, part in results["parts"].items()}
    assert all(row["passed"] for row in rows["correctness"])
    updates = [row for row in rows["correctness"] if row["check"].startswith("update")]
    assert len(updates) > 60
    assert all(row["allowed"] <= 0.01 for row in updates)  # so that passing means something
    speeds = [row for row in rows["training"] if "loop" in row]
    assert {row["loop"] for row in speeds} == {"plain", "ours", "ours, CUDA graphs", "compiled"}
    assert all(row["examples_per_second"] > 0 for row in speeds)
    assert {row["measure"] for row in rows["measures"]} == {"box_sharpness", "hessian_max_eig"}
    assert [row["processes"] for row in rows["packing"] if row["network"] == "mlp"] == [1, 2]
    assert all(row["trials_per_minute"] > 0 for row in rows["packing"] if row["network"] == "mlp")
    assert [(row["batch_size"], row["status"]) for row in rows["science"]] == [(8, "completed"), (40, "completed")]
    assert (tmp_path / "science" / "c1_equal_loss" / "trials.parquet").is_file()
    table = (tmp_path / "gpu.md").read_text()
    assert table.count("\n## ") == len(PARTS)
    again = gpu("--smoke", "--output", str(tmp_path))
    assert (again.returncode, again.stdout) == (0, f"{tmp_path / 'gpu.md'}\n")
    assert (tmp_path / "gpu.md").read_text() == table


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--smoke tries all on the CPU"),
        (["--smoke", "--minutes", "0"], "argument --minutes: must be above 0"),
        (["--smoke", "--dataset", "cifar10", "--data-dir", "nowhere"], "or leave science out with --part"),
        (["--part", "everything"], "invalid choice: 'everything'"),
    ],
)
def test_refusals(arguments: list[str], message: str, tmp_path: Path) -> None:
    refused = gpu(*arguments, "--output", str(tmp_path / "results"))
    assert refused.returncode == 2
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()
