"""The page of a sweep, live: report.html as it would be now, while the sweep runs and after.

It answers this machine alone and only looks: it listens on 127.0.0.1, knows three paths, `/` (the page), `/data.json`
(its data) and `/running.json` (the curves so far of running trials), knows GET and HEAD, and makes no file name of
anything that is asked, so path traversal is impossible.
Requests that name another host are refused, so that no web page can reach it under a name of its own (DNS rebinding).

A thread looks at the folder each second and reads the trials anew when something changed; a request gets what was
made last and waits for nothing. The statistics over all trials cost seconds, so they follow, and then rest nine times
as long as they took, so that a sweep on the same machine keeps its cores; when it has ended they follow at once. A
page asks with the ETag it has and is sent nothing, 304, while that is the newest. A folder that cannot be read now
(half-written, of another version) is a message on the page until it can.
"""

import contextlib
import hashlib
import math
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from analysis.data.load import Sweep, load_sweep
from analysis.data.progress import Progress, ended_trials, progress_of
from analysis.reporting.page import embeddable_json, page_html
from analysis.reporting.page.data import empty_data, statistics_data, trial_data
from analysis.reporting.page.running import NOTHING, running_data
from trainables.records.tables import no_sweep
from trainables.runtime.errors import UserError, reason_of
from trainables.storage.folders import AnyPath
from trainables.storage.lease import is_held

PORT = 8321
LOOK_SECONDS = 1.0
REST = 9  # times as long as the statistics took
TABLES = ("sweep.json", "trials", "trials.parquet", "epochs.parquet", "measures.parquet", "profiles.parquet")
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the page's own policy stands in the page
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class LiveData:
    """The data of the sweep in `folder` as JSON, made anew by `look` when the folder changed.

    `options`: those of load_sweep.
    """

    def __init__(self, folder: AnyPath, **options: Any) -> None:
        self.folder = folder
        self._options = options
        self._seen: object = None
        self._data = empty_data(folder.resolve().name, None, "Reading the sweep.")
        self._statistics: dict[str, Any] = {}
        self._of: tuple[Sweep, Progress] | None = None  # whose statistics are still to be made
        self._due = -math.inf
        self._publish()
        self.running = _tagged(NOTHING)

    def look(self) -> None:
        """Reads the trials anew if the folder changed since that last went well; makes the statistics when due."""
        state = self._state()
        try:
            self.running = _tagged(running_data(self.folder))
            if state != self._seen:
                self._data = self._read()
                self._publish()
            if self._of is not None and (_is_over(self._of[1]) or time.monotonic() >= self._due):
                started = time.monotonic()
                try:
                    self._statistics, self._of = statistics_data(*self._of), None
                finally:
                    self._due = time.monotonic() + REST * (time.monotonic() - started)
                self._publish()
            self._seen = state
        except Exception as error:  # whatever a folder that is being written, or a hostile one, may cause
            self._seen = None
            self._data = {**self._data, "message": f"Cannot be read now, trying again: {reason_of(error)}"}
            self._publish()

    def keep_looking(self, stop: threading.Event) -> None:
        """Looks until `stop` is set."""
        while not stop.is_set():
            started = time.monotonic()
            self.look()
            stop.wait(max(LOOK_SECONDS, time.monotonic() - started))

    def _read(self) -> dict[str, Any]:
        trials = ended_trials(self.folder)
        progress = progress_of(trials, self.folder)
        if trials.empty:
            return empty_data(self._data["name"], progress, "No trial has ended yet.")
        self._of = load_sweep(self.folder, **self._options), progress
        return trial_data(*self._of)

    def _publish(self) -> None:
        """Makes `content`, the ETag and the JSON, always of one making."""
        self.content = _tagged({**self._data, **self._statistics})

    def _state(self) -> object:
        """What changes when the sweep goes on: times and sizes of its files, and whether a run holds the folder."""
        found = []
        for name in TABLES:
            with contextlib.suppress(OSError):
                file = (self.folder / name).stat()
                found.append((name, file.st_mtime_ns, file.st_size))
        return found, is_held(self.folder)


def _tagged(data: dict[str, Any]) -> tuple[str, bytes]:
    """The ETag of `data` and its JSON."""
    content = embeddable_json(data).encode()
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"', content


def _is_over(progress: Progress) -> bool:
    """Whether no trial will follow for now, so that the statistics need not make room for any."""
    return progress.is_finished or not progress.is_running


class Server(ThreadingHTTPServer):
    """Serves the page of one sweep on 127.0.0.1; raises OSError where the port is taken."""

    daemon_threads = True

    def __init__(self, folder: AnyPath, port: int, **options: Any) -> None:
        self.live = LiveData(folder, **options)
        self.page = page_html(folder.resolve().name).encode()
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """`/` and `/data.json`, for GET and HEAD, from this machine under its own names."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds for a request to arrive whole
    total = (
        60  # seconds of a connection, however slowly a request trickles in; after half of it the next answer ends it
    )
    server_version, sys_version = "large-batch-sweeps", ""

    def handle(self) -> None:
        def cut_off() -> None:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        self._last_answer_from = time.monotonic() + self.total / 2
        timer = threading.Timer(self.total, cut_off)
        timer.daemon = True
        timer.start()
        try:
            with contextlib.suppress(ConnectionError):  # the reader closed the page
                super().handle()
        finally:
            timer.cancel()

    def do_GET(self) -> None:
        port = self.server.server_port
        if self.headers.get("Host") not in {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}:
            self._answer(403, b"This server answers under 127.0.0.1 and localhost alone.\n", "text/plain")
        elif self.path == "/":
            self._answer(200, self.server.page, "text/html")
        elif self.path in ("/data.json", "/running.json"):
            live = self.server.live
            tag, content = live.content if self.path == "/data.json" else live.running
            fresh = self.headers.get("If-None-Match") == tag
            self._answer(304 if fresh else 200, b"" if fresh else content, "application/json", {"ETag": tag})
        else:
            self._answer(404, b"There are /, /data.json and /running.json.\n", "text/plain")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.close_connection = True  # what was sent with it is not read
        self._answer(405, b"This server only shows.\n", "text/plain", {"Allow": "GET, HEAD", "Connection": "close"})

    do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_POST

    def _answer(self, status: int, content: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **(more or {})}.items():
            self.send_header(name, value)
        if time.monotonic() > self._last_answer_from:
            self.send_header("Connection", "close")  # which closes it; a browser opens another
        if status != 304:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing: the terminal is for the address and for errors."""


@contextlib.contextmanager
def serving(folder: AnyPath, port: int = PORT, **options: Any) -> Iterator[Server]:
    """A server of the sweep in `folder` that looks and answers in threads of its own while the block lasts.

    `options`: those of load_sweep.

    Raises UserError where `folder` is no folder of a sweep, or the port cannot be had.
    """
    if not any((folder / name).exists() for name in TABLES):
        raise no_sweep(folder)
    try:
        server = Server(folder, port, **options)
    except (OSError, OverflowError) as error:
        raise UserError(f"`port` must be free and below 65536, got {port} ({error}); 0 takes any free one") from error
    stop = threading.Event()
    threads = [
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True),
        threading.Thread(target=server.live.keep_looking, args=(stop,), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield server
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
