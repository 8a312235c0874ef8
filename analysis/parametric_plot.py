"""Loss and accuracy between a small-batch and a large-batch minimum (Keskar et al. 2017, figures 3 and 10).

    python analysis/parametric_plot.py results/NAME [--pair TRIAL_ID TRIAL_ID]

Implementation: analysis/minima/parametric_plot.py.
"""

import argparse
import sys

from analysis.charts.parametric_plot import write_parametric_plot
from analysis.cli.command import run_with_options
from analysis.cli.profile_options import add_profile_options, where
from analysis.data.load import load_sweep
from analysis.minima.parametric_plot import POINTS, RANGE
from trainables.runtime.numbers import number


def _options(parser: argparse.ArgumentParser) -> None:
    add_profile_options(parser, points=POINTS)
    parser.add_argument(
        "--alpha-range",
        nargs=2,
        type=number(),
        default=RANGE,
        metavar=("LOW", "HIGH"),
        help="range of alpha (default: -1 2)",
    )


def main(arguments: list[str]) -> int:
    def show(options: argparse.Namespace) -> list[object]:
        sweep = load_sweep(options.results)
        return write_parametric_plot(sweep, alpha_range=options.alpha_range, **where(options))

    return run_with_options(show, arguments, __doc__, _options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
