"""Final test accuracy, gap and sharpness against the epoch at which the small batch gives way to the large one.

    python analysis/switch_point.py results/NAME

Implementation: analysis/charts/switch_point.py.
"""

import sys

from analysis.charts.style import save
from analysis.charts.switch_point import switch_point
from analysis.cli.command import run
from analysis.data.load import load_sweep


def main(arguments: list[str]) -> int:
    return run(lambda folder: save(switch_point(load_sweep(folder)), folder, "switch_point"), arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
