"""Test metric, gap and sharpness against batch size, a line per learning rate (Keskar et al. 2017, figure 4).

    python analysis/batch_size_curves.py results/NAME

Implementation: analysis/charts/batch_size_curves.py.
"""

import sys

from analysis.charts.batch_size_curves import batch_size_curves
from analysis.charts.style import save
from analysis.cli.command import run_on_sweep


def main(arguments: list[str]) -> int:
    return run_on_sweep(
        lambda sweep: save(batch_size_curves(sweep), sweep.folder, "batch_size_curves"),
        arguments,
        __doc__,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
