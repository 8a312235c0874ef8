"""Tables 2 to 4 of Keskar et al. 2017: the paper's result, ours, and whether its conclusion holds.

    python analysis/keskar_tables.py results/NAME

Implementation: analysis/paper/keskar_tables.py.
"""

import sys

from analysis.cli.command import run_on_sweep
from analysis.paper.keskar_tables import write_keskar_tables


def main(arguments: list[str]) -> int:
    return run_on_sweep(write_keskar_tables, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
