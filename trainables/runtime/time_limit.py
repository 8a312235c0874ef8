"""Ends work that takes too long: a model that hangs must not hold its worker for ever.

At the limit the main thread gets TimeLimitError, wherever its Python code is, so the traceback shows what hung. Code
that never comes back to Python (a deadlock inside a library) cannot be told so: GRACE seconds later the process ends
itself, with the stacks of its threads in its log, and the sweep sees a worker that died.
"""

import contextlib
import faulthandler
import signal
import threading
from collections.abc import Iterator
from types import FrameType

GRACE = 30.0  # seconds


class TimeLimitError(TimeoutError):
    """The time that work was given has run out."""


@contextlib.contextmanager
def time_limit(seconds: float | None, message: str) -> Iterator[None]:
    """Raises TimeLimitError(message) in the block after `seconds` (None: never). In another thread the process ends.

    Trap: blocks cannot be nested, for a process has one timer of each kind.
    """
    if seconds is None:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise TimeLimitError(message)

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, end) if in_main_thread else None
    faulthandler.dump_traceback_later(max(seconds, 0) + GRACE, exit=True, file=2)
    try:
        if in_main_thread:
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
        yield
    finally:
        if in_main_thread:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()
