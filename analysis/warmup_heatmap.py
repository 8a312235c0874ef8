"""Heat maps over learning rate and warmup, with the sharpness of each cell over time.

    python analysis/warmup_heatmap.py results/NAME

Implementation: analysis/charts/warmup_heatmap.py.
"""

import sys

from analysis.charts.style import save
from analysis.charts.warmup_heatmap import warmup_heatmap
from analysis.cli.command import run_on_sweep


def main(arguments: list[str]) -> int:
    return run_on_sweep(
        lambda sweep: save(warmup_heatmap(sweep), sweep.folder, "warmup_heatmap"),
        arguments,
        __doc__,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
