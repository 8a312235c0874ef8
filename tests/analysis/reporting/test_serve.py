"""The live page: what the server says, to whom, and that it heals when the folder does."""

import contextlib
import fcntl
import http.client
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Watched
from made_up import failed, grid, record, write
from served import ask, make, reading, until

from analysis.reporting.live import LiveData, Server, serving
from analysis.serve import main
from trainables.records.tables import write_record
from trainables.runtime.errors import UserError

SCRIPT = Path(__file__).parents[3] / "analysis" / "serve.py"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return make(tmp_path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Of a sweep that no test changes."""
    with reading(make(tmp_path_factory.mktemp("results"))) as running:
        yield running


@pytest.fixture
def server_of_a_run(sweep: Path) -> Iterator[Server]:
    with reading(sweep) as running:
        yield running


def test_it_serves_the_page_and_its_data(server: Server) -> None:
    status, headers, page = ask(server)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b'id="data"' not in page
    assert b"connect-src &#39;self&#39;" in page
    status, headers, body = ask(server, "/data.json")
    data = json.loads(body)
    assert status == 200
    assert (data["name"], data["progress"]["planned"], len(data["trials"]["trial_id"])) == ("live", 9, 5)
    assert data["message"] is None
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers
    assert not {"Server"} & {name for name in headers if "Python" in headers[name]}


@pytest.mark.slow
def test_nothing_is_sent_when_nothing_changed(server_of_a_run: Server) -> None:
    server = server_of_a_run
    _, headers, body = ask(server, "/data.json")
    status, _, again = ask(server, "/data.json", If_None_Match=headers["ETag"])
    assert (status, again) == (304, b"")
    assert len(body) > 1000
    write_record(server.live.folder, failed("later", batch_size=8))
    until(lambda: ask(server, "/data.json", If_None_Match=headers["ETag"])[0] == 200)
    assert len(json.loads(ask(server, "/data.json")[2])["trials"]["trial_id"]) == 6


def test_head_has_no_body_and_nothing_else_is_answered(server: Server) -> None:
    status, headers, body = ask(server, "/data.json", method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 1000
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        status, headers, _ = ask(server, "/data.json", method=method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert ask(server, method="BREW")[0] == 501


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/..%2fsecret.txt", "/%2e%2e/secret.txt", "//etc/passwd", "/../../../../../../etc/passwd",
        "/trials.parquet",
        "/data.json/../secret.txt", "/data.json/", "/./data.json", "/..\\secret.txt", "/data.json%00",
        "http://127.0.0.1/etc/passwd", "/?file=../secret.txt", "/sweep.json", "*", "secret.txt", "/report.html",
    ],
)  # fmt: skip
def test_no_path_leads_to_a_file(server: Server, path: str) -> None:
    status, _, body = ask(server, path)
    assert status in (400, 404)
    assert b"secret" not in body
    assert b"root:" not in body


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1.evil.example:{port}", ""]
)
def test_another_name_is_refused(server: Server, host: str) -> None:
    status, _, body = ask(server, "/data.json", Host=host.format(port=server.server_port))
    assert status == 403
    assert b"trial_id" not in body
    assert ask(server, "/data.json", Host=f"localhost:{server.server_port}")[0] == 200


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    own = socket.gethostbyname(socket.gethostname())
    if not own.startswith("127."):
        with pytest.raises(OSError, match=r"refused|timed out"):
            socket.create_connection((own, server.server_port), timeout=1)


@pytest.mark.slow
def test_a_broken_folder_is_a_message_until_it_is_whole(sweep: Path) -> None:
    live = LiveData(sweep)

    def message() -> Any:
        live.look()
        return json.loads(live.content[1])["message"]

    assert message() is None
    known = json.loads(live.content[1])["trials"]["trial_id"]
    half = sweep / "trials" / "half.json"
    half.write_text('{"format": 1, "tri')
    assert message() is None  # a bad record costs its own trial alone
    half.unlink()
    newer = half.with_name("newer.json")
    newer.write_text('{"format": 99, "trial": {}, "epochs": [], "measures": []}')
    assert "format" in message()
    assert json.loads(live.content[1])["trials"]["trial_id"] == known  # the last that could be read stays
    newer.unlink()
    assert message() is None
    whole = (sweep / "trials.parquet").read_bytes()
    (sweep / "trials.parquet").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in message().lower()
    (sweep / "trials.parquet").write_bytes(whole)
    assert message() is None


def test_before_the_first_trial_and_while_a_run_holds_the_folder(tmp_path: Path) -> None:
    (tmp_path / "new" / "trials").mkdir(parents=True)
    folder = tmp_path / "new"
    (folder / "sweep.json").write_text(json.dumps({"planned": 4, "started_at": "2026-01-01T00:00:00+00:00"}))
    live = LiveData(folder)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        live.look()
        data = json.loads(live.content[1])
        assert data["message"] == "No trial has ended yet."
        assert (data["progress"]["sentence"], data["progress"]["is_running"]) == ("running, 0 of 4 trials ended", True)
    live.look()  # the run let go of the folder
    assert json.loads(live.content[1])["progress"]["is_running"] is False


@pytest.mark.parametrize("case", ["nothing", "no sweep", "no port"])
def test_what_cannot_be_served_is_one_line(
    tmp_path: Path, sweep: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        folder = {"nothing": tmp_path / "missing", "no sweep": tmp_path, "no port": sweep}[case]
        assert main([str(folder), "--port", str(taken.getsockname()[1])]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    told = {"nothing": "`results`", "no sweep": f"which holds live; such as {sweep}", "no port": "`port`"}
    assert told[case] in error


def test_ports_out_of_range_are_refused(sweep: Path) -> None:
    with pytest.raises(UserError, match="port"), serving(sweep, port=70000):
        pass


@pytest.mark.slow
def test_as_a_script_it_says_where_it_is(sweep: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(sweep), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.split()[0].rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        process.terminate()
        assert process.wait(timeout=10) != 2


def test_the_open_page_follows_the_sweep(browser: Any, server_of_a_run: Server) -> None:
    server = server_of_a_run
    watched = Watched(browser)
    page = watched.page
    page.goto(server.address)
    page.wait_for_selector("tr[data-trial]")
    assert page.locator("tr[data-trial]").count() == 5
    page.uncheck("input[data-key='log x']")
    page.evaluate("zoomTo(byId('map'), {x: [0.5, 40], y: [-1, 2]})")
    page.evaluate("point(2)")
    hovered = page.locator("#tip code").inner_text()
    page.evaluate("window.select = document.querySelector(\"select[data-key='choose colour']\")")
    page.evaluate("sortBy('batch_size')")
    page.click("summary[data-key='filter batch_size']")
    late = record(0.5, 3.0, batch_size=32, row={"finished_at": "2026-01-01T00:01:00+00:00"})
    write_record(server.live.folder, late)
    page.wait_for_selector(f"tr[data-trial='{late.trial['trial_id']}']", timeout=60_000)
    assert not page.is_checked("input[data-key='log x']")  # what the reader chose stays
    assert page.evaluate("map.plot.scales.x.min") == 0.5  # the zoom
    assert page.locator("#tip code").inner_text() == hovered
    assert page.locator("#tip").is_visible()
    assert page.locator("input[data-key='value batch_size 32']").is_visible()  # the menu is open, and has the new value
    assert page.evaluate("select.isConnected")  # an open list is not replaced
    assert page.evaluate("document.activeElement.dataset.key") == "filter batch_size"
    assert "6 of 9 trials ended" in page.locator("#state").inner_text()
    assert {request.rpartition("/")[0] for request in watched.requests} == {server.address}
    assert watched.errors == []
    page.context.set_offline(True)
    page.wait_for_selector("#notice:has-text('does not answer')", timeout=60_000)
    assert page.locator("tr[data-trial]").count() == 6
    page.close()


def test_a_request_that_trickles_in_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte is in time, but the whole is not."""
    monkeypatch.setattr("analysis.reporting.live.Handler.total", 1.0)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        started = time.monotonic()
        with contextlib.suppress(OSError):  # reset or broken pipe
            while time.monotonic() - started < 60:
                client.sendall(b"X-Slow: 1\r\n")
                time.sleep(0.1)
        assert time.monotonic() - started < 50


def test_a_connection_that_goes_on_asking_is_ended(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an answer that says so: nobody can keep connections for ever, and no answer is cut off."""
    monkeypatch.setattr("analysis.reporting.live.Handler.total", 4.0)
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.connect()
    first, started, answers = connection.sock, time.monotonic(), []
    while connection.sock is first and time.monotonic() - started < 60:
        connection.request("GET", "/data.json")
        answer = connection.getresponse()
        answers.append((answer.status, len(answer.read()) > 0, answer.getheader("Connection")))
        time.sleep(0.1)
    assert time.monotonic() - started < 50
    assert set(answers[:-1]) <= {(200, True, None)}
    assert answers[-1] == (200, True, "close")
    connection.request("GET", "/data.json")  # on a new one
    assert connection.getresponse().status == 200


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n"], ids=["idle", "within a request"])
def test_a_reader_who_leaves_is_no_error(server_of_a_run: Server, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """No traceback in the terminal of the sweep where a connection is reset."""
    server = server_of_a_run
    errors, ended = [], threading.Event()
    shut = server.shutdown_request
    monkeypatch.setattr(server, "handle_error", lambda *_: errors.append(sys.exc_info()[1]))

    def shut_and_tell(request: Any) -> None:
        shut(request)
        ended.set()

    monkeypatch.setattr(server, "shutdown_request", shut_and_tell)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as client:
        client.sendall(f"HEAD / HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        client.sendall(sent)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by a reset
    assert ended.wait(60)
    assert errors == []


@pytest.mark.slow
def test_what_the_reader_did_not_choose_follows_the_data(browser: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "live", grid(seeds=[0], learning_rates=[0.01], batch_sizes=[16], switch_epochs=[None]))
    with serving(folder, port=0) as server:
        page = Watched(browser).page
        page.goto(server.address)
        page.wait_for_selector("tr[data-trial]")
        assert page.evaluate("choices().colour") == "status"  # nothing else to tell trials apart by
        for late in grid(seeds=[0], batch_sizes=[16, 512], switch_epochs=[None]):
            write_record(folder, late)
        until(lambda: page.evaluate("data.trials.trial_id.length") == 4)
        assert page.evaluate("[choices().colour, choices().shape]") == ["batch_size", "learning_rate"]
        assert page.input_value("select[data-key='choose colour']") == "batch_size"
        assert page.evaluate("location.hash") == ""
        page.close()


@pytest.mark.slow
def test_no_verdict_before_enough_is_paired_and_the_last_at_once(tmp_path: Path) -> None:
    records = grid(switch_epochs=[None])  # 3 batch sizes, 2 learning rates, 3 seeds
    by_size = sorted(records, key=lambda entry: (entry.trial["batch_size"], entry.trial["seed"]))
    folder = write(tmp_path / "live", by_size[:6])
    note = {"planned": 18, "started_at": "2026-01-01T00:00:00+00:00", "batch_sizes": {"16": 6, "64": 6, "512": 6}}
    (folder / "sweep.json").write_text(json.dumps(note))
    live = LiveData(folder)

    def data() -> Any:
        live.look()
        return json.loads(live.content[1])

    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = data()
        assert found["cards"] == []
        assert found["badge"].startswith("6 of 18 trials. No verdict yet")
        for entry in by_size[6:16]:
            write_record(folder, entry)
        assert data()["cards"] == []  # the statistics rest
        live._due = 0.0
        found = data()
        assert found["badge"].startswith("16 of 18 trials. ")
        assert len(found["cards"]) == 3
        live._due = float("inf")
        for entry in by_size[16:]:
            write_record(folder, entry)
        found = data()
        assert found["badge"] is None
        assert "18 trials" in found["run"]
