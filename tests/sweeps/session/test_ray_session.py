"""Ray for one sweep: private to its user, without a dashboard where none is asked for, and gone at its end."""

import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest
import ray

from sweeps.session.placement import Placement
from sweeps.session.ray_session import ray_session
from sweeps.session.ray_token import dashboard_line
from trainables.runtime.errors import UserError

CODE = """
import os
import tempfile
from pathlib import Path
import psutil
from sweeps.session.placement import Placement
from sweeps.session.ray_session import ray_session
import ray
with ray_session(Placement(dashboard=False)) as (placed, url):
    started = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    print("address:", url)
    print("GPUs of a trial are a number:", placed.gpus_per_trial is not None)
    print("a task:", ray.get(ray.remote(lambda: 6 * 7).remote()))
    (folder,) = Path(tempfile.gettempdir()).glob(f"lbs-ray-{os.getpid()}-*")
    print("open to others:", folder.stat().st_mode & 0o077)
    print("sessions in it:", len([*folder.glob("r/session_*/logs/gcs_server.out")]))
print("left:", folder.exists())
print("raylet:", any("/raylet" in line for line in started))
"""


@pytest.mark.slow
def test_ray_without_a_dashboard_is_private_and_leaves_nothing() -> None:
    root = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, "-c", CODE], cwd=root, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "address: None", "GPUs of a trial are a number: True", "a task: 42", "open to others: 0",
        "sessions in it: 2", "left: False", "raylet: True"
    ]  # fmt: skip
    assert "dashboard" not in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
@pytest.mark.parametrize("timeouts", [0, 2, 3])
def test_ray_that_is_late_is_started_again(
    timeouts: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the start before has left is ended first, so that it takes no more time from the next."""
    left: list[subprocess.Popen[bytes]] = []

    def init(_temp_dir: str, **_: object) -> NoReturn:
        assert all(process.poll() is not None or process.wait(10) for process in left)
        if len(left) == timeouts:
            raise KeyboardInterrupt  # it has started
        left.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", _temp_dir]))
        while _temp_dir.encode() not in Path(f"/proc/{left[-1].pid}/cmdline").read_bytes():
            time.sleep(0.01)  # a new program has no command line at first
        raise Exception("The current node timed out during startup. This could happen")

    monkeypatch.setattr(ray, "init", init)
    try:
        with pytest.raises(KeyboardInterrupt if timeouts < 3 else UserError) as raised, ray_session(Placement()):
            pass
    finally:
        for process in left:
            process.kill()
            process.wait()
    assert capsys.readouterr().err.count("warning: Ray has not started in time, as on a busy machine") == min(
        timeouts, 2
    )
    assert ("Ray cannot start on this machine: The current node timed out" in str(raised.value)) == (timeouts == 3)


def test_the_address_of_the_dashboard_says_where_its_token_is(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/safe/token")
    assert dashboard_line(url) == f"{url} (asks for the token in /safe/token)"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert dashboard_line(url) == f"{url} (asks for the token in RAY_AUTH_TOKEN)"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert dashboard_line(url) == url
