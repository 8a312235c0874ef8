"""The counter-example, computed: one function, two networks, another sharpness (Dinh et al. 2017, arXiv 1703.04933).

    python analysis/rescaling.py results/NAME

Implementation: analysis/questions/rescaling.py.
"""

import sys

from analysis.cli.command import run
from analysis.data.load import load_sweep
from analysis.questions.rescaling import rescaling, rescaling_sentence


def main(arguments: list[str]) -> int:
    return run(lambda folder: [rescaling_sentence(rescaling(load_sweep(folder)))], arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
