"""The answer of a sweep as plain text, 80 columns wide: printed when a sweep ends, and by

    python analysis/summary.py results/NAME

Implementation: analysis/reporting/summary.py.
"""

import sys
from pathlib import Path

from analysis.cli.command import run
from analysis.data.load import load_sweep
from analysis.data.progress import progress_of
from analysis.reporting.headline import headline_lines
from analysis.reporting.summary import summary_lines


def lines(folder: Path) -> list[str]:
    """The details, then the headline."""
    sweep = load_sweep(folder)
    return [*summary_lines(sweep), "", *headline_lines(sweep, progress_of(sweep.trials, folder))]


def main(arguments: list[str]) -> int:
    return run(lines, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
