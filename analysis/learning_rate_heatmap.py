"""Heat maps over learning rate and batch size: test accuracy, box sharpness, largest eigenvalue.

    python analysis/learning_rate_heatmap.py results/NAME

Implementation: analysis/charts/learning_rate_heatmap.py.
"""

import sys

from analysis.charts.learning_rate_heatmap import learning_rate_heatmap
from analysis.charts.style import save
from analysis.cli.command import run
from analysis.data.load import load_sweep


def main(arguments: list[str]) -> int:
    return run(
        lambda folder: save(learning_rate_heatmap(load_sweep(folder)), folder, "learning_rate_heatmap"),
        arguments,
        __doc__,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
