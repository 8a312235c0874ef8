"""From the options of steps_to_result.py to its plan and answer: each batch size tuned for the fewest steps to goals.

Every study searches the setting with the least cost (sweeps.tuning.goals) on validation examples, with one seed. For
each goal the setting of the batch size that came to it in the fewest steps is then trained again, with other seeds and
other draws of the training examples, and judged on the test set. So the choice flatters no result.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

from analysis.reporting.tuned_steps import tuned_steps_lines
from sweeps.tuning.campaign import Campaign, Cell, Choice, Plan
from sweeps.tuning.goals import Goals
from sweeps.tuning.optuna_study import ACCURACY, COST, LOSS, TuningStudy
from sweeps.tuning.run import metric_of_task, objective_of, plan_of, run_search
from trainables.data import Source
from trainables.runtime.errors import UserError
from trainables.tasks.names import TASKS, require_level

COLUMNS = {LOSS: "test_loss", ACCURACY: "test_accuracy"}  # of epochs.parquet; others: test_metric


def run_steps_to_result(options: argparse.Namespace) -> int:
    """Runs what `sweeps.cli.steps_options.parse` has read, as `sweeps.tuning.run.run_search`."""
    answer = partial(tuned_steps_lines, margin=options.margin)
    return run_search(options, plan_of_goals, GoalCampaign, answer)


def plan_of_goals(options: argparse.Namespace, source: Source) -> Plan:
    """The plan of the options, on a source that has a test set. A trial ends at the hardest goal."""
    objective, maximize = objective_of(options.objective, source.task, "metric")
    _check_goals(options.goal, objective, source.task)
    column = COLUMNS.get(objective, "test_metric")
    values = tuple(sorted(set(options.goal), reverse=not maximize))  # the hardest last
    goals = Goals(column, "higher" if maximize else "lower", values)
    plan = plan_of(options, source)
    target: dict[str, Any] = {"target_test_loss" if objective == LOSS else "target_metric": goals.hardest}
    return dataclasses.replace(
        plan,
        grid=dataclasses.replace(plan.grid, **target),
        rules=dataclasses.replace(plan.rules, objective=COST, maximize=False, goals=values),
        goals=goals,
    )


def _check_goals(goals: Sequence[float], objective: str, task: str) -> None:
    """Raises UserError for a goal that no held-out result can be at."""
    metric, unit, _ = metric_of_task(task)
    for goal in goals:
        if objective != LOSS:
            require_level("goal", goal, metric=metric, unit=unit)
        elif task in TASKS and goal <= 0:
            raise UserError(f"`goal` must be above 0 for the loss of {task}, got {goal:g}")


class GoalCampaign(Campaign):
    """Trains each batch size again at the setting that was the fastest to each goal."""

    def choices(self, cell: Cell) -> dict[str, tuple[TuningStudy, Choice]]:
        assert self.plan.goals is not None
        study = self.studies[cell]
        return {f"{goal!r}": (study, partial(study.fastest, k)) for k, goal in enumerate(self.plan.goals.values)}

    def described(self, cell: Cell) -> dict[str, Any]:
        found = {name: choose() if study.is_finished else None for name, (study, choose) in self.choices(cell).items()}
        chosen = {name: {"number": one[0], **one[1]} for name, one in found.items() if one is not None}
        edges = {name: self.plan.rules_of(cell).space.edges(one[1]) for name, one in found.items() if one is not None}
        return {"chosen": chosen, "edges": edges}
