"""Which measure predicts the gap? A leaderboard of all measures, with batch size and other baselines for comparison.

    python analysis/leaderboard.py results/NAME

Implementation: analysis/questions/leaderboard.py.
"""

import sys

from analysis.charts.leaderboard import leaderboard_figure
from analysis.charts.style import save
from analysis.cli.command import run_on_sweep
from analysis.data.load import Sweep
from analysis.questions.leaderboard import leaderboard, leaderboard_lines


def main(arguments: list[str]) -> int:
    def show(sweep: Sweep) -> list[object]:
        return [*leaderboard_lines(leaderboard(sweep)), *save(leaderboard_figure(sweep), sweep.folder, "leaderboard")]

    return run_on_sweep(show, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
