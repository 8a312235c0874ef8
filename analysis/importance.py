"""Which hyperparameter affects the result, and which the gap? Shares of the variance over a complete grid.

    python analysis/importance.py results/NAME

Implementation: analysis/questions/importance.py.
"""

import sys

from analysis.cli.command import run_on_sweep
from analysis.questions.importance import importance_lines


def main(arguments: list[str]) -> int:
    return run_on_sweep(importance_lines, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
