"""Where the answer is: last on a terminal, whatever is written after it."""

import io

import pytest
from rich.console import Console

from sweeps.monitoring.consoles import WRITING, answer_then_write
from trainables.runtime.errors import UserError


def test_on_a_terminal_the_status_is_erased_below_the_answer() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, highlight=False)
    seen: list[str] = []
    answer_then_write(["How large? 64"], lambda: seen.append(screen.getvalue()), console, console)
    assert "How large? 64" in seen[0]  # before the seconds of writing
    after = screen.getvalue().split("How large? 64")[1]
    assert WRITING in after
    assert after.rindex("\x1b[2K") > after.rindex(WRITING)  # its line is erased, and nothing follows


def test_elsewhere_it_is_said_before_the_answer() -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=80, highlight=False)
    answer_then_write(["How large? 64"], lambda: None, console, console)
    assert screen.getvalue().splitlines() == [f"{WRITING}.", "How large? 64"]


def test_a_quiet_run_says_only_the_answer() -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=80, force_terminal=True, highlight=False)
    answer_then_write(["How large? 64"], lambda: None, Console(quiet=True), console)
    assert screen.getvalue() == "How large? 64\n"


def test_what_cannot_be_written_is_an_error() -> None:
    def write() -> None:
        raise UserError("the folder cannot be written")

    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(UserError, match="cannot be written"):
        answer_then_write([], write, console, console)
