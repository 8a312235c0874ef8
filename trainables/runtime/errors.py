"""The exception for a user's mistakes.

Its message is a single line, "`argument` must <rule>, got <value>; <way out>", and the command line prints
it as it is and exits with status 2. Everything else that is raised is a defect and keeps its traceback.
"""

import difflib
import traceback
from collections.abc import Iterable

from trainables.runtime.text import printable

LONGEST_REASON = 500  # characters of a reason that is kept in a table
LONGEST_TRACEBACK = 200  # lines, of which a deep recursion has thousands


class UserError(ValueError):
    """A mistake in what was asked for; the message says what is wrong and what is allowed."""


class NotEnoughError(UserError):
    """Results lack what a question needs; `sentence` says it for a report, which knows its own folder."""

    def __init__(self, message: str, sentence: str = "") -> None:
        super().__init__(message)
        self.sentence = sentence or message


class LostError(Exception):
    """Something that a sweep cannot do without, its storage or Ray, is gone; the message says what, in one line."""

    status = 3


def is_interruption(error: BaseException | None) -> bool:
    """Whether a signal is behind `error`: in the import of a compiled module it becomes the cause of an ImportError."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or is_interruption(error.__cause__))


def text_of(error: object) -> str:
    """The message of `error`, also where it cannot say it: a user's class may have a `__str__` that raises."""
    try:
        return str(error)
    except Exception as other:
        return f"a message that cannot be read ({type(other).__name__})"


def one_line(error: object) -> str:
    """The message in a single, printable line, also where it quotes what a user's own code has raised."""
    return printable(" ".join(line.strip() for line in text_of(error).splitlines() if line.strip()))


def reason_of(error: BaseException) -> str:
    """Why something failed, in one line: a UserError in its own words, any other error after the name of its class."""
    return one_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"


def traceback_of(error: BaseException) -> str:
    """The traceback of `error` as a table keeps it, its last line the whole reason; long ones are cut."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    if len(lines) > LONGEST_TRACEBACK:
        lines = [*lines[: LONGEST_TRACEBACK // 2], "...", *lines[-LONGEST_TRACEBACK // 2 :]]
    if isinstance(error, UserError) or len(text_of(error).splitlines()) > 1:
        lines.append(reason_of(error))
    return "\n".join(lines) + "\n"


def file_error(error: OSError) -> str:
    """In one line, which file or folder cannot be used and why."""
    name = error.filename2 or error.filename
    reason = error.strerror or error
    return one_line(f"{type(error).__name__}: {reason}" if name is None else f"{name} cannot be used ({reason})")


def quoted(value: object, most: int = 200) -> str:
    """What a message quotes of somebody else's text, which may be long and hold anything: one line, cut."""
    text = one_line(value)
    return text if len(text) <= most else f"{text[:most]}..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` with the name of `known` that is nearest to `name`, or nothing where none is near."""
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.7)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""
