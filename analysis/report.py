"""Write report.html of a sweep: the answer, the gap map, the evidence, what was run and what went wrong.

    python analysis/report.py results/NAME
    python analysis/report.py results/A results/B    one page of several sweeps, results/A+B.html

Implementation: analysis/reporting/report.py.
"""

import argparse
import sys

from rich.console import Console

from analysis.cli.command import add_metric, run_with_options
from analysis.data.load import load_sweep
from analysis.reporting.report import write_report, write_report_of_several


def show(options: argparse.Namespace) -> list[object]:
    with Console(stderr=True).status("Writing figures and report"):  # seconds; erased in the end
        sweeps = [load_sweep(folder, metric=options.metric, margin=options.margin) for folder in options.results]
        return [write_report(sweeps[0]) if len(sweeps) == 1 else write_report_of_several(sweeps)]


def main(arguments: list[str]) -> int:
    return run_with_options(show, arguments, __doc__, lambda parser: add_metric(parser, has_margin=True), several=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
