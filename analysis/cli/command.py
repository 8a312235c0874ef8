"""The command line that all scripts of the analysis share: one folder in, lines out, errors in one line.

Scripts that look at a sweep know `--metric`, for a folder whose trials have several primary metrics, and those with a
test of non-inferiority `--margin`.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from analysis.data.load import Sweep, load_sweep
from trainables.runtime.errors import UserError, file_error, is_interruption, one_line
from trainables.runtime.numbers import number
from trainables.runtime.output import reliable_output
from trainables.runtime.parser import Parser
from trainables.runtime.text import printable
from trainables.storage import folders

Add = Callable[[argparse.ArgumentParser], object]


def run(action: Callable[[Path], Iterable[object]], arguments: list[str], description: str | None) -> int:
    """Calls `action` with the results folder and prints a line for each thing it returns.

    Returns the exit status: 0, or with one line on stderr 2 where the folder is no sweep or has not what is needed, and
    130 when interrupted.
    """
    return run_with_options(lambda options: action(options.results), arguments, description, lambda parser: None)


def run_on_sweep(
    action: Callable[[Sweep], Iterable[object]],
    arguments: list[str],
    description: str | None,
    *,
    has_margin: bool = False,
    says_notes: bool = False,
) -> int:
    """As `run`, with the sweep in the folder; `has_margin` gives the script `--margin`.

    What there is to know before any result (`Sweep.notes`) is printed on stderr, unless the lines say it themselves.
    """

    def add(parser: argparse.ArgumentParser) -> None:
        add_metric(parser, has_margin=has_margin)

    def look(options: argparse.Namespace) -> Iterable[object]:
        sweep = load_sweep(options.results, metric=options.metric, margin=options.margin)
        for note in () if says_notes else sweep.notes:
            print(f"note: {printable(note)}", file=sys.stderr)
        return action(sweep)

    return run_with_options(look, arguments, description, add)


def add_metric(parser: argparse.ArgumentParser, *, has_margin: bool) -> None:
    """Adds `--metric`, and `--margin` where asked for."""
    parser.set_defaults(margin=None)
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="use the trials with this primary metric or task (default: the most frequent)",
    )
    if has_margin:
        parser.add_argument(
            "--margin",
            type=number(),
            metavar="X",
            help="how much a batch size may lose and still count as free, in the metric's unit (default: 0.5 "
            "percentage points, 0.01 nats per token; no default for other metrics)",
        )


def run_with_options(
    action: Callable[[argparse.Namespace], Iterable[object]],
    arguments: list[str],
    description: str | None,
    add: Add,
    *,
    several: bool = False,
) -> int:
    """As `run`, with the options that `add` gives the parser; `action` gets them all, the folder as `results`, which is
    a list where `several` may be given.
    """
    parser = Parser(description=(description or "").split("\n\n")[0], allow_abbrev=False)
    number: dict[str, Any] = {"nargs": "+"} if several else {}
    parser.add_argument(
        "results", type=folders.argument, **number, help="the folder of a sweep, such as results/batch_grid"
    )
    add(parser)
    options = parser.parse_args(arguments)
    with reliable_output(parser.prog, goes_on=False) as output:
        try:
            for line in action(options):
                print(printable(str(line)))
        except UserError as error:
            print(f"{parser.prog}: error: {folders.redact_credentials(one_line(error))}", file=sys.stderr)
            return 2
        except OSError as error:  # of a file: what is wrong with the output ends the block as another exception
            print(f"{parser.prog}: error: {folders.redact_credentials(file_error(error))}", file=sys.stderr)
            return 2
        except (KeyboardInterrupt, ImportError) as error:
            if not is_interruption(error):
                raise
            print(f"{parser.prog}: interrupted", file=sys.stderr)
            return 130
    return output.status
