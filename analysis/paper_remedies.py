"""The paper's remedies on the large batch: how much of the gap they win back, and whether the minimum is flat.

    python analysis/paper_remedies.py results/NAME

Implementation: analysis/paper/paper_remedies.py.
"""

import sys

from analysis.cli.command import run
from analysis.paper.paper_remedies import report


def main(arguments: list[str]) -> int:
    return run(report, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
