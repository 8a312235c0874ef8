"""The loss around small-batch and large-batch minima along filter-normalized random directions (Li et al. 2018).

    python analysis/landscape.py results/NAME [--pair TRIAL_ID TRIAL_ID]

Implementation: analysis/minima/landscape.py.
"""

import argparse
import sys

from analysis.charts.landscape import write_landscape
from analysis.cli.command import run_with_options
from analysis.cli.profile_options import add_profile_options, where
from analysis.data.load import load_sweep
from analysis.minima.landscape import DIRECTIONS, POINTS


def _options(parser: argparse.ArgumentParser) -> None:
    add_profile_options(parser, points=POINTS)
    parser.add_argument(
        "--directions",
        type=int,
        default=DIRECTIONS,
        metavar="N",
        help="number of random directions (default: %(default)s)",
    )


def main(arguments: list[str]) -> int:
    def show(options: argparse.Namespace) -> list[object]:
        return write_landscape(load_sweep(options.results), directions=options.directions, **where(options))

    return run_with_options(show, arguments, __doc__, _options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
