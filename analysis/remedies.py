"""Which remedy wins back the large-batch gap? Its gain, cost and effect on sharpness, at every large batch size.

    python analysis/remedies.py results/NAME

Implementation: analysis/questions/remedies.py.
"""

import sys

from analysis.charts.remedies import remedies_figure
from analysis.charts.style import save
from analysis.cli.command import run_on_sweep


def main(arguments: list[str]) -> int:
    return run_on_sweep(lambda sweep: save(remedies_figure(sweep), sweep.folder, "remedies"), arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
