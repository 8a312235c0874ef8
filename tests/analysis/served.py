"""A small sweep behind the server of the live page, and how the tests talk to it."""

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from made_up import grid, write

from analysis.reporting.live import Server, serving


def make(results: Path) -> Path:
    folder = write(results / "live", grid(seeds=[0], learning_rates=[0.01]))
    (results / "secret.txt").write_text("secret")
    (folder / "sweep.json").write_text(json.dumps({"planned": 9, "started_at": "2026-01-01T00:00:00+00:00"}))
    return folder


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[Server]:
    with serving(folder, port=0) as running:
        until(lambda: json.loads(running.live.content[1])["run"])
        yield running


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def ask(server: Server, path: str = "/", method: str = "GET", **headers: Any) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; the path goes out as it is written."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    for name, value in {"Host": f"127.0.0.1:{server.server_port}", **headers}.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body
