"""The local critical batch along the training, from a folder of sweeps/branched_batch.py, and the schedule it implies.

    python analysis/branched_batch.py results/NAME [--margin X]

Implementation: analysis/questions/branched_batch.py and batch_schedule.py.
"""

import argparse
import sys

from analysis.cli.command import run_with_options
from analysis.data.load import load_sweep
from analysis.reporting.branched_batch import report
from trainables.runtime.numbers import number


def main(arguments: list[str]) -> int:
    return run_with_options(
        lambda options: report(load_sweep(options.results), options.margin), arguments, __doc__, _add
    )


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--margin",
        type=number(),
        metavar="X",
        help="how much a branch may lose, in the unit of the held-out loss (default: 0.01 nats)",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
