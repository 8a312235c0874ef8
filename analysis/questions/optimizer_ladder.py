"""Which optimizer makes use of large batches, each tuned at every batch size on an equal budget.

Of a folder of sweeps/optimizer_ladder.py: for every goal and optimizer the steps to the goal at each batch size and the
critical batch size (analysis/questions/steps_to_result.py), the seconds to the goal, and the loss after as many
examples as every optimizer has seen at every batch size.

The verdict is about one batch size, the largest at which two optimizers or more come to the goal in every replicate.
There the optimizer with the fewest steps is compared with each of the others:

    ratio = exp(mean over replicates of (log steps of the other - log steps of the fewest))

paired by seed, with t-intervals that hold for all pairs of optimizers together (Bonferroni), because which one has the
fewest steps is chosen by the same runs. So in at most 5 % of sweeps any optimizer is wrongly said to need more.

Traps: an optimizer is as good as its tuning; the counts of settings that reach the goal, and learning rates at an end
of their range, say where to doubt it. Seconds hold the evaluations, and whatever else ran on the machine.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.data.load import Sweep, attempted, load_sweep
from analysis.data.runs import Runs, read_results
from analysis.questions.equal_examples import at_examples, most_examples
from analysis.questions.steps_to_result import first_at
from analysis.questions.tuned_steps import TunedSteps, chosen_settings, of_goal, read_search
from analysis.stats.means import Interval, Mean, mean_over_replicates, paired_difference
from trainables.storage.folders import AnyPath


@dataclass(frozen=True, eq=False)
class RungAtGoal:
    """One optimizer on its way to one goal. By batch size: the `settings` that were chosen, `seconds` to the goal, and
    `losses`, the metric after the ladder's `examples`; a batch size that has none is left out."""

    name: str
    tuned: TunedSteps
    settings: Mapping[int, Mapping[str, float]]
    seconds: Mapping[int, Mean]
    losses: Mapping[int, Mean]


@dataclass(frozen=True, eq=False)
class Fewest:
    """The optimizer with the fewest steps at `batch_size`, and the ratio of each other's steps to its own."""

    batch_size: int
    name: str
    steps: Mean
    ratios: tuple[tuple[str, Mean], ...]


@dataclass(frozen=True, eq=False)
class LadderAtGoal:
    """One goal: every optimizer, in the order in which they were given. `examples`: of the losses, None without any."""

    goal: float
    rungs: tuple[RungAtGoal, ...]
    examples: float | None
    fewest: Fewest | None


def load_ladder(folder: AnyPath) -> list[LadderAtGoal]:
    """A `LadderAtGoal` for each goal, the easiest first. Raises UserError where the folder is not of such a sweep."""

    def find(about: dict[str, Any], tuning: pd.DataFrame) -> list[LadderAtGoal]:
        goals, cells = about["goals"], about["cells"]
        sweep = load_sweep(folder)
        runs = read_results(sweep, goals["column"], goals["direction"], with_remedies=True)
        return [_at_goal(sweep, runs, cells, tuning, k, goal) for k, goal in enumerate(goals["values"])]

    return read_search(folder, find, "sweeps/optimizer_ladder.py")


def _at_goal(
    sweep: Sweep, runs: Runs, cells: list[dict[str, Any]], tuning: pd.DataFrame, number: int, goal: float
) -> LadderAtGoal:
    names = list(dict.fromkeys(cell["optimizer"] for cell in cells))
    own = {name: [cell for cell in cells if cell["optimizer"] == name] for name in names}
    tuned = {name: of_goal(runs, own[name], tuning[tuning["optimizer"] == name], number, goal) for name in names}
    reached = {name: one for name, one in tuned.items() if one.found is not None}
    examples = _equal_examples([one.runs for one in reached.values()])
    times = _times(sweep)
    judged = {name: _judged(one, times, sweep) for name, one in reached.items()}
    rungs = tuple(
        RungAtGoal(
            name=name,
            tuned=tuned[name],
            settings=chosen_settings(own[name], goal),
            seconds=_means(judged[name], "seconds") if name in judged else {},
            losses=_means(at_examples(tuned[name].runs, examples), "value", "linear")
            if name in judged and examples
            else {},
        )
        for name in names
    )
    return LadderAtGoal(goal, rungs, examples, fewest_steps(judged))


def _equal_examples(ladder: list[Runs]) -> float | None:
    """The most examples that all optimizers have seen, but as many as each run has at its first evaluation.

    Runs end at the goal; those that reach it by their first evaluation must not leave the others without a value.
    """
    if not ladder:
        return None
    first = max(float(runs.curves.groupby("run")["examples"].min().max()) for runs in ladder)
    return max(first, min(most_examples(runs) for runs in ladder))


def _times(sweep: Sweep) -> pd.Series:
    """The seconds of training, evaluations included, up to each row of epochs.parquet, by (run, step)."""
    epochs = sweep.epochs.sort_values(["trial_id", "step"])
    seconds = epochs.groupby("trial_id")["seconds"].cumsum()
    return pd.Series(seconds.to_numpy(), index=pd.MultiIndex.from_frame(epochs[["trial_id", "step"]]))


def _judged(one: TunedSteps, times: pd.Series, sweep: Sweep) -> pd.DataFrame:
    """`batch_size`, `replicate`, `steps`, `seconds` and `is_bound` of the runs of the batch sizes whose runs all reach
    the goal."""
    curves = one.runs.curves
    found = times.reindex(pd.MultiIndex.from_frame(curves[["run", "step"]]))
    runs = Runs(
        one.runs.source, one.runs.metric, one.runs.direction, one.runs.about, curves.assign(seconds=found.array)
    )
    reached = first_at(runs, one.goal, ("step", "seconds"))
    replicates = attempted(sweep).set_index("trial_id")["replicate"]
    frame = runs.about[["batch_size"]].assign(
        replicate=replicates.reindex(runs.about.index),
        steps=reached["step"].reindex(runs.about.index),
        seconds=reached["seconds"].reindex(runs.about.index),
        is_bound=reached["is_bound"].reindex(runs.about.index).eq(True),
        matched_set=0,
    )
    assert one.found is not None
    known = [row.batch_size for row in one.found.rows if row.steps is not None]
    return frame[frame["batch_size"].isin(known)]


def _means(frame: pd.DataFrame, value: str, scale: Literal["linear", "log"] = "log") -> dict[int, Mean]:
    found = {int(size): mean_over_replicates(rows, value, scale=scale) for size, rows in frame.groupby("batch_size")}
    return {size: mean for size, mean in found.items() if mean is not None}


def fewest_steps(judged: Mapping[str, pd.DataFrame]) -> Fewest | None:
    """The verdict, from `batch_size`, `replicate`, `steps`, `is_bound` and `matched_set` of the runs of each optimizer.

    Steps that are upper bounds do not show that an optimizer needs more: the interval of its ratio begins at 0.
    None where no batch size has two optimizers.
    """
    sizes = [size for frame in judged.values() for size in frame["batch_size"].unique()]
    compared = [int(size) for size in sizes if sizes.count(size) > 1]
    if not compared:
        return None
    size = max(compared)
    frames = {name: frame[frame["batch_size"] == size] for name, frame in judged.items()}
    frames = {name: frame.assign(log_steps=np.log(frame["steps"])) for name, frame in frames.items() if len(frame)}
    best = min(frames, key=lambda name: frames[name]["log_steps"].mean())
    steps = mean_over_replicates(frames[best], "steps", scale="log")
    assert steps is not None
    pairs = len(frames) * (len(frames) - 1) // 2
    ratios = []
    for name, frame in frames.items():
        difference = paired_difference(frame, frames[best], "log_steps") if name != best else None
        if difference is not None:
            ratios.append((name, _ratio(difference.simultaneous(pairs), is_bound=bool(frame["is_bound"].any()))))
    return Fewest(size, best, steps, tuple(ratios))


def _ratio(difference: Mean, *, is_bound: bool) -> Mean:
    ends = difference.interval
    interval = None if ends is None else Interval(0.0 if is_bound else math.exp(ends.low), math.exp(ends.high))
    return Mean(math.exp(difference.value), interval, difference.replicates, difference.trials, difference.comparisons)
