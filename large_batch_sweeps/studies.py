"""The questions of the studies beyond the default sweep, each answered by a DataFrame with 95 % intervals.

Those of `python sweeps/scaling_rules.py`, `branched_batch.py` and `sharpness_intervention.py` take results; those of
searches (`tuned_gap.py`, `optimizer_ladder.py`) take their folder, which also holds the tuning trials. Each raises
UserError where the study is not in there. Tables are in fractions of accuracy, or in the metric's own unit.
"""

from collections.abc import Iterable

import pandas as pd

from analysis.questions import branched_batch as branches
from analysis.questions import data_size as sizes
from analysis.questions import optimizer_ladder as ladder
from analysis.questions import scaling_rules as rules
from analysis.questions import sharpness_intervention as interventions
from analysis.questions import time_to_result as times
from analysis.questions.sweep_parts import sweep_parts
from analysis.questions.tuned_cells import load_tuned_gap
from large_batch_sweeps.arguments import number
from large_batch_sweeps.frames import frame_of, row_of, with_interval
from large_batch_sweeps.results import SweepResults, folder_of, sweep_of, sweeps_of
from trainables.storage.folders import AnyPath


def tuned_gap(folder: str | AnyPath) -> pd.DataFrame:
    """The results of `python sweeps/tuned_gap.py`: each batch size and remedy at the setting that tuning chose."""
    return frame_of(load_tuned_gap(folder_of(folder)).cells)


def optimizer_ladder(folder: str | AnyPath) -> pd.DataFrame:
    """The results of `python sweeps/optimizer_ladder.py`: a row for each goal, optimizer and batch size.

    `steps` and `examples` to the goal; `loss`, the metric after the ladder's `loss_at` examples.
    """
    rows = []
    for one in ladder.load_ladder(folder_of(folder)):
        for rung in one.rungs:
            reached = {} if rung.tuned.found is None else {row.batch_size: row for row in rung.tuned.found.rows}
            for size in sorted({*reached, *rung.losses}):
                row = row_of(reached[size]) if size in reached else {"batch_size": size}
                loss = with_interval("loss", rung.losses.get(size))
                rows.append({"goal": one.goal, "optimizer": rung.name, **row, **loss, "loss_at": one.examples})
    return pd.DataFrame(rows)


def scaling_rules(results: SweepResults) -> pd.DataFrame:
    """The results of `python sweeps/scaling_rules.py`: each rule's setting at each batch size.

    `gain`: of retuning over the rule. `within`: the largest batch size up to which the rule is within the margin;
    `worse`: the smallest from which on it is worse.
    """
    found = rules.referee(sweep_of(results))
    return pd.DataFrame(
        {
            "rule": judged.rule.name,
            "batch_size": one.batch_size,
            "learning_rate": one.config.learning_rate,
            **with_interval("gain", one.gain),
            "diverged": one.carried.diverged,
            "within": judged.within,
            "worse": judged.worse,
        }
        for judged in found.rules
        for one in judged.verdicts
    )


def branched_batch(results: SweepResults, *, margin: float | None = None) -> pd.DataFrame:
    """The results of `python sweeps/branched_batch.py`: each branch at each moment of the training.

    `excess`: of its held-out loss over the trunk's. `within`: the largest batch size that loses less than `margin`.
    """
    found = branches.branched_batch(sweep_of(results), number("margin", margin))
    return pd.DataFrame(
        {
            "at": point.at,
            "window": point.window,
            "batch_size": branch.batch_size,
            **with_interval("excess", branch.excess),
            "diverged": branch.diverged,
            "within": point.boundary.within,
            "beyond": point.boundary.beyond,
            "margin": found.margin,
        }
        for point in found.points
        for branch in point.branches
    )


def data_size(results: SweepResults | Iterable[SweepResults], *, loss: float | None = None) -> pd.DataFrame:
    """How the critical batch size grows with the training set: a row for each number of training examples.

    `results`: of one sweep with several `train_size`, or of several sweeps. `NAME_exponent`: of the power law of `NAME`
    over all sizes, null where too few determine it. Default `loss`: the one of the sweeps.
    """
    found = sizes.data_sizes(sweeps_of(results), number("loss", loss))
    laws = {}
    for scaling in found.scalings:
        law = scaling.law
        laws[f"{scaling.name}_exponent"] = None if law is None else law.exponent
        laws[f"{scaling.name}_exponent_low"] = None if law is None else law.exponent_interval.low
        laws[f"{scaling.name}_exponent_high"] = None if law is None else law.exponent_interval.high
    return pd.DataFrame({"train_size": size, **row_of(one), **laws} for size, one in found.found.items())


def sharpness_intervention(results: SweepResults) -> pd.DataFrame:
    """How much of the gap each measure mediates: a row for each measure and test set.

    `share` = `mediated` / `total`. `agreement`: the p-value for all interventions having one slope. `strength`: F of
    the first stage, below 10 too weak an experiment (`is_weak`). docs/intervention.md.
    """
    found = interventions.explained(sweep_of(results))
    return pd.DataFrame(
        {"measure": one.name, **row_of(one), **row_of(one.found), "is_weak": one.found.is_weak} for one in found
    )


def time_to_result(results: SweepResults, *, metric: str | None = None, goal: float | None = None) -> pd.DataFrame:
    """Seconds to a `goal` of `metric` at each batch size, by the throughput of the sweep's own trials.

    A row for each goal and batch size, and for each optimizer (`part`) where there are several. `metric` is the test
    loss unless a search had another one.
    """
    _, found = times_found(results, metric, goal)
    return pd.concat([frame_of(one.rows).assign(goal=one.goal) for one in found], ignore_index=True)


def times_found(results: SweepResults, metric: str | None, goal: float | None) -> tuple[str, list[times.TimeToResult]]:
    """The metric, and the times to each of its goals that a batch size reaches."""
    sweep, goal = sweep_of(results), number("goal", goal)
    whole = sweep_parts(sweep, None if goal is None else [goal], metric)
    throughput = times.throughput_of_rows(sweep, whole.parts)
    return whole.metric, times.times_to_goals(whole, throughput)[0]


__all__ = [
    "branched_batch",
    "data_size",
    "optimizer_ladder",
    "scaling_rules",
    "sharpness_intervention",
    "time_to_result",
    "tuned_gap",
]
