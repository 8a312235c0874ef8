"""Where a run talks: rich consoles, without Ray."""

from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console

WRITING = "Writing figures and report"


def literal_console(**options: Any) -> Console:
    """A rich console, of these `options`, that prints text as it is: `pytorch_optimizer:SOAP:` holds no emoji."""
    return Console(highlight=False, markup=False, emoji=False, **options)


def consoles(*, plain: bool, quiet: bool) -> tuple[Console, Console]:
    """Where a run talks while it goes on, and where it says what came of it: `quiet` silences the first.

    With `plain` there are no colours and no display that moves, as where the output is not a terminal.
    """
    last = literal_console(force_terminal=False if plain else None)
    return (Console(quiet=True) if quiet else last), last


def answer_then_write(answer: Iterable[str], write: Callable[[], object], talk: Console, console: Console) -> None:
    """Print the lines of `answer`, then call `write`, which takes seconds; the answer stays last on the terminal.

    A terminal shows meanwhile what is being done, and erases it. Any other output says it before the answer.
    """
    moves = talk.is_terminal and not talk.quiet
    if not moves:
        talk.print(f"{WRITING}.")
    for line in answer:
        console.print(line, soft_wrap=True)
    if not moves:
        write()
        return
    with talk.status(WRITING):
        write()
