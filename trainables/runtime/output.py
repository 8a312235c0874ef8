"""Standard output on which a command can rely: in any encoding, and also when it cannot be written any more.

An answer has signs such as − and ±, which code page 1252 and ASCII lack: they are written as - and +/-, and what has no
such form as an escape. When the reader has gone (`| head`) or the disk is full, a command that only shows something
ends, and one that trains goes on without output.
"""

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

from trainables.runtime.errors import one_line

_PLAIN = {
    "−": "-", "–": "-", "—": "-", "━": "-", "╸": "-", "╺": "-", "±": "+/-", "×": "x", "→": "->", "≤": "<=", "≥": ">=",
    "ρ": "rho", "†": "+", "…": "...", "’": "'", "µ": "u",
}  # fmt: skip
_NAME = "large-batch-sweeps"


class OutputError(Exception):
    """Nobody reads the standard output of a command that only shows something."""


class _Output(io.TextIOBase):
    """`stream` until it cannot be written; from then on nothing is."""

    def __init__(self, stream: Any, *, goes_on: bool) -> None:
        self._stream, self._goes_on = stream, goes_on
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(self._stream.encoding)

    def isatty(self) -> bool:
        return not self._stream.closed and bool(self._stream.isatty())  # colorama asks at exit

    def fileno(self) -> int:
        return int(self._stream.fileno())

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, action: Any) -> None:
        if self.failure is not None:
            return
        try:
            action()
        except OSError as error:
            self.failure = error
            with contextlib.suppress(OSError, ValueError):  # what is still buffered must not fail again at the end
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if not self._goes_on:
                raise OutputError from error


class Outcome:
    """What became of the standard output in `reliable_output`: `status` is 1 if it was cut off by an error."""

    status = 0


@contextlib.contextmanager
def reliable_output(program: str, *, goes_on: bool) -> Iterator[Outcome]:
    """Standard output and error in the block take any text, and survive errors; `goes_on`: so does the block.

    Otherwise the block ends, without an exception. A reader that has read enough is no error.
    """
    before, outcome = (sys.stdout, sys.stderr), Outcome()
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_NAME)
    out = sys.stdout and _Output(sys.stdout, goes_on=goes_on)
    sys.stdout, sys.stderr = out, sys.stderr and _Output(sys.stderr, goes_on=True)
    try:
        with contextlib.suppress(OutputError):
            yield outcome
    finally:
        if out:
            with contextlib.suppress(OutputError):
                out.flush()
            if out.failure is not None and not isinstance(out.failure, BrokenPipeError):
                print(f"{program}: error: standard output: {one_line(out.failure)}", file=sys.stderr)
                outcome.status = 1
        if sys.stderr:
            sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _in_plain_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    plain = (_PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs)
    return "".join(plain), error.end


codecs.register_error(_NAME, _in_plain_signs)
