"""Which optimizer makes use of large batches, from a folder of sweeps/optimizer_ladder.py.

    python analysis/optimizer_ladder.py results/NAME

Implementation: analysis/questions/optimizer_ladder.py.
"""

import sys

from analysis.cli.command import run
from analysis.reporting.optimizer_ladder import ladder_lines


def main(arguments: list[str]) -> int:
    return run(ladder_lines, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
