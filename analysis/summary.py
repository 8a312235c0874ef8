"""The answer of a sweep as plain text, 80 columns wide: printed when a sweep ends, and by

    python analysis/summary.py results/NAME

Implementation: analysis/reporting/summary.py.
"""

import sys

from analysis.cli.command import run_on_sweep
from analysis.data.load import Sweep
from analysis.data.progress import progress_of
from analysis.reporting.headline import headline_lines
from analysis.reporting.summary import summary_lines


def lines(sweep: Sweep) -> list[str]:
    """The details, then the headline."""
    return [*summary_lines(sweep), "", *headline_lines(sweep, progress_of(sweep.trials, sweep.folder))]


def main(arguments: list[str]) -> int:
    return run_on_sweep(lines, arguments, __doc__, has_margin=True, says_notes=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
