"""Print the answer of a sweep as plain text, as at the end of the sweep.

    python analysis/summary.py results/NAME

Implementation: analysis/reporting/summary.py.
"""

import shutil
import sys

from analysis.cli.command import run_on_sweep
from analysis.data.load import Sweep
from analysis.data.progress import progress_of
from analysis.reporting.headline import headline_lines
from analysis.reporting.summary import summary_lines


def lines(sweep: Sweep) -> list[str]:
    """The details, then the headline."""
    width = shutil.get_terminal_size().columns  # 80 where the output is no terminal
    return [*summary_lines(sweep, width), "", *headline_lines(sweep, progress_of(sweep.trials, sweep.folder), width)]


def main(arguments: list[str]) -> int:
    return run_on_sweep(lines, arguments, __doc__, has_margin=True, says_notes=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
