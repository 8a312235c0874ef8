"""report.html of a sweep: the answer first, then the map, the evidence, what was run and what went wrong.

    python analysis/report.py results/NAME

Implementation: analysis/reporting/report.py.
"""

import sys

from analysis.cli.command import run_on_sweep
from analysis.reporting.report import write_report


def main(arguments: list[str]) -> int:
    return run_on_sweep(lambda sweep: [write_report(sweep)], arguments, __doc__, has_margin=True, says_notes=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
