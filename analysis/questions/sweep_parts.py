"""The parts of a sweep that need different times for the same number of examples, and the steps of each to its goals.

A part has trials of one optimizer, network and size of training set (`TELLS_APART`), because the throughput of SGD says
nothing about SOAP. In a folder of sweeps/steps_to_result.py or sweeps/optimizer_ladder.py a search on validation
examples chose the settings. There the parts are the entries of the ladder, or the one optimizer of the search. Their
goals and steps are those of the search (analysis/questions/tuned_steps.py), and their trials are those that judge it.
In every other sweep the trials that are judged also choose the fastest setting (analysis/questions/steps_to_result.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from analysis.data.load import Sweep, attempted, number_of
from analysis.data.metric import Direction
from analysis.data.runs import read_results
from analysis.questions.optimizer_ladder import load_ladder
from analysis.questions.steps_to_result import StepsToResult, default_goal, steps_to_result
from analysis.questions.tuned_steps import TunedSteps, asked_of_search, is_ladder, is_search, load_tuned_steps
from analysis.stats.wording import exact_number
from trainables.records.matching import NO_REMEDY
from trainables.runtime.errors import UserError

TELLS_APART = (
    "optimizer", "optimizer_options", "model", "model_options", "train_size", "precision", "parameter_groups",
    "optimizer_fingerprint", "model_fingerprint",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Part:
    """The completed `trials` of a part, and its `steps` by goal, None where no batch size reaches it.

    `name` is empty where the sweep has only one part.
    """

    name: str
    trials: pd.DataFrame
    steps: Mapping[float, StepsToResult | None]

    def holds(self, values: Mapping[str, object]) -> bool:
        """Whether there are trials, all are plain and have these `values` in the columns of the same names, where
        known."""
        found = {name: set(self.trials[name].dropna()) for name in values}
        return (
            not self.trials.empty
            and bool(self.trials["remedy"].eq(NO_REMEDY).all())
            and all(found[name] <= {value} for name, value in values.items())
        )


@dataclass(frozen=True, eq=False)
class SweepParts:
    """All parts of a sweep; `goals` are values of `metric`."""

    metric: str
    goals: tuple[float, ...]
    parts: tuple[Part, ...]


def sweep_parts(
    sweep: Sweep, goals: Sequence[float] | None = None, metric: str | None = None, direction: Direction | None = None
) -> SweepParts:
    """The parts of `sweep`.

    Args:
        goals: None for those of a search, or else for the best value that every batch size reaches.
        metric: the metric of the goals, None for that of a search, or else for the test loss.
        direction: whether lower or higher values are better, None for the search's, or else by the metric's name.

    Raises UserError where no part reaches any goal, for goals that a search did not have, and where the sweep has
    several datasets.
    """
    if is_search(sweep.folder):
        found = _of_search(sweep, goals, metric, direction)
    else:
        found = _of_trials(sweep, goals, metric or "test_loss", direction)
    if not any(steps for part in found.parts for steps in part.steps.values()):
        said = " or ".join(map(exact_number, found.goals))
        raise UserError(f"`--goal` must be reached by every replicate at some batch size; none reaches {said}")
    return found


def _of_search(
    sweep: Sweep, goals: Sequence[float] | None, metric: str | None, direction: Direction | None
) -> SweepParts:
    tuned: dict[str, list[TunedSteps]] = {}
    if is_ladder(sweep.folder):
        for level in load_ladder(sweep.folder):
            for rung in level.rungs:
                tuned.setdefault(rung.name, []).append(rung.tuned)
    else:
        tuned[""] = load_tuned_steps(sweep.folder)
    searched = next(iter(tuned.values()))
    kept = tuple(one.goal for one in asked_of_search(searched, goals, metric, direction))
    trials = _completed(sweep)
    parts = []
    for name, levels in tuned.items():
        judging = {run for one in levels for run in one.runs.about.index}
        steps = {one.goal: one.found for one in levels if one.goal in kept}
        parts.append(Part(name, trials[trials["trial_id"].isin(judging)], steps))
    return SweepParts(searched[0].runs.metric, kept, tuple(parts))


def _of_trials(sweep: Sweep, goals: Sequence[float] | None, metric: str, direction: Direction | None) -> SweepParts:
    runs = read_results(sweep, metric, direction)
    wanted = tuple(dict.fromkeys(goals or [default_goal(runs)]))
    trials = _completed(sweep)
    trials = trials[trials["is_plain"]]
    if len(datasets := sorted(trials["dataset"].dropna().unique())) > 1:
        raise UserError(f"`--sweep` must hold trials of one dataset, got {' and '.join(datasets)}")
    everything = sweep.trials
    groups = number_of(everything, [name for name in TELLS_APART if everything[name].nunique(dropna=False) > 1])
    parts, errors = [], []
    for number in sorted(groups[everything["trial_id"].isin(runs.about.index)].unique()):
        members = set(everything.loc[groups == number, "trial_id"])
        own = runs
        if groups.nunique() > 1:
            own = read_results(_only(sweep, members), metric, runs.direction)
        steps: dict[float, StepsToResult | None] = {}
        for goal in wanted:
            try:
                steps[goal] = steps_to_result(own, goal)
            except UserError as error:  # no batch size reaches it in every replicate
                errors.append(error)
                steps[goal] = None
        parts.append(Part("", trials[trials["trial_id"].isin(members)], steps))
    if not any(found for part in parts for found in part.steps.values()):
        raise errors[0]
    names = _names([part.trials for part in parts]) if len(parts) > 1 else [""]
    return SweepParts(
        runs.metric, wanted, tuple(replace(part, name=name) for part, name in zip(parts, names, strict=True))
    )


def _completed(sweep: Sweep) -> pd.DataFrame:
    trials = attempted(sweep)
    return trials[trials["status"] == "completed"]


def _only(sweep: Sweep, members: set[str]) -> Sweep:
    """`sweep` with these trials alone."""
    return replace(
        sweep,
        trials=sweep.trials[sweep.trials["trial_id"].isin(members)],
        epochs=sweep.epochs[sweep.epochs["trial_id"].isin(members)],
    )


def _names(parts: Sequence[pd.DataFrame]) -> Iterator[str]:
    """A name for each part: the values that differ between parts, as few columns as tell all parts apart."""
    values = [{name: str(trials[name].iloc[0]) for name in TELLS_APART} for trials in parts]
    used: list[str] = []
    for name in TELLS_APART:
        told = {tuple(one[column] for column in used) for one in values}
        if len({tuple(one[column] for column in (*used, name)) for one in values}) > len(told):
            used.append(name)
    for one in values:
        bare = ("optimizer", "model")
        yield ", ".join(one[name] if name in bare else f"{name.replace('_', ' ')} {one[name]}" for name in used)
