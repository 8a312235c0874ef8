"""Test accuracy and box sharpness against batch size, with the threshold batch size (Keskar et al. 2017, figure 4).

    python analysis/keskar_figure4.py results/NAME

Implementation: analysis/paper/keskar_figure4.py.
"""

import sys

from analysis.cli.command import run_on_sweep
from analysis.paper.keskar_figure4 import write_figure4


def main(arguments: list[str]) -> int:
    return run_on_sweep(write_figure4, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
