"""The largest batch that costs nothing: whose test accuracy is statistically no worse than the smallest batch's.

    python analysis/free_batch.py results/NAME

Implementation: analysis/questions/free_batch.py.
"""

import sys

from analysis.charts.free_batch import free_batch_figure
from analysis.charts.style import save
from analysis.cli.command import run
from analysis.data.load import load_sweep


def main(arguments: list[str]) -> int:
    return run(
        lambda folder: save(free_batch_figure(load_sweep(folder)), folder, "free_batch"),
        arguments,
        __doc__,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
