"""The metric of each batch size after the same number of examples: the third definition of a largest useful batch.

The examples are the most that some setting of every batch size has seen in all replicates, and each batch size is at
the setting that is best then (analysis/questions/best_setting.py). A batch size is no worse than the smallest where it
loses less than a margin (one-sided, 2.5 %, in a fixed order: analysis/stats/fixed_order.py).
analysis/questions/steps_to_result.py has the other two definitions.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.data.runs import Runs
from analysis.questions.best_setting import CHOSEN, at_best_setting
from analysis.questions.steps_to_result import mean_words, why_not_compared
from analysis.stats.fixed_order import Boundary, boundary, boundary_words
from analysis.stats.means import Mean, mean_over_replicates, paired_difference
from analysis.stats.wording import plain_number
from trainables.runtime.errors import UserError


@dataclass(frozen=True)
class EqualExamples:
    """`value` of each batch size after `examples`, and by how much it is worse than the smallest batch's.

    `boundary`: None without a `margin`. `left_out`: the batch sizes that no setting has a value of in every replicate.
    """

    examples: float
    margin: float | None
    rows: tuple[tuple[int, Mean, Mean | None], ...]
    boundary: Boundary | None
    left_out: tuple[int, ...]


def at_examples(runs: Runs, examples: float) -> pd.DataFrame:
    """`batch_size`, `value` of the metric after `examples`, and the rest of `about`, of each batch size's best setting.

    A batch size is left out where no setting was evaluated so early in every replicate.
    """
    values = runs.curves.groupby("run").apply(_value_at, examples, include_groups=False)
    frame = runs.about.assign(value=values, matched_set=0)
    frame["to_choose_by"] = (runs.sign * frame["value"]).fillna(np.inf)
    return at_best_setting(frame, "to_choose_by")


def equal_examples(runs: Runs, margin: float | None) -> EqualExamples:
    """The metric after the same number of examples, the most possible, against the smallest batch's.

    Without a `margin` the differences are not judged. A batch size is left out where no setting was evaluated so early
    in every replicate. Raises UserError where that leaves none, and for a margin that is not above 0.
    """
    if margin is not None and not 0 < margin < np.inf:
        raise UserError(f"`margin` must be a number above 0, in units of {runs.metric}, got {margin:g}")
    budget = most_examples(runs)
    chosen = at_examples(runs, budget)
    if chosen.empty:
        raise UserError(
            f"`source` must hold evaluations before {plain_number(budget)} examples, the longest that every batch size "
            "was trained for, got none; evaluate more often"
        )
    smallest = chosen[chosen["batch_size"] == chosen["batch_size"].min()]
    rows: list[tuple[int, Mean, Mean | None]] = []
    worse: list[tuple[int, Mean | None]] = []
    for size, own in chosen.groupby("batch_size"):
        is_chosen = bool(own[CHOSEN].any())
        mean = mean_over_replicates(own, "value", chosen=is_chosen)
        assert mean is not None
        is_chosen |= bool(smallest[CHOSEN].any())
        pair = (own, smallest) if runs.sign > 0 else (smallest, own)
        difference = paired_difference(*pair, "value", chosen=is_chosen) if rows else None
        if rows:
            worse.append((int(size), difference))
        rows.append((int(size), mean, difference))
    left_out = sorted({*runs.about["batch_size"]} - {size for size, *_ in rows})
    judged = None if margin is None else boundary(worse, margin)
    return EqualExamples(budget, margin, tuple(rows), judged, tuple(left_out))


def most_examples(runs: Runs) -> float:
    """The most examples that some setting of every batch size has seen in all replicates.

    Batch sizes without a value after step 0, such as those that diverge before, do not count.
    """
    longest = runs.curves[runs.curves["step"] > 0].groupby("run")["examples"].max()
    complete = longest.reindex(runs.about.index).groupby([runs.about["batch_size"], runs.about["setting"]]).min()
    return float(complete.groupby("batch_size").max().min())


def equal_examples_line(runs: Runs, found: EqualExamples) -> str:
    unit = runs.batch_unit
    values = ", ".join(f"{mean_words(mean)} at batch {unit.batch(size)}" for size, mean, _ in found.rows)
    seen = f"{plain_number(found.examples * unit.per_example)} {unit.of_data}"
    text = f"After {seen} {runs.metric} is {values}."
    if found.left_out:
        sizes = ", ".join(map(unit.batch, found.left_out))
        text += f" Left out: batch {sizes}, at which no setting has a value by then in every replicate."
    if len(found.rows) < 2:
        return f"{text} One batch size alone has a value, so none is compared with it."
    if found.boundary is None:
        return f"{text} Add --margin X to test which batch sizes lose less than X to the smallest."
    (smallest, mean, _), *others = found.rows
    why = why_not_compared({smallest: mean, **{size: difference for size, _, difference in others}}, unit)
    shown = boundary_words(found.boundary, unit.batch)
    return f"{text} Within {found.margin:g} of the smallest batch: {shown}{why}."


def equal_examples_words(runs: Runs, margin: float | None) -> str:
    """The line of `equal_examples`, or why there is none. Raises UserError for a margin that is not above 0."""
    try:
        return equal_examples_line(runs, equal_examples(runs, margin))
    except UserError as error:
        if margin is not None and not 0 < margin < np.inf:
            raise
        return f"No comparison at equal examples: {error}."


def _value_at(curve: pd.DataFrame, examples: float) -> float:
    """The value of one run after `examples`, on a line between evaluations; NaN before the first and after the last."""
    seen, values = curve["examples"].to_numpy(np.float64), curve["value"].to_numpy(np.float64)
    is_seen = seen[0] * (1 - 1e-9) <= examples <= seen[-1] * (1 + 1e-9)
    return float(np.interp(examples, seen, values)) if is_seen else np.nan
