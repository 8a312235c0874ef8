"""Sharpness during training: box sharpness against the training loss, and the distance from the initial weights.

    python analysis/evolution.py results/NAME

Implementation: analysis/paper/evolution.py.
"""

import sys

from analysis.cli.command import run
from analysis.paper.evolution import report


def main(arguments: list[str]) -> int:
    return run(report, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
