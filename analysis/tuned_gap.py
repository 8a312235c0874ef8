"""How much of the large-batch gap remains when every batch size is tuned separately: the answer, a table and a figure.

    python analysis/tuned_gap.py results/tuned_gap

Implementation: analysis/reporting/tuned_gap.py.
"""

import sys

from analysis.cli.command import run
from analysis.reporting.tuned_gap import tuned_gap_lines


def main(arguments: list[str]) -> int:
    return run(tuned_gap_lines, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
