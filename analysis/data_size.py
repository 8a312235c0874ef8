"""How the critical batch size, the steps and the examples to a loss grow with the training set, by a power law.

    python analysis/data_size.py results/n300 results/n600 results/n1200 results/n2400 --to 10000

The figure is written to the first of the folders. Implementation: analysis/questions/data_size.py.
"""

import argparse
import sys

from analysis.charts.data_size import data_size_figure
from analysis.charts.style import save
from analysis.cli.command import run_with_options
from analysis.data.load import load_sweep
from analysis.questions.data_size import data_sizes, lines
from trainables.runtime.errors import UserError
from trainables.runtime.numbers import number


def main(arguments: list[str]) -> int:
    return run_with_options(_show, arguments, __doc__, _add, several=True)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--loss", type=number(above=0), metavar="X", help="training loss to reach (default: the sweeps' target)"
    )
    parser.add_argument(
        "--to", nargs="+", type=int, default=[], metavar="N", help="extrapolate to this many training examples"
    )


def _show(options: argparse.Namespace) -> list[object]:
    if any(size < 1 for size in options.to):
        raise UserError(f"`to` must be 1 or more training examples, got {min(options.to)}")
    sweeps = [load_sweep(folder) for folder in options.results]
    found = data_sizes(sweeps, options.loss)
    return [*lines(found, options.to), *save(data_size_figure(found, options.to), sweeps[0].folder, "data_size")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
