"""Heat maps over learning rate and batch size: test metric, box sharpness, largest eigenvalue.

    python analysis/learning_rate_heatmap.py results/NAME

Implementation: analysis/charts/learning_rate_heatmap.py.
"""

import sys

from analysis.charts.learning_rate_heatmap import learning_rate_heatmap
from analysis.charts.style import save
from analysis.cli.command import run_on_sweep


def main(arguments: list[str]) -> int:
    return run_on_sweep(
        lambda sweep: save(learning_rate_heatmap(sweep), sweep.folder, "learning_rate_heatmap"),
        arguments,
        __doc__,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
