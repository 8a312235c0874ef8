"""Which rule scales a tuned setting to larger batches, from a folder of sweeps/scaling_rules.py.

    python analysis/scaling_rules.py results/NAME [--margin X]

Implementation: analysis/questions/scaling_rules.py.
"""

import sys

from analysis.cli.command import run_on_sweep
from analysis.reporting.scaling_rules import report


def main(arguments: list[str]) -> int:
    return run_on_sweep(report, arguments, __doc__, has_margin=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
