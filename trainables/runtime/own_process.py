"""Runs code in a new process: for a user's code, which may end the process that runs it.

What it prints is kept from the terminal. A new process has imported nothing yet, so what the code finds out does not
depend on the caller. `call` waits for one function; whoever has more to do meanwhile takes `beside`.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from trainables.runtime.errors import UserError, one_line, quoted
from trainables.runtime.importing import importing_alike

COMMAND = "from trainables.runtime.own_process import main; main()"


@dataclass(frozen=True)
class OwnProcess:
    """A process that was started by `beside`."""

    _process: "subprocess.Popen[bytes]"
    _answer: IO[bytes]
    _log: IO[bytes]

    def wait(self) -> tuple[int, str]:
        """Its status, and what it has written to `answer_file`."""
        status = self._process.wait()
        self._answer.seek(0)
        return status, self._answer.read().decode()

    def last_line(self) -> str:
        """The last line that it has printed."""
        self._log.seek(0)
        return (self._log.read().decode(errors="replace").strip().splitlines() or ["nothing said"])[-1]


@contextlib.contextmanager
def beside(code: str, give: Callable[[IO[bytes]], object]) -> Iterator[OwnProcess]:
    """Runs the Python `code` beside the block, which may wait for it; it reads what `give` writes into a file."""
    with contextlib.ExitStack() as files:
        # Files, not pipes, for nobody reads or writes at the other end yet.
        given, answer, log = (files.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        give(given)
        given.seek(0)
        process = subprocess.Popen(  # noqa: S603, a constant
            [sys.executable, "-P", "-c", code],
            stdin=given,
            stdout=answer,
            stderr=log,
            env=importing_alike(),
            start_new_session=True,  # an interruption is for this process alone, which then ends that one
        )
        try:
            yield OwnProcess(process, answer, log)
        finally:
            process.kill()
            process.wait()


def answer_file() -> IO[str]:
    """In a process of `beside`: standard output, for the answer alone. What users' code prints is in the log now."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr  # unbuffered, for users' code may end the process
    return answer


def end_at_once() -> NoReturn:
    """End a process of `beside` after its answer, whatever threads and exit handlers users' code has left in it."""
    os._exit(0)


def call(function: str, *arguments: Any, who: str) -> Any:
    """What the function at `package.module:name` of this project returns; arguments and result are JSON.

    Raises UserError as the function does, also for any other exception, and where the process ends without an answer:
    the message says so of `who`.
    """
    with beside(COMMAND, lambda given: given.write(json.dumps([function, arguments]).encode())) as process:
        status, said = process.wait()
        if not said:
            last = quoted(process.last_line())
            raise UserError(f"{who} must not end the process that runs it, got {ending(status)}: {last}")
    found = json.loads(said)
    if "refused" in found:
        raise UserError(found["refused"])
    return found["result"]


def ending(status: int) -> str:
    """How a process ended, in words."""
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return f"signal {-status}"


def main() -> NoReturn:
    """Answers a `call`."""
    function, arguments = json.load(sys.stdin)
    answer = answer_file()
    module, _, name = function.partition(":")
    try:
        found = {"result": getattr(importlib.import_module(module), name)(*arguments)}
    except UserError as error:
        found = {"refused": str(error)}
    except BaseException as error:
        found = {"refused": f"{function} must not fail, got {type(error).__name__}: {one_line(error)}"}
    json.dump(found, answer)
    answer.flush()
    end_at_once()
