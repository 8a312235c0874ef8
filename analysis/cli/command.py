"""The command line that all scripts of the analysis share: one folder in, lines out, errors in one line."""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from trainables.runtime.errors import OneLineParser, UserError, one_line
from trainables.runtime.output import reliable_output
from trainables.runtime.text import printable
from trainables.storage import folders

Add = Callable[[argparse.ArgumentParser], object]


def run(action: Callable[[Path], Iterable[object]], arguments: list[str], description: str | None) -> int:
    """Calls `action` with the results folder and prints a line for each thing it returns.

    Returns the exit status: 0, or 2 with one line on stderr where the folder is no sweep or has not what is
    needed.
    """
    return run_with_options(lambda options: action(options.results), arguments, description, lambda parser: None)


def run_with_options(
    action: Callable[[argparse.Namespace], Iterable[object]], arguments: list[str], description: str | None, add: Add
) -> int:
    """As `run`, with the options that `add` gives the parser; `action` gets them all, the folder as `results`."""
    parser = OneLineParser(description=(description or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("results", type=folders.argument, help="the folder of a sweep, such as results/batch_grid")
    add(parser)
    options = parser.parse_args(arguments)
    with reliable_output(parser.prog, goes_on=False) as output:
        try:
            for line in action(options):
                print(printable(str(line)))
        except UserError as error:
            print(f"{parser.prog}: error: {folders.scrubbed(one_line(error))}", file=sys.stderr)
            return 2
    return output.status
