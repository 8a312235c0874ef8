"""Which measure predicts the gap? Every measure of a sweep beside what is known for nothing: a leaderboard.

    python analysis/leaderboard.py results/NAME

Implementation: analysis/questions/leaderboard.py.
"""

import sys
from pathlib import Path

from analysis.charts.leaderboard import leaderboard_figure
from analysis.charts.style import save
from analysis.cli.command import run
from analysis.data.load import load_sweep
from analysis.questions.leaderboard import leaderboard, leaderboard_lines


def main(arguments: list[str]) -> int:
    def show(folder: Path) -> list[object]:
        sweep = load_sweep(folder)
        return [*leaderboard_lines(leaderboard(sweep)), *save(leaderboard_figure(sweep), folder, "leaderboard")]

    return run(show, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
