"""What buys the large-batch gap back? Every remedy at every large batch: its gain, its cost, and whether it flattened.

    python analysis/remedies.py results/NAME

Implementation: analysis/questions/remedies.py.
"""

import sys

from analysis.charts.remedies import remedies_figure
from analysis.charts.style import save
from analysis.cli.command import run
from analysis.data.load import load_sweep


def main(arguments: list[str]) -> int:
    return run(lambda folder: save(remedies_figure(load_sweep(folder)), folder, "remedies"), arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
