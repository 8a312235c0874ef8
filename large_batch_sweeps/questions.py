"""The questions of a sweep, each answered by a DataFrame: estimates with `_low` and `_high`, their 95 % intervals.

Definitions: docs/statistics.md. Each raises UserError where the sweep lacks what it needs.
"""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from analysis.data.load import comparable, measures_of
from analysis.data.metric import Direction
from analysis.data.runs import Runs, read_frame, read_results
from analysis.questions import association as associations
from analysis.questions import averaging as averages
from analysis.questions import critical_batch as critical
from analysis.questions import free_batch as free
from analysis.questions import importance as shares
from analysis.questions import leaderboard as board
from analysis.questions import remedies as bought_back
from analysis.questions import steps_to_result as steps
from analysis.questions import threshold_batch as threshold
from analysis.questions.tuned_steps import asked_of_search, is_search, load_tuned_steps
from analysis.reporting.gap_answer import by_batch_size as means
from analysis.stats.means import paired_difference
from analysis.stats.wording import exact_number
from large_batch_sweeps.arguments import column_of_numbers, number, one_of
from large_batch_sweeps.frames import frame_of, row_of, with_interval
from large_batch_sweeps.results import SweepResults, sweep_of
from trainables.runtime.errors import UserError


def free_batch(
    results: SweepResults, *, comparison: Literal["matched", "tuned"] = "matched", margin: float | None = None
) -> pd.DataFrame:
    """Which batch sizes lose no more than `margin` against the smallest: `lost`, and whether each is `free`.

    `tuned`: each batch size at the learning rate that its other replicates choose.
    """
    one_of("comparison", comparison, get_args(free.Comparison))
    found = free.free_batch(sweep_of(results), comparison, number("margin", margin))
    if found is None:
        raise UserError("`results` must hold plain trials at two batch sizes or more, got none that can be compared")
    return frame_of(found.rows).assign(margin=found.margin, reference=found.reference)


def critical_batch(results: SweepResults, *, target_loss: float | None = None) -> pd.DataFrame:
    """Steps and examples to a training loss at each batch size; each row has the fit (`b_crit`, `s_min`, `e_min`)."""
    found = critical.critical_batch(sweep_of(results), number("target_loss", target_loss))
    fit = {
        name: value for name, value in row_of(found).items() if name.startswith(("b_crit", "s_min", "e_min", "target"))
    }
    return frame_of(found.rows).assign(**fit)


def association(results: SweepResults, *, target: str = associations.GAP) -> pd.DataFrame:
    """The rank correlation of each sharpness measure with `target` in each view, a row for each measure."""
    sweep = sweep_of(results)
    one_of("target", target, board.target_labels(sweep))
    found = [associations.associate(sweep, measure, target) for measure in measures_of(sweep)]
    return pd.DataFrame([{"measure": one.measure.column, "label": one.measure.label, **row_of(one)} for one in found])


def leaderboard(results: SweepResults, *, target: str = associations.GAP) -> pd.DataFrame:
    """How well each measure predicts `target`, best first, with baselines such as batch size for comparison."""
    one_of("target", target, board.target_labels(sweep_of(results)))
    return board.leaderboard_frame(board.leaderboard(sweep_of(results), target))


def importance(results: SweepResults, *, target: str | None = None) -> pd.DataFrame:
    """The share of the variance of `target` that each hyperparameter and pair explains, in a complete grid.

    `target`: a column of the trials, such as "large_batch_gap"; None for the primary metric on the test set. Shares
    have no intervals: they describe this grid, and a few replicates are too few to resample. `corrected_p` (Holm) says
    which sources are significant.
    """
    sweep = sweep_of(results)
    if target is not None:
        column_of_numbers("target", target, comparable(sweep))
    return frame_of(shares.importance(sweep, target).rows)


def remedies(results: SweepResults) -> pd.DataFrame:
    """What each remedy gains over plain training at the same large batch, and the share of the gap it wins back."""
    found = bought_back.remedies(sweep_of(results))
    if not found:
        raise UserError("`results` must hold trials with a remedy beside plain ones, got none")
    return frame_of(found).assign(helps=[one.helps for one in found])


def averaging(results: SweepResults) -> pd.DataFrame:
    """What each average of the weights changes within its trials, against their last, raw weights."""
    found = averages.averaging(sweep_of(results))
    if not found:
        raise UserError("`results` must hold trials with an `average` and their raw weights' results, got none")
    return frame_of(found)


def compare(results: SweepResults, first: str, second: str, *, value: str | None = None) -> pd.DataFrame:
    """`first` minus `second` at each batch size, two values of the column `remedy` (plain training is "none").

    The difference of column `value` (None: the primary metric on the test set) is paired inside replicates, over trials
    that differ in the remedy alone.
    """
    sweep = sweep_of(results)
    frame = comparable(sweep)
    value = sweep.metric.column if value is None else value
    known = sorted(frame["remedy"].unique())
    for name in (first, second):
        one_of("remedy", name, known)
    column_of_numbers("value", value, frame)
    frame = frame[~frame["is_switched"]]
    rows: list[dict[str, Any]] = []
    for size, of_size in frame.groupby("batch_size"):
        one, other = (of_size[of_size["remedy"] == name] for name in (first, second))
        found = paired_difference(one, other, value, match="remedy_set")
        if found is not None:
            rows.append({"batch_size": size, "first": first, "second": second, **with_interval("difference", found)})
    if not rows:
        raise UserError(f"`results` must hold trials of {first} and {second} that differ in that alone, got none")
    return pd.DataFrame(rows)


def steps_to_result(
    runs: SweepResults | pd.DataFrame,
    *,
    metric: str | None = None,
    goal: float | None = None,
    direction: Direction | None = None,
    settings: Sequence[str] | None = None,
) -> pd.DataFrame:
    """The fewest steps to a `goal` of `metric` at each batch size, and what it costs in examples.

    `runs`: results, or a DataFrame of your own with `run`, `batch_size`, `step`, `metric`, and optionally `seed` and
    settings, a row for each evaluation. `settings`: the columns of this DataFrame that are settings; None: those that
    look like settings. A warning says which columns do not. Default goal: the best that every batch size reaches.

    Of `python sweeps/steps_to_result.py` these are the settings that the search chose and its metric, with a row for
    each of its goals and batch sizes. Elsewhere the default metric is `test_loss`.
    """
    goal = number("goal", goal)
    if settings is not None and not isinstance(settings, Iterable):
        raise UserError(f"`settings` must be a list of columns, got {settings!r}")
    one_of("direction", direction, (None, *get_args(Direction)))
    if isinstance(runs, SweepResults):
        if settings is not None:
            raise UserError("`settings` is for a DataFrame of your own, got a sweep, whose settings are known")
        found, answers = steps_found(runs, metric, goal, direction)
    elif not isinstance(runs, pd.DataFrame):
        raise UserError(f"`runs` must be results or a DataFrame, got {type(runs).__name__}")
    else:
        found = read_frame(Path("runs"), runs, metric or "test_loss", direction, named=settings)
        answers = [steps.steps_to_result(found, steps.default_goal(found) if goal is None else goal)]
    for note in found.notes:
        warnings.warn(note, stacklevel=2)
    return pd.concat(
        [
            frame_of(answer.rows).assign(
                goal=answer.goal,
                **with_interval("b_crit", answer.critical),
                within_overhead=answer.overhead.within,
                beyond_overhead=answer.overhead.beyond,
            )
            for answer in answers
        ],
        ignore_index=True,
    )


def steps_found(
    results: SweepResults, metric: str | None, goal: float | None, direction: Direction | None = None
) -> tuple[Runs, list[steps.StepsToResult]]:
    """The runs of a sweep and the answer for `goal`; of a search by default for each of its goals that is reached."""
    sweep = sweep_of(results)
    if not is_search(sweep.folder):
        runs = read_results(sweep, metric or "test_loss", direction)
        return runs, [steps.steps_to_result(runs, steps.default_goal(runs) if goal is None else goal)]
    asked = asked_of_search(load_tuned_steps(sweep.folder), None if goal is None else [goal], metric, direction)
    answers = [one.found for one in asked if one.found is not None]
    if not answers:
        said = " or ".join(exact_number(one.goal) for one in asked)
        raise UserError(f"`goal` must be reached in every replicate at some batch size; none reaches {said}")
    return asked[0].runs, answers


def threshold_batch(results: SweepResults) -> pd.DataFrame:
    """The batch size from which on the metric falls, in one row: `threshold`, `slope` per doubling and `fall`.

    `threshold` is null without a significant fall; `is_located` says whether it lies
    beyond the smallest batch and its interval leaves out most batch sizes.
    """
    found = threshold.threshold_batch(sweep_of(results))
    return frame_of([found]).assign(is_located=found.is_located)


def by_batch_size(results: SweepResults) -> pd.DataFrame:
    """The means of plain trials at each batch size: `level` of the metric, `gap`, box sharpness, largest eigenvalue."""
    return frame_of(means(sweep_of(results)))


__all__ = [
    "association",
    "averaging",
    "by_batch_size",
    "compare",
    "critical_batch",
    "free_batch",
    "importance",
    "leaderboard",
    "remedies",
    "steps_to_result",
    "threshold_batch",
]
