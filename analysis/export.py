"""Export the best setting of a sweep as JSON, as YAML, and as a PyTorch script that trains with it.

    python analysis/export.py results/NAME --best

Implementation: analysis/reporting/export.py.
"""

import argparse
import sys

from analysis.cli.command import add_metric, run_with_options
from analysis.data.load import load_sweep
from analysis.reporting.export import write_best


def main(arguments: list[str]) -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--best", action="store_true", required=True, help="export the setting with the best mean")
        add_metric(parser, has_margin=False)

    def export(options: argparse.Namespace) -> list[object]:
        return [*write_best(load_sweep(options.results, metric=options.metric))]

    return run_with_options(export, arguments, __doc__, add)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
