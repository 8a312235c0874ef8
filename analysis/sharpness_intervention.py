"""How much of the large-batch gap does each measure of sharpness mediate? Estimated from interventions on sharpness.

    python analysis/sharpness_intervention.py results/NAME

The folder of sweeps/sharpness_intervention.py, or of any sweep with SAM, learning rates or weight decays at a small and
a large batch. Implementation: analysis/questions/sharpness_intervention.py.
"""

import sys

from analysis.cli.command import run
from analysis.reporting.intervention import report


def main(arguments: list[str]) -> int:
    return run(report, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
