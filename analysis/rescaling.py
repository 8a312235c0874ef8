"""The counter-example of Dinh et al. 2017 (arXiv 1703.04933): rescaling changes the sharpness but not the function.

    python analysis/rescaling.py results/NAME

Implementation: analysis/questions/rescaling.py.
"""

import sys

from analysis.cli.command import run_on_sweep
from analysis.questions.rescaling import rescaling, rescaling_sentence


def main(arguments: list[str]) -> int:
    return run_on_sweep(lambda sweep: [rescaling_sentence(rescaling(sweep))], arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
