"""A user's network that raises, hangs, returns nonsense, takes all memory or kills its worker ends its trial alone.

While it runs, what its processes listen on is looked at too: nothing of ours may be reached from outside this machine.
"""

import os
import secrets
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import users_model as user

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def listening(root: psutil.Process) -> set[tuple[str, str]]:
    """(address, program) of the ports that the processes under `root` listen on."""
    found = set()
    for process in [root, *root.children(recursive=True)]:
        try:
            connections = process.net_connections(kind="inet")
            name = " ".join(process.cmdline())
        except psutil.Error:  # it has just ended
            continue
        found |= {(part.laddr.ip, name) for part in connections if part.status == psutil.CONN_LISTEN}
    return found


def test_a_trial_that_goes_wrong_takes_down_itself_alone(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o644)  # as Ray leaves the one that it makes
    sizes = (user.RIGHT, user.RAISES, user.HANGS, user.WRONG_SHAPE, user.NAN, user.LEAKS, user.EXITS, user.KILLED)
    driver = subprocess.Popen(
        [sys.executable, str(ROOT / "sweeps" / "batch_grid.py"), "--results", str(tmp_path / "results"),
         "--name", "test",
         "--model", "users_model:build", "--batch-sizes", *map(str, sizes), "--learning-rates", "0.01",
         "--warmup-epochs", "0", "--switch-epochs", "none", "--seeds", "0", "--epochs", "2", "--measure-examples", "20",
         "--trial-timeout", "20", "--memory-per-trial", "2", "--plain"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "RAY_AUTH_TOKEN_PATH": str(token)},
    )  # fmt: skip
    heard: set[tuple[str, str]] = set()
    deadline = time.monotonic() + 240
    while driver.poll() is None and time.monotonic() < deadline:
        heard |= listening(psutil.Process(driver.pid))
        time.sleep(0.5)
    driver.kill()
    output, _ = driver.communicate()
    assert driver.returncode == 1, output  # trials failed

    rows = {row["batch_size"]: row for row in pq.read_table(tmp_path / "results/test/trials.parquet").to_pylist()}
    assert {size: row["status"] for size, row in rows.items()} == {
        size: {user.RIGHT: "completed", user.NAN: "diverged"}.get(size, "failed") for size in sizes
    }
    assert rows[user.RIGHT]["error"] is None
    for size, reason in (
        (user.RAISES, "ArithmeticError: the sum of all fears"),
        (user.HANGS, "TimeLimitError: took more than the 20.0 s of --trial-timeout"),
        (user.WRONG_SHAPE, "Error"),
        (user.LEAKS, "out of memory"),
        (user.EXITS, "SystemExit: enough"),
    ):
        error = rows[size]["error"]
        assert reason in error
        assert "users_model.py" in error or size == user.WRONG_SHAPE  # that one fails in the loss
        assert error.startswith("Traceback")
    assert "died" in rows[user.KILLED]["error"]  # and so did the workers that tried again
    assert "failed: batch size 21, seed 0: ArithmeticError" in output
    assert "Traceback" not in output

    assert any("gcs_server" in program or "raylet" in program for _, program in heard)  # it was looked at while it ran
    own = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    outside = {(address, program) for address, program in heard if address not in own}
    assert not outside
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
