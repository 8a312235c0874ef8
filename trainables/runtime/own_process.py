"""Calls a function in a new process: for a user's code, which may end the process that runs it.

What it prints is kept from the terminal. A new process has imported nothing yet, so what the function finds out does
not depend on the caller.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from typing import Any, NoReturn

from trainables.runtime.errors import UserError, one_line, quoted
from trainables.runtime.importing import importing_alike

COMMAND = "from trainables.runtime.own_process import main; main()"


def call(function: str, *arguments: Any, who: str) -> Any:
    """What the function at `package.module:name` of this project returns; arguments and result are JSON.

    Raises UserError as the function does, also for any other exception, and where the process ends without an answer:
    the message says so of `who`.
    """
    with contextlib.ExitStack() as files:
        given, answer, log = (files.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(json.dumps([function, arguments]).encode())
        given.seek(0)
        process = subprocess.Popen(  # noqa: S603, a constant
            [sys.executable, "-P", "-c", COMMAND],
            stdin=given,
            stdout=answer,
            stderr=log,
            env=importing_alike(),
            start_new_session=True,  # an interruption is for this process alone, which then ends that one
        )
        try:
            status = process.wait()
        finally:
            process.kill()
            process.wait()
        answer.seek(0)
        said = answer.read()
        if not said:
            log.seek(0)
            last = (log.read().decode(errors="replace").strip().splitlines() or ["nothing said"])[-1]
            raise UserError(f"{who} must not end the process that runs it, got {ending(status)}: {quoted(last)}")
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
    """Answers a `call`, and ends the process at once: PyTorch would take half a second to be taken down."""
    function, arguments = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a user's code prints is no answer
    module, _, name = function.partition(":")
    try:
        found = {"result": getattr(importlib.import_module(module), name)(*arguments)}
    except UserError as error:
        found = {"refused": str(error)}
    except BaseException as error:
        found = {"refused": f"{function} must not fail, got {type(error).__name__}: {one_line(error)}"}
    json.dump(found, answer)
    answer.flush()
    os._exit(0)
