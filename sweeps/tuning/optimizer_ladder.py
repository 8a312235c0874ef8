"""From the options of optimizer_ladder.py to its plan and answer: steps_to_result.py, with the optimizer as an axis.

Every optimizer has an Optuna study at every batch size, all with the same budget and the same number of ratios between
the ends of the range of learning rates that they are given. The fastest setting to each goal is then judged by other
seeds, as sweeps/tuning/steps_to_result.py says.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.reporting.optimizer_ladder import ladder_lines
from sweeps.cli.ladder_options import Rung
from sweeps.plan.grid import Grid
from sweeps.tuning.campaign import Cell, Plan
from sweeps.tuning.optuna_study import Rules
from sweeps.tuning.run import run_search
from sweeps.tuning.steps_to_result import GoalCampaign, plan_of_goals
from trainables.data import Source


def run_optimizer_ladder(options: argparse.Namespace) -> int:
    """Runs what `sweeps.cli.ladder_options.parse` has read, as `sweeps.tuning.run.run_search`."""
    return run_search(options, plan_of_ladder, GoalCampaign, ladder_lines)


@dataclass(frozen=True, kw_only=True)
class Ladder(Plan):
    """A plan whose cells are the batch sizes of every one of `rungs`."""

    rungs: Sequence[Rung]

    @property
    def cells(self) -> list[Cell]:
        sizes = sorted(set(self.grid.batch_sizes))
        return [self._cell(size, rung.remedy, rung.words) for rung in self.rungs for size in sizes]

    def rules_of(self, cell: Cell) -> Rules:
        rules = super().rules_of(cell)
        return dataclasses.replace(rules, space=dataclasses.replace(rules.space, **self._rung(cell).ranges))

    def grid_of(self, cell: Cell) -> Grid:
        rung = self._rung(cell)
        return dataclasses.replace(self.grid, optimizers=[(rung.optimizer, rung.options)], momentum=rung.momentum)

    def _rung(self, cell: Cell) -> Rung:
        return next(rung for rung in self.rungs if rung.words == cell.rung)


def plan_of_ladder(options: argparse.Namespace, source: Source) -> Ladder:
    """The plan of the options, on a source that has a test set."""
    plan = plan_of_goals(options, source)
    return Ladder(**{field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}, rungs=options.rungs)
