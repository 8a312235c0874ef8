"""Steps to a result against batch size, for any runs: perfect scaling, where it ends, and the largest useful batch.

    python analysis/steps_to_result.py results/steps_to_result         (of sweeps/steps_to_result.py, or any sweep)
    python analysis/steps_to_result.py runs.csv --metric val_loss --goal 3.5 3.3 --margin 0.02
    python analysis/steps_to_result.py chart.csv --runs runs.csv --metric val/loss          (two exports of W&B)
    python analysis/steps_to_result.py logs --metric val/loss                               (TensorBoard)
    python analysis/steps_to_result.py cifar_10/resnet_8/sgd --metric val/classification_error   (Shallue et al.)

Implementation: analysis/questions/steps_to_result.py. The layout of a CSV file: analysis/data/runs.py.
Which columns are settings: analysis/data/settings.py.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from analysis.charts.steps_to_result import steps_to_result_figure
from analysis.charts.style import save
from analysis.cli.command import run_with_options
from analysis.cli.sources import add_sources, refuse_without_effect, runs_of
from analysis.questions.equal_examples import equal_examples_words
from analysis.questions.goals import of_each_goal
from analysis.questions.steps_to_result import default_goal, lines, steps_to_result
from analysis.questions.tuned_steps import is_search
from analysis.reporting.tuned_steps import tuned_steps_lines
from trainables.runtime.numbers import number


def main(arguments: list[str]) -> int:
    return run_with_options(_show, arguments, __doc__, _add)


def _add(parser: argparse.ArgumentParser) -> None:
    add_sources(parser)
    parser.add_argument(
        "--goal",
        nargs="+",
        type=number(),
        metavar="X",
        help="goals (default: the goals of the search, or the best value that every batch size reaches)",
    )
    parser.add_argument(
        "--margin",
        type=number(),
        metavar="X",
        help="say which batch sizes lose less than this to the smallest after as many examples",
    )


def _show(options: argparse.Namespace) -> list[object]:
    if is_search(Path(options.results)):
        refuse_without_effect(options)
        return [
            *tuned_steps_lines(Path(options.results), options.margin, options.goal, options.metric, options.direction)
        ]
    runs = runs_of(options)
    goals, unanswered = of_each_goal(options.goal or [default_goal(runs)], partial(steps_to_result, runs))
    folder = runs.source if runs.source.is_dir() else runs.source.parent
    said = [line for found in goals for line in lines(runs, found)] + unanswered
    said.append(equal_examples_words(runs, options.margin))
    return [*save(steps_to_result_figure(runs, goals), folder, "steps_to_result"), *said]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
