"""Workers that are starting are left to start."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ray._private.utils import get_num_cpus

ROOT = Path(__file__).parents[3]

# Of the workers of trials the first starts at once, and every other one takes longer than several trials.
SLOW_START = """
import os, sys, time
class Slow:
    def find_spec(self, name, *_):
        if name == "torch":
            sys.meta_path.remove(self)
            folder = os.environ["STARTED"]
            os.close(os.open(os.path.join(folder, str(os.getpid())), os.O_CREAT))
            if len(os.listdir(folder)) > 1:
                time.sleep(2)
if any(part.endswith("default_worker.py") for part in sys.orig_argv):
    sys.meta_path.insert(0, Slow())
"""


@pytest.mark.slow
@pytest.mark.skipif(get_num_cpus() < 2, reason="one worker")
def test_a_worker_that_starts_is_not_ended_for_one_that_is_ready(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_START)
    started = tmp_path / "started"
    started.mkdir()
    command = [sys.executable, "sweeps/batch_grid.py", "--results", str(tmp_path), "--name", "short", "--no-dashboard"]
    grid = ["--batch-sizes", "300", "--learning-rates", "1e-3", "--warmup-epochs", "0", "--switch-epochs", "none"]
    grid += ["--measures", "none", "--epochs", "100"]  # half a second
    seeds = [str(seed) for seed in range(12)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "STARTED": str(started)}
    command += [*grid, "--seeds", *seeds]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    # Else the second one is ended as soon as it has started, and a third one takes its place.
    assert len(list(started.iterdir())) == min(get_num_cpus(), len(seeds))
    assert pq.read_table(tmp_path / "short" / "trials.parquet").num_rows == len(seeds)
