"""A real sweep watched from outside: Ray's dashboard, what listens where, a real Prometheus with Grafana's queries."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeps.dashboard import main
from sweeps.monitoring.grafana import grafana_dashboard, provision
from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[3] / "sweeps" / "batch_grid.py"
NAME = "watched"
LABELS = {f"b{size} lr0.01 seed{seed}" for size in (30, 300) for seed in range(100)}


def get(url: str, token: str | None = None) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.3)
    return found


@dataclass
class Sweep:
    """A sweep that goes on until its test ends it."""

    driver: subprocess.Popen[str]
    folder: AnyPath
    temporary: Path
    dashboard: str

    def api(self, path: str) -> Any:
        token = Path("~/.ray/auth_token").expanduser()
        return get(f"{self.dashboard}{path}", token.read_text().strip() if token.exists() else None)

    def family(self) -> list[psutil.Process]:
        return [psutil.Process(self.driver.pid), *psutil.Process(self.driver.pid).children(recursive=True)]

    def records(self) -> dict[str, dict[str, Any]]:
        files = (self.folder / "trials").glob("[!.]*.json")
        return {file.stem: json.loads(file.read_bytes())["trial"] for file in files}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    results = tmp_path_factory.mktemp("results")
    temporary = Path(tempfile.mkdtemp(prefix="ray"))  # short, for Ray's sockets; and its own, for its discovery file
    command = [
        sys.executable, str(SCRIPT), "--results", str(results), "--name", NAME, "--batch-sizes", "30", "300",
        "--learning-rates", "0.01", "--warmup-epochs", "0", "--switch-epochs", "none", "--seeds", *map(str, range(100)),
        "--epochs", "3000", "--model-options", "widths=32",  # a few seconds: what runs is told every two
    ]  # fmt: skip
    environment = {**os.environ, "RAY_TMPDIR": str(temporary), "RAY_metrics_report_interval_ms": "1000"}
    driver = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    try:
        assert driver.stdout is not None
        addresses = (re.search(r"http://[^\s,]+", line) for line in driver.stdout)
        dashboard = next(address[0] for address in addresses if address)
        found = Sweep(driver, results / NAME, temporary, dashboard)
        wait_for(lambda: len(found.records()) >= 3, "three trials")
        yield found
    finally:
        driver.send_signal(signal.SIGINT)
        driver.communicate(timeout=60)
        shutil.rmtree(temporary, ignore_errors=True)


def test_nothing_listens_beyond_localhost(sweep: Sweep) -> None:
    addresses = []
    for process in sweep.family():
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:  # ended meanwhile
            continue
        addresses += [connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN]
    assert len(addresses) > 5  # Ray's own services
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}
    assert sweep.dashboard.startswith("http://127.0.0.1:")


def test_ray_dashboard_says_what_each_worker_does(sweep: Sweep) -> None:
    actors = [actor for actor in sweep.api("/logical/actors")["data"]["actors"].values() if actor["state"] == "ALIVE"]
    assert actors
    assert {actor["actorClass"] for actor in actors} == {"TuneTrial"}
    assert {actor["reprName"].removesuffix(", then others") for actor in actors} <= LABELS
    nodes = sweep.api("/nodes?view=summary")["data"]["summary"]

    def titles() -> set[str]:
        workers = sweep.api(f"/nodes/{nodes[0]['raylet']['nodeId']}")["data"]["detail"]["workers"]
        commands = [worker["cmdline"][0] for worker in workers if worker["cmdline"]]
        return {command for command in commands if command.startswith("ray::TuneTrial(")}

    shown = wait_for(titles, "a worker's title")
    assert {title.removeprefix("ray::TuneTrial(").removesuffix(")") for title in shown} <= LABELS


@pytest.fixture(scope="module")
def prometheus(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], list[Any]]]:
    """A real Prometheus by the printed command; calling it asks a query of its HTTP API."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus on this machine: apt-get install prometheus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("monitoring")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(sweep.temporary))
        command, _ = provision(folder, port, 3000)
    server = subprocess.Popen(command.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def query(text: str) -> list[Any]:
        try:
            url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': text})}"
            return list(get(url)["data"]["result"])
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{text}: {error.read().decode()}") from error
        except OSError:  # not up yet
            return []

    try:
        wait_for(lambda: query("ray_sweep_trial_box_sharpness"), "the first scrape")
        yield query
        listening = {
            connection.laddr.ip
            for connection in psutil.Process(server.pid).net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
    finally:
        server.terminate()
        server.wait(timeout=30)


def test_prometheus_has_the_numbers_of_the_records(sweep: Sweep, prometheus: Callable[[str], list[Any]]) -> None:
    for column in ("box_sharpness", "hessian_max_eig", "generalization_gap"):
        series = wait_for(partial(prometheus, f"ray_sweep_trial_{column}"), column)
        records = {key[:6]: record for key, record in sweep.records().items()}
        for one in series:
            record = records[one["metric"]["trial"].split()[-1]]
            assert float(one["value"][1]) == pytest.approx(record[column], rel=1e-12)
            assert one["metric"]["batch_size"] == str(record["batch_size"])
            assert one["metric"]["sweep"] == NAME
    trials = {one["metric"]["state"]: int(one["value"][1]) for one in prometheus("ray_sweep_trials")}
    assert sum(trials.values()) == 200
    assert 0 < trials["completed"] <= len(sweep.records())
    running = wait_for(lambda: prometheus("ray_sweep_running_batch_size"), "what runs")
    assert all(one["metric"]["trial"].startswith(f"b{one['value'][1]} ") for one in running)
    assert prometheus("ray_node_cpu_utilization")
    names = {one["metric"]["__name__"] for one in prometheus('{__name__=~"ray_.+"}')}
    assert all(name.startswith(("ray_sweep_", "ray_node_")) for name in names)  # all else of Ray's is left out


def test_every_query_of_the_grafana_dashboard_finds_something(prometheus: Callable[[str], list[Any]]) -> None:
    for panel in grafana_dashboard()["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$sweep", NAME)
            if "gpus" in expression:
                prometheus(expression)  # is understood; a machine without GPUs has none
            else:
                assert wait_for(partial(prometheus, expression), expression)


def test_the_grafana_dashboard_keeps_to_grafanas_types() -> None:
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason="pip install '.[trackers]'")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    dashboard = grafana_dashboard()
    read = json.loads(json.dumps(models.Dashboard.from_json(dashboard), cls=JSONEncoder))

    def dropped(given: Any, kept: Any, path: str) -> list[str]:
        """What of `given` the typed model does not know."""
        if isinstance(given, dict):
            return [
                line
                for key, value in given.items()
                for line in (dropped(value, kept[key], f"{path}.{key}") if key in kept else [f"{path}.{key}"])
            ]
        if isinstance(given, list):
            assert len(given) == len(kept), path
            return [line for one, other in zip(given, kept, strict=True) for line in dropped(one, other, path)]
        return [] if given == kept else [f"{path}: {given} became {kept}"]

    assert dropped(dashboard, read, "dashboard") == []
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    corners = sorted((panel["gridPos"]["y"], panel["gridPos"]["x"]) for panel in dashboard["panels"])
    assert len(corners) == len(set(corners))


def test_provisioned_files_keep_to_localhost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = pytest.importorskip("yaml")
    folder = tmp_path / "a folder" / "monitoring"
    assert main(["--results", str(folder.parent), "--grafana-port", "3001"]) == 0
    printed = capsys.readouterr().out
    assert "--web.listen-address=127.0.0.1:9090" in printed
    assert "http://127.0.0.1:3001/d/large-batch-sweeps" in printed
    assert "http_addr = 127.0.0.1" in (folder / "grafana" / "grafana.ini").read_text()
    (source,) = yaml.safe_load((folder / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://127.0.0.1:9090"
    (provider,) = yaml.safe_load((folder / "grafana" / "provisioning" / "dashboards" / "sweeps.yml").read_text())[
        "providers"
    ]
    assert json.loads((Path(provider["options"]["path"]) / "sweep.json").read_text()) == grafana_dashboard()
    if promtool := shutil.which("promtool"):
        subprocess.run([promtool, "check", "config", str(folder / "prometheus.yml")], check=True, capture_output=True)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"`--folder`: .* cannot be written"):
        provision(tmp_path / "file" / "inside", 9090, 3000)
