"""The largest free batch: the largest batch size with a test metric non-inferior to that of the smallest batch.

    python analysis/free_batch.py results/NAME [--margin X]

Implementation: analysis/questions/free_batch.py.
"""

import sys

from analysis.charts.free_batch import free_batch_figure
from analysis.charts.style import save
from analysis.cli.command import run_on_sweep


def main(arguments: list[str]) -> int:
    return run_on_sweep(
        lambda sweep: save(free_batch_figure(sweep), sweep.folder, "free_batch"),
        arguments,
        __doc__,
        has_margin=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
