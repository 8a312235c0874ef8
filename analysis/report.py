"""report.html of a sweep: the answer first, then the map, the evidence, what was run and what went wrong.

    python analysis/report.py results/NAME

Implementation: analysis/reporting/report.py.
"""

import sys

from analysis.cli.command import run
from analysis.data.load import load_sweep
from analysis.reporting.report import write_report


def main(arguments: list[str]) -> int:
    return run(lambda folder: [write_report(load_sweep(folder))], arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
