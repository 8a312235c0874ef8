"""The critical batch size: how many steps and examples it takes to reach a training loss, against batch size.

    python analysis/critical_batch.py results/NAME

Implementation: analysis/questions/critical_batch.py.
"""

import sys
from pathlib import Path

from analysis.charts.critical_batch import critical_batch_figure
from analysis.charts.style import save
from analysis.cli.command import run
from analysis.data.load import load_sweep
from analysis.questions.critical_batch import critical_batch_sentence


def main(arguments: list[str]) -> int:
    def show(folder: Path) -> list[object]:
        sweep = load_sweep(folder)
        return [*save(critical_batch_figure(sweep), folder, "critical_batch"), critical_batch_sentence(sweep)]

    return run(show, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
