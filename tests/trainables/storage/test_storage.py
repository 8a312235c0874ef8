"""Results on a file system, on one of pyarrow's, and on a real S3 server on this machine: the same verbs, and a sweep.

The S3 server is moto's, stopped and started again where storage has to be away. Its tests are skipped without moto.
"""

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeps.batch_grid import main
from sweeps.plan.grid import Grid, expand
from trainables.data import Source
from trainables.records.resume import finished_trials
from trainables.records.tables import read_tables
from trainables.runtime.errors import UserError
from trainables.storage import lease, remote_path
from trainables.storage.checkpoint import load_checkpoint, save_checkpoint
from trainables.storage.folders import AnyPath, move, place, redact_credentials, write_atomically
from trainables.storage.lease import hold, is_held
from trainables.storage.remote_path import RemotePath, retry_io
from trainables.trial import run_trial

CPU = torch.device("cpu")
SECRET = "secret-that-no-table-may-hold"
SMALL = [
    *("--batch-sizes", "30", "300", "--learning-rates", "0.01", "--warmup-epochs", "0", "--switch-epochs", "none"),
    *("--epochs", "3", "--model-options", "widths=8", "--name", "test", "--no-dashboard", "--quiet"),
]


class S3:
    """A server with a bucket for each test."""

    def __init__(self) -> None:
        server = pytest.importorskip("moto.server")
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self._server._server.block_on_close = False  # of connections that clients keep
        self.port = self._server.get_host_and_port()[1]

    def uri(self, bucket: str, port: int | None = None) -> str:
        at = f"endpoint_override=127.0.0.1:{port or self.port}"
        return f"s3://{bucket}/results?{at}&scheme=http&region=us-east-1&allow_bucket_creation=true"

    def stop(self) -> None:
        self._server.stop()


class Road:
    """A port that leads to `port` until it is blocked: then connections break, and no new ones are taken."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._open: list[socket.socket] = []
        self.port = 0
        self.unblock()

    def unblock(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def block(self) -> None:
        for end in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += [near, far]
                for start, end in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(start, end), daemon=True).start()

    @staticmethod
    def _carry(start: socket.socket, end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := start.recv(2**16):
                end.sendall(content)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    given = {"AWS_ACCESS_KEY_ID": "a-key", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    server = S3()
    yield server
    server.stop()
    for name, value in before.items():
        os.environ.pop(name)
        os.environ.update({name: value} if value is not None else {})


@pytest.fixture(params=["path", "file", "mock", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> AnyPath:
    if request.param == "s3":
        return place(request.getfixturevalue("s3").uri(f"verbs-{os.urandom(4).hex()}"))
    return place({"path": "", "file": "file://", "mock": "mock://"}[request.param] + str(tmp_path / "a folder"))


def test_the_verbs_of_a_folder_are_the_same_everywhere(folder: AnyPath) -> None:
    trials = folder / "sweep" / "trials"
    assert not trials.exists()
    assert list(trials.glob("*.json")) == []
    trials.mkdir(parents=True, exist_ok=True)
    trials.mkdir(exist_ok=True)
    assert trials.is_dir()
    file = trials / "one.json"
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    with pytest.raises(FileNotFoundError):
        file.stat()
    with pytest.raises(FileNotFoundError):
        file.unlink()
    with pytest.raises(FileNotFoundError):
        move(file, trials / "two.json")
    file.unlink(missing_ok=True)
    write_atomically(file, b"first")
    write_atomically(file, b"second")
    assert file.read_bytes() == b"second"
    assert (file.name, file.stem, file.parent, file.parents[1]) == ("one.json", "one", trials, folder / "sweep")
    assert (file.exists(), file.is_dir(), file.is_file(), file.stat().st_size) == (True, False, True, 6)
    assert place(str(file)) == file
    move(file, file.with_suffix(".previous"))
    write_atomically(file, b"third")
    assert {path.name for path in trials.iterdir()} == {"one.json", "one.previous"}
    assert list(trials.glob("[!.]*.json")) == [file]
    assert list(folder.rglob("*.previous")) == [trials / "one.previous"]
    file.unlink()
    assert [path.name for path in trials.iterdir()] == ["one.previous"]
    if isinstance(folder, RemotePath):
        with pytest.raises(TypeError):  # never a file on this machine by mistake
            open(folder)  # type: ignore[call-overload] # noqa: PTH123, SIM115


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://key:{SECRET}@bucket/results",
        f"s3://bucket/results?access_key=key&secret_key={SECRET}",
        f"s3://bucket/results?session_token={SECRET}",
        f"hdfs://user:{SECRET}@host:8020/results",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--results", uri])
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert error.count("\n") == 1
    assert "must be a URI without credentials" in error
    assert SECRET not in error
    assert SECRET not in redact_credentials(uri)


def test_what_is_no_secret_stays() -> None:
    for text in ("s3://bucket/a?region=us-east-1&endpoint_override=127.0.0.1:9000", "C:/a b", "user@host:x", "a=b"):
        assert redact_credentials(text) == text


@pytest.mark.slow
def test_a_sweep_on_s3(s3: S3, digits: Source, capsys: pytest.CaptureFixture[str]) -> None:
    """As a user runs it: the numbers are those of this process; two drivers, --resume, report; no secret anywhere."""
    uri = s3.uri("sweep")
    arguments = [sys.executable, str(Path(__file__).parents[3] / "sweeps" / "batch_grid.py"), "--results", uri, *SMALL]
    first = subprocess.run([*arguments, "--seeds", "0"], capture_output=True, text=True, timeout=180, check=False)
    assert first.returncode == 0, first.stderr
    folder = place(uri) / "test"
    configs = expand(
        Grid(batch_sizes=[30, 300], learning_rates=[0.01], warmup_epochs=[0], switch_epochs=[None], seeds=[0],
             epochs=3, model_options={"widths": 8}), digits,
    )  # fmt: skip
    found = {row["trial_id"]: row for row in read_tables(folder).trials.to_pylist()}
    for config in configs:
        expected = run_trial(config, digits).trial
        for name in ("test_accuracy", "train_loss", "box_sharpness", "hessian_max_eig"):
            assert found[config.trial_id][name] == expected[name]
    names = {path.name for path in folder.rglob("*")}
    assert {"trials.parquet", "epochs.parquet", "measures.parquet", "sweep.json", "report.html"} <= names
    assert any(name.endswith(".svg") for name in names)
    assert not [
        name for name in names if name.startswith(".") or (name.endswith((".json", ".pt")) and name != "sweep.json")
    ]
    for path in folder.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()
    assert SECRET not in first.stdout + first.stderr

    assert main(["--results", uri, *SMALL, "--seeds", "0"]) == 2
    assert "--resume continues with them" in capsys.readouterr().err
    assert main(["--results", uri, *SMALL, "--seeds", "0", "--resume"]) == 0  # nothing to do, no Ray
    with hold(folder):
        assert is_held(folder)
        assert main(["--results", uri, *SMALL, "--seeds", "0", "--resume"]) == 2
        error = capsys.readouterr().err
        assert "`--name`: another sweep is using" in error
        assert error.count("\n") == 1
    assert not is_held(folder)
    (folder / "trials.parquet").unlink()
    assert finished_trials(folder) == set()


def test_a_lease_that_nobody_renews_is_taken_over(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place(s3.uri("lease"))
    folder.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for holder, way_out in (
        ({"host": "here", "pid": ended.pid, "where": lease._process_space()}, "killed on this machine"),
        ({"host": "elsewhere", "pid": 1, "where": "another machine"}, None),
        (b"not whole", None),
    ):
        other = folder / ".lease-other"
        write_atomically(other, holder if isinstance(holder, bytes) else json.dumps(holder).encode())
        if way_out is None:
            with pytest.raises(UserError, match="another sweep is using"), hold(folder):
                pass
            assert [path.name for path in folder.iterdir()] == [".lease-other"]
            with monkeypatch.context() as later, hold_after(later, folder):
                assert not other.exists()
        else:
            with hold(folder):
                assert not other.exists()
    assert list(folder.iterdir()) == []


@contextlib.contextmanager
def hold_after(later: pytest.MonkeyPatch, folder: AnyPath) -> Iterator[None]:
    """`hold` when STALE seconds have passed."""
    later.setattr(lease, "STALE", 0.0)
    with hold(folder):
        yield


def test_a_lease_is_renewed(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW", 0.05)
    folder = place(s3.uri("renewed"))
    folder.mkdir()
    with hold(folder):
        [own] = folder.iterdir()
        own.unlink()
        for _ in range(100):
            if own.exists():
                break
            threading.Event().wait(0.05)
        assert own.exists()


@pytest.mark.slow
def test_storage_that_is_away_is_waited_for(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    road = Road(s3.port)
    file = place(s3.uri("away", road.port)) / "file"
    file.parent.mkdir()
    write_atomically(file, b"before")
    road.block()
    monkeypatch.setattr(remote_path, "PATIENCE", 0.0)
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        write_atomically(file, b"lost")
    monkeypatch.setattr(remote_path, "PATIENCE", 60.0)
    threading.Timer(1.0, road.unblock).start()
    write_atomically(file, b"after")
    assert (place(s3.uri("away")) / "file").read_bytes() == b"after"
    road.block()


@pytest.mark.slow
def test_storage_that_never_answered_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_path, "PATIENCE", 600.0)
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        place("s3://bucket/a?endpoint_override=127.0.0.1:1&scheme=http&region=x").exists()


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def fail() -> None:
        tries.append(0)
        raise OSError("away")

    monkeypatch.setattr(remote_path, "PATIENCE", 0.8)
    with pytest.raises(OSError, match="away"):
        retry_io(fail)
    assert len(tries) == 3  # at once, after 0.25 s, after another 0.5 s


def states() -> tuple[dict[str, Any], dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return {"epoch": 1, "w": torch.randn(50, generator=generator)}, {
        "epoch": 2,
        "w": torch.randn(50, generator=generator),
    }


DAMAGES: list[Callable[[bytes], bytes]] = [
    *(lambda content, at=at: content[: int(at * len(content))] for at in (0.0, 0.3, 0.7, 0.95)),
    *(lambda content, at=at: flipped(content, at) for at in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)),
    lambda content: content[:-300] + bytes(300),
]


@pytest.mark.parametrize(
    ("folder", "damage"),
    [("path", damage) for damage in DAMAGES]
    + [(kind, damage) for kind in ("file", "mock", "s3") for damage in (DAMAGES[1], DAMAGES[7])],
    indirect=["folder"],
)
def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(
    folder: Path, damage: Callable[[bytes], bytes]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "trial.pt"
    first, second = states()
    save_checkpoint(path, first)
    save_checkpoint(path, second)
    loaded = load_checkpoint(path, CPU)
    assert loaded is not None
    assert loaded["epoch"] == 2
    write_atomically(path, damage(path.read_bytes()))
    loaded = load_checkpoint(path, CPU)
    assert loaded is not None
    assert loaded["epoch"] == 1
    assert torch.equal(loaded["w"], first["w"])
    save_checkpoint(path, second)
    write_atomically(path, damage(path.read_bytes()))
    loaded = load_checkpoint(path, CPU)
    assert loaded is not None
    assert loaded["epoch"] == 1  # and not the first damaged one, which was the newest before
    write_atomically(path, damage(path.read_bytes()))
    assert load_checkpoint(path, CPU) is None


def flipped(content: bytes, at: float) -> bytes:
    """`content` with one bit of one byte turned over, `at` of the way into what the checksum is taken of."""
    index = int(at * (len(content) - 80))
    return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]


def test_every_flipped_byte_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    path = tmp_path / "trial.pt"
    save_checkpoint(path, {"w": torch.zeros(3)})
    content = path.read_bytes()
    assert torch.load(path, weights_only=True)["w"].tolist() == [0.0, 0.0, 0.0]  # for anybody
    for index in range(0, len(content) - 73, 7):
        path.write_bytes(content[:index] + bytes([content[index] ^ 0x10]) + content[index + 1 :])
        assert load_checkpoint(path, CPU) is None


class Malicious:
    """What a pickle of this does when it is loaded the unsafe way."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def test_no_pickle_is_executed(tmp_path: Path) -> None:
    trap, path = tmp_path / "executed", tmp_path / "weights.pt"
    torch.save({"weights": Malicious(trap)}, path)
    assert load_checkpoint(path, CPU) is None
    assert not trap.exists()
    torch.load(path, weights_only=False)  # the trap is one
    assert trap.exists()
