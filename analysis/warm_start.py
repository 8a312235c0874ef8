"""The warm start as a table: large-batch training after k small-batch epochs, against either batch size alone.

    python analysis/warm_start.py results/NAME

Implementation: analysis/paper/warm_start.py.
"""

import sys

from analysis.cli.command import run
from analysis.paper.warm_start import report


def main(arguments: list[str]) -> int:
    return run(report, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
