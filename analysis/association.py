"""How sharpness and the gap go together: which trials enter which rank correlation, and why.

Three views of one question, from the roughest to the fairest:

- pooled: all trials at once. Learning rate and data split move both sides, so it can show what is not there.
- within a learning rate: one number for each.
- matched: ranks are taken inside each set of trials that differ in batch size and switch alone (same learning rate,
  warmup, seed and split), so that the difficulty of a split cannot enter. This is the headline.

And one question more, `beyond_hyperparameters`: what is left inside a replicate when everything that was known before
training (batch size, learning rate, ...) is taken out of both sides. Without it a measure may tell the batch size
alone.

The reference trials. `large_batch_gap` subtracts the small-batch reference, so the reference's own gap is 0
(or, with several seeds on one split, scatters around 0) by construction. Pooled and within a learning rate
the reference trials are therefore left out: as points pinned at the flat end they would raise the correlation
for free. In the matched view the reference's accuracy is a constant of the set, so ranking by gap is ranking
by test error; there the reference is a measurement like any other and stays in. Test error and generalization
gap need no reference: all trials enter.

Trials off target (see analysis.load) are left out of the headline; `with_off_target` is the same with them. Trials with
a remedy are left out of all of it, unless `pool_remedies` asks for them: then the matched sets hold every remedy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd

from analysis.load import NO_REMEDY, NOT_TRAINING, REPLICATE, Measure, Sweep, axes, comparable, measures_of
from analysis.statistics import (
    Correlation,
    GranulatedKendall,
    granulated_kendall,
    rank_correlations,
)

GAP = "large_batch_gap"
TARGETS = (GAP, "test_error", "generalization_gap")
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Association:
    """The rank correlation of one sharpness measure with one target, in each of the views above.

    `within_learning_rate` is given for the large-batch gap alone, and empty for other targets.
    """

    measure: Measure
    target: str
    pooled: Correlation
    within_learning_rate: dict[float, Correlation]
    matched: Correlation
    matched_with_off_target: Correlation
    pooled_with_off_target: Correlation


def associate(sweep: Sweep, measure: Measure, target: str = GAP, *, pool_remedies: bool = False) -> Association:
    """The rank correlation of `measure` with `target` (a column of TARGETS) in every view, in [-1, 1]."""
    return _associations(sweep, target, pool_remedies)[measure]


@lru_cache(maxsize=8)
def _associations(sweep: Sweep, target: str, pool_remedies: bool) -> dict[Measure, Association]:
    """Those of all measures, which share their resamples."""
    everything = compared(sweep, pool_remedies=pool_remedies)
    on_target = everything[~everything["off_target"]]
    rates = sorted(everything["learning_rate"].unique().tolist()) if target == GAP else []
    measures = measures_of(sweep)
    pooled, matched = _plain(on_target, measures, target), _matched(on_target, measures, target)
    same = len(on_target) == len(everything)
    matched_too = matched if same else _matched(everything, measures, target)
    pooled_too = pooled if same else _plain(everything, measures, target)
    by_rate = {rate: _plain(on_target[on_target["learning_rate"] == rate], measures, target) for rate in rates}
    return {
        measure: Association(
            measure=measure,
            target=target,
            pooled=pooled[place],
            within_learning_rate={rate: found[place] for rate, found in by_rate.items()},
            matched=matched[place],
            matched_with_off_target=matched_too[place],
            pooled_with_off_target=pooled_too[place],
        )
        for place, measure in enumerate(measures)
    }


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


def beyond_hyperparameters(frame: pd.DataFrame, columns: Sequence[str], target: str = GAP) -> list[Correlation]:
    """The partial rank correlations inside replicates, given all hyperparameters that vary in `frame` (`given`)."""
    rows = frame[~frame["is_reference"]] if target == GAP else frame
    encoded = [codes for name in given(frame) for codes in _encoded(rows[name])]
    distinct = {tuple(pd.factorize(column, sort=True)[0]): column for column in encoded}  # a switch's options repeat it
    return rank_correlations(
        [rows[column].astype("float64") for column in columns],
        rows[target].astype("float64"),
        list(distinct.values()),
        rows["configuration"],
        strata=rows["replicate"],
        seed=BOOTSTRAP_SEED,
    )


def given(frame: pd.DataFrame) -> list[str]:
    """The hyperparameters that vary in `frame`."""
    return [name for name in axes(frame) if name not in (*REPLICATE, *NOT_TRAINING, "measures")]


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


def _plain(frame: pd.DataFrame, measures: Sequence[Measure], target: str) -> list[Correlation]:
    rows = frame[~frame["is_reference"]] if target == GAP else frame
    return _rank_correlations(rows, measures, target, strata=None)


def _matched(frame: pd.DataFrame, measures: Sequence[Measure], target: str) -> list[Correlation]:
    return _rank_correlations(frame, measures, target, strata=frame["matched_set"])


def _rank_correlations(rows: pd.DataFrame, measures: Sequence[Measure], target: str, strata: Any) -> list[Correlation]:
    return rank_correlations(
        [rows[measure.column].astype("float64") for measure in measures],
        rows[target].astype("float64"),
        (),
        rows["configuration"],
        strata=strata,
        seed=BOOTSTRAP_SEED,
    )


def _encoded(column: pd.Series) -> list[Any]:
    """A hyperparameter as numbers to be ranked: itself and whether it is null, or an indicator for each text."""
    if pd.api.types.is_numeric_dtype(column):
        numbers = column.astype("float64")
        missing = numbers.isna()
        return [numbers.fillna(numbers.max() + 1), *([missing] if missing.any() else [])]
    labels = column.fillna("none").astype(str)
    return [labels == label for label in sorted(labels.unique())[1:]]
