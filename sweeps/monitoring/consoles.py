"""Where a run talks: rich consoles, without Ray."""

from rich.console import Console


def consoles(*, plain: bool, quiet: bool) -> tuple[Console, Console]:
    """Where a run talks while it goes on, and where it says what came of it: `quiet` silences the first.

    With `plain` there are no colours and no display that moves, as where the output is not a terminal.
    """
    last = Console(highlight=False, markup=False, force_terminal=False if plain else None)
    return (Console(quiet=True) if quiet else last), last
