"""Where the answer is: last on a terminal, whatever is written after it."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from sweeps.monitoring.consoles import WRITING, answer_then_write, literal_console
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


def test_text_is_printed_as_it_is() -> None:
    """Rich would make an emoji of `:SOAP:` and markup of `[b]`."""
    screen = io.StringIO()
    console = literal_console(file=screen, width=80)
    table = Table("pytorch_optimizer:SOAP: B_crit")
    table.add_row("x:SOAP: [b]y[/b]")
    console.print("pytorch_optimizer:SOAP: B_crit is 15 [b]", table)
    assert screen.getvalue().count(":SOAP:") == 3
    assert "[b]y[/b]" in screen.getvalue()
