"""Results that not all nodes share are refused before the first trial, with the name of the node; real nodes of Ray.

A folder that one process alone sees is made by naming it through the process's own open files, /proc/self/fd/N.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.execution import shared_storage
from trainables.storage.folders import place

CHECK = """
import os, sys
import ray
from ray.cluster_utils import Cluster
from pathlib import Path
from sweeps.execution.shared_storage import check_shared
from trainables.runtime.errors import UserError
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
folder = Path(sys.argv[1])
check_shared(folder)
print("left:", [file.name for file in folder.iterdir()])
try:
    check_shared(Path(f"/proc/self/fd/{os.open(folder, os.O_RDONLY)}"))
except UserError as error:
    print("refused:", error)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux only")
def test_a_folder_that_a_node_does_not_see(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", CHECK, str(tmp_path)], capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    assert "left: []" in result.stdout, result.stderr
    refused = result.stdout.split("refused: ")[1].strip()
    assert refused.startswith("`results` must be storage that all nodes share, got /proc/self/fd/")
    assert ": node " in refused
    assert "does not see there what the driver wrote" in refused or "cannot read there" in refused
    assert "\n" not in refused


def test_what_a_node_answers(tmp_path: Path) -> None:
    answer = shared_storage._answer._function
    (tmp_path / "probe").write_bytes(b"probe")
    assert answer(str(tmp_path), "probe", "answer") is None
    assert (tmp_path / "answer").exists()
    (tmp_path / "probe").write_bytes(b"another")
    assert answer(str(tmp_path), "probe", "answer") == "reads something else there"
    assert answer(str(place(f"mock://{tmp_path}")), "probe", "answer") == "does not see there what the driver wrote"
    (tmp_path / "probe").write_bytes(b"probe")
    assert "cannot write there" in answer(str(tmp_path), "probe", "no folder/answer")
