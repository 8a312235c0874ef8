"""A line for the terminal where a user's own code ends the process that runs it."""

import contextlib
import subprocess
from collections.abc import Iterator

from trainables.runtime.errors import one_line

SHELL = "/bin/sh"
COMMAND = 'read -r answer || printf "error: %s\\n" "$0" >&2'


@contextlib.contextmanager
def told_if_ended(line: str) -> Iterator[None]:
    """Print `line` if this process ends in the block, as by `os._exit` or a segmentation fault.

    Nothing in a process sees such an end. So a shell waits for a word from it, or for the end of its input.
    """
    try:
        command = [SHELL, "-c", COMMAND, one_line(line)]
        listener = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)  # noqa: S603, a constant
    except (OSError, ValueError):  # no shell
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listener.communicate(b"done\n")
