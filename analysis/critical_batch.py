"""The critical batch size: how many steps and examples it takes to reach a training loss, against batch size.

    python analysis/critical_batch.py results/NAME

Implementation: analysis/questions/critical_batch.py.
"""

import sys

from analysis.charts.critical_batch import critical_batch_figure
from analysis.charts.style import save
from analysis.cli.command import run_on_sweep
from analysis.data.load import Sweep
from analysis.questions.critical_batch import critical_batch_sentence


def main(arguments: list[str]) -> int:
    def show(sweep: Sweep) -> list[object]:
        return [*save(critical_batch_figure(sweep), sweep.folder, "critical_batch"), critical_batch_sentence(sweep)]

    return run_on_sweep(show, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
