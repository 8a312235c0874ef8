"""How sharpness and the gap go together: which trials enter which rank correlation, and why.

Three views of one question, from the roughest to the fairest:

- pooled: all trials of a replicate at once. The learning rate moves both sides, so it can show what is not there.
- within a learning rate: one number for each.
- matched: ranks are taken inside each set of trials that differ in batch size and switch alone (same learning rate,
  warmup, seed and split), so that the learning rate cannot enter. This is the headline.

And one question more, `beyond_hyperparameters`: what is left when everything that was known before training (batch
size, learning rate, ...) is taken out of both sides. Without it a measure may tell the batch size alone.

Each is taken inside every replicate (a seed with its data split) and averaged over them: the difficulty of a split
cannot enter, and the interval speaks of new seeds and splits for this grid of configurations.

The reference trials. `large_batch_gap` subtracts the small-batch reference, so the reference's own gap is 0
(or, with several seeds on one split, scatters around 0) by construction. Pooled and within a learning rate
the reference trials are therefore left out: as points pinned at the flat end they would raise the correlation
for free. In the matched view the reference's result is a constant of the set, so ranking by gap is ranking
by test error; there the reference is a measurement like any other and stays in. Test error and generalization
gap need no reference: all trials enter.

Trials off target (see analysis.data.load) are left out of the headline; `with_off_target` is the same with them. Trials
with a remedy are left out of all of it, unless `pool_remedies` asks for them: then the matched sets hold every remedy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import pandas as pd

from analysis.data.load import (
    BOX_STRONG,
    MAX_EIG,
    NO_REMEDY,
    REPLICATE,
    Measure,
    Sweep,
    axes,
    comparable,
    measures_of,
)
from analysis.stats.rank_correlation import (
    Correlation,
    GranulatedKendall,
    correlation_difference,
    granulated_kendall,
    partial_rank_correlation,
    rank_correlation,
)

GAP = "large_batch_gap"
TARGETS = (GAP, "test_error", "generalization_gap")
JUDGED = (BOX_STRONG, MAX_EIG)  # the answer rests on the first of them that was measured: fixed before values are seen


@dataclass(frozen=True)
class Association:
    """The rank correlation of one sharpness measure with one target, in each of the views above.

    `within_learning_rate` and the same with trials off target are for the large-batch gap alone, empty for others.
    """

    measure: Measure
    target: str
    pooled: Correlation
    within_learning_rate: dict[float, Correlation]
    matched: Correlation
    matched_with_off_target: Correlation
    pooled_with_off_target: Correlation
    within_learning_rate_with_off_target: dict[float, Correlation]


def defined(on_target: Correlation, with_off_target: Correlation) -> tuple[Correlation, bool]:
    """The correlation on target trials or, where that is undefined, on all; and whether it has those off target."""
    is_with = on_target.value is None and with_off_target.value is not None
    return (with_off_target, True) if is_with else (on_target, False)


def judged_measure(sweep: Sweep) -> Measure | None:
    """The measure of sharpness that the answer rests on; None where none of JUDGED was measured."""
    frame = comparable(sweep)
    return next((measure for measure in JUDGED if frame[measure.column].notna().any()), None)


def associate(sweep: Sweep, measure: Measure, target: str = GAP, *, pool_remedies: bool = False) -> Association:
    """The rank correlation of `measure` with `target` (a column of TARGETS) in every view, in [-1, 1]."""
    return _associations(sweep, target, pool_remedies)[measure]


@lru_cache(maxsize=8)
def _associations(sweep: Sweep, target: str, pool_remedies: bool) -> dict[Measure, Association]:
    everything = compared(sweep, pool_remedies=pool_remedies)
    on_target = everything[~everything["off_target"]]
    rates = sorted(everything["learning_rate"].unique().tolist()) if target == GAP else []
    by_rate = {rate: on_target[on_target["learning_rate"] == rate] for rate in rates}
    found = {}
    for measure in measures_of(sweep):
        pooled, matched = _pooled(on_target, measure, target), matched_correlation(on_target, measure.column, target)
        same = len(on_target) == len(everything)
        within = {rate: _pooled(rows, measure, target) for rate, rows in by_rate.items()}
        found[measure] = Association(
            measure=measure,
            target=target,
            pooled=pooled,
            within_learning_rate=within,
            matched=matched,
            matched_with_off_target=matched if same else matched_correlation(everything, measure.column, target),
            pooled_with_off_target=pooled if same else _pooled(everything, measure, target),
            within_learning_rate_with_off_target=within
            if same
            else {rate: _pooled(everything[everything["learning_rate"] == rate], measure, target) for rate in rates},
        )
    return found


def compared(sweep: Sweep, *, pool_remedies: bool = False) -> pd.DataFrame:
    """The trials that correlations are over: those without a remedy, or all, matched across remedies."""
    frame = comparable(sweep)
    if pool_remedies:
        return frame.assign(matched_set=frame["remedy_set"])
    return frame[frame["remedy"] == NO_REMEDY]


def hyperparameters(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The axes of a granulated statistic, as far as they vary, and the columns of the replicate to hold fixed."""
    varying = axes(frame)
    named = [name for name in ("batch_size", "learning_rate", "warmup_epochs", "switch_epoch") if name in varying]
    return [*named, *(["remedy"] if frame["remedy"].nunique() > 1 else [])], [n for n in varying if n in REPLICATE]


def matched_correlation(frame: pd.DataFrame, column: str, target: str = GAP) -> Correlation:
    """The rank correlation inside matched sets."""
    return rank_correlation(frame[column], frame[target], frame["replicate"], strata=frame["matched_set"])


def beats_batch_size(frame: pd.DataFrame, column: str, target: str = GAP) -> Correlation:
    """By how much the matched rank correlation of `column` with the gap exceeds that of batch size alone."""
    rows = frame[column], frame["batch_size"], frame[target]
    return correlation_difference(*rows, frame["replicate"], strata=frame["matched_set"])


def beyond_hyperparameters(frame: pd.DataFrame, columns: Sequence[str], target: str = GAP) -> list[Correlation]:
    """The partial rank correlations given the configuration: all hyperparameters, with all of their interactions."""
    rows = frame[~frame["is_reference"]] if target == GAP else frame
    given = rows["configuration"], rows["replicate"]
    return [partial_rank_correlation(rows[column], rows[target], *given) for column in columns]


def granulated(sweep: Sweep) -> dict[Measure, GranulatedKendall]:
    """The granulated Kendall coefficient of every measure with the test error, inside replicates.

    The axes are batch size, learning rate, warmup and switch epoch, as far as they vary; the test error (not
    the gap, whose reference changes with the learning rate) is the target. On target trials only.
    """
    frame = compared(sweep)
    names, within = hyperparameters(frame)
    frame = frame[~frame["off_target"]]
    return {
        measure: granulated_kendall(frame, measure.column, "test_error", names, within=within)
        for measure in measures_of(sweep)
    }


def _pooled(frame: pd.DataFrame, measure: Measure, target: str) -> Correlation:
    rows = frame[~frame["is_reference"]] if target == GAP else frame
    return rank_correlation(rows[measure.column], rows[target], rows["replicate"])
