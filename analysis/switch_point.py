"""Final test metric, gap and sharpness against the epoch of the switch from the small to the large batch.

    python analysis/switch_point.py results/NAME

Implementation: analysis/charts/switch_point.py.
"""

import sys

from analysis.charts.style import save
from analysis.charts.switch_point import switch_point
from analysis.cli.command import run_on_sweep


def main(arguments: list[str]) -> int:
    return run_on_sweep(lambda sweep: save(switch_point(sweep), sweep.folder, "switch_point"), arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
