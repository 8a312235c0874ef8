"""Do the gap and the sharper minima persist across networks and optimizers? A row for each variant of a sweep.

    python analysis/resilience.py results/NAME

Implementation: analysis/paper/resilience.py.
"""

import sys

from analysis.cli.command import run
from analysis.paper.resilience import report


def main(arguments: list[str]) -> int:
    return run(report, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
