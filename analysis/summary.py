"""The answer of a sweep as plain text, 80 columns wide: printed when a sweep ends, and by

    python analysis/summary.py results/NAME

Implementation: analysis/reporting/summary.py.
"""

import sys

from analysis.cli.command import run
from analysis.data.load import load_sweep
from analysis.reporting.summary import summary_lines


def main(arguments: list[str]) -> int:
    return run(lambda folder: summary_lines(load_sweep(folder)), arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
