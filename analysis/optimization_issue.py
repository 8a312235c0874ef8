"""Low training loss and low test accuracy: full-batch methods with line searches against small-batch training.

    python analysis/optimization_issue.py results/NAME

Implementation: analysis/paper/optimization_issue.py.
"""

import sys

from analysis.cli.command import run
from analysis.paper.optimization_issue import report


def main(arguments: list[str]) -> int:
    return run(report, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
