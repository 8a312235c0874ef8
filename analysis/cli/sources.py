"""The options of commands that read runs from anywhere: which metric, and where its file says what was run."""

import argparse
import sys
from pathlib import Path

from analysis.data.read_runs import check_options, read_runs
from analysis.data.runs import Runs, names_of
from trainables.runtime.text import printable


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `runs_of`."""
    parser.add_argument("--metric", help="a held-out metric (default for results folders: test_loss)")
    parser.add_argument(
        "--direction",
        choices=("lower", "higher"),
        help="whether lower or higher is better (default: from the name of the metric)",
    )
    parser.add_argument(
        "--column",
        nargs="+",
        default=[],
        metavar="NAME=THEIRS",
        help="names of columns in the file, such as step=global_step",
    )
    parser.add_argument("--runs", type=Path, metavar="FILE", help="W&B's export of the runs table")
    parser.add_argument(
        "--settings",
        nargs="*",
        metavar="NAME",
        help="columns that are settings (default: all that do not look like results; no NAME: none)",
    )
    parser.add_argument(
        "--batch-pattern",
        metavar="REGEX",
        help=r"regular expression for the batch size in a run's path, such as 'bs(\d+)', or with named groups for "
        r"more: 'bs(?P<batch_size>\d+)_lr(?P<learning_rate>[^_]+)_seed(?P<seed>\d+)'",
    )


def refuse_without_effect(options: argparse.Namespace) -> None:
    """Raises UserError for options that the source would ignore."""
    check_options(
        Path(options.results),
        columns=names_of(options.column),
        wandb_runs=options.runs,
        batch_pattern=options.batch_pattern,
        settings=options.settings,
    )


def runs_of(options: argparse.Namespace) -> Runs:
    """The runs that the options name. Prints on stderr what their columns were taken for."""
    runs = read_runs(
        Path(options.results),
        options.metric,
        options.direction,
        columns=names_of(options.column),
        wandb_runs=options.runs,
        batch_pattern=options.batch_pattern,
        settings=options.settings,
    )
    for note in runs.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    return runs
