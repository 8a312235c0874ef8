"""Ray for one sweep: what of it starts, and that it works so."""

import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.session.ray_token import dashboard_line

CODE = """
import os
import tempfile
from pathlib import Path
import psutil
from sweeps.session.placement import Placement
from sweeps.session.ray_session import ray_session
import ray
from ray._private import parameter, services
before = parameter.RayParams, services.start_api_server
with ray_session(Placement(dashboard=False)) as (gpus, url):
    started = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    print("address:", url)
    print("a task:", ray.get(ray.remote(lambda: 6 * 7).remote()))
    (folder,) = Path(tempfile.gettempdir()).glob(f"lbs-ray-{os.getpid()}-*")
    print("open to others:", folder.stat().st_mode & 0o077)
print("left:", folder.exists())
assert (parameter.RayParams, services.start_api_server) == before
print("raylet:", any("/raylet" in line for line in started))
print("useless:", [line for line in started if "monitor.py" in line or "dashboard.py" in line])
"""


@pytest.mark.slow
def test_without_a_dashboard_nothing_runs_for_it() -> None:
    root = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, "-c", CODE], cwd=root, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "address: None", "a task: 42", "open to others: 0", "left: False", "raylet: True", "useless: []"
    ]  # fmt: skip
    assert "dashboard" not in result.stderr


def test_the_address_of_the_dashboard_says_where_its_token_is(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/safe/token")
    assert dashboard_line(url) == f"{url} (asks for the token in /safe/token)"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert dashboard_line(url) == f"{url} (asks for the token in RAY_AUTH_TOKEN)"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert dashboard_line(url) == url
