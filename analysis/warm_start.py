"""The warm start as a table: the large batch that took over after k small-batch epochs, against either batch alone.

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
