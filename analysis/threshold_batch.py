"""The threshold batch size, beyond which test accuracy falls (Keskar et al. 2017, arXiv 1609.04836, figure 4).

    python analysis/threshold_batch.py results/NAME

Implementation: analysis/questions/threshold_batch.py.
"""

import sys

from analysis.charts.style import save
from analysis.charts.threshold_batch import threshold_figure
from analysis.cli.command import run_on_sweep


def main(arguments: list[str]) -> int:
    return run_on_sweep(
        lambda sweep: save(threshold_figure(sweep), sweep.folder, "threshold_batch"),
        arguments,
        __doc__,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
