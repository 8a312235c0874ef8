"""The gap map: each trial's large-batch gap against the sharpness of its minimum, one panel per measure.

    python analysis/gap_vs_sharpness.py results/NAME

Implementation: analysis/charts/gap_vs_sharpness.py.
"""

import sys

from analysis.charts.gap_vs_sharpness import gap_vs_sharpness
from analysis.charts.style import save
from analysis.cli.command import run_on_sweep


def main(arguments: list[str]) -> int:
    return run_on_sweep(
        lambda sweep: save(gap_vs_sharpness(sweep), sweep.folder, "gap_vs_sharpness"),
        arguments,
        __doc__,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
