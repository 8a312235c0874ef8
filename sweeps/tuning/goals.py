"""What a search for the fewest steps to a goal minimizes.

    cost = mean over goals g of    log(steps to g)                            where the trial reaches g
                                   log(steps it took) + |best - g| / |g|      where it does not; best: the best seen

So a trial that reaches a goal sooner is better, and of two that never do the one that comes closer is. A trial is at a
goal where its held-out value first is, on a line between two evaluations, as in analysis/questions/steps_to_result.py.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.data.metric import Direction
from analysis.stats.steps_to_loss import first_at_goal
from sweeps.tuning.optuna_study import Outcome
from trainables.records.tables import Row


@dataclass(frozen=True)
class Goals:
    """`values` of `column` of epochs.parquet (test_loss, test_metric or test_accuracy), of which some are better."""

    column: str
    direction: Direction
    values: tuple[float, ...]

    @property
    def hardest(self) -> float:
        """The goal that ends a trial."""
        return (min if self.direction == "lower" else max)(self.values)

    def noted(self, outcome: Outcome, epochs: Sequence[Row]) -> Outcome:
        """`outcome` with `steps_to_goals` and `cost`, from the trial's rows of epochs.parquet."""
        sign = 1.0 if self.direction == "lower" else -1.0
        seen = [(row["step"], sign * row[self.column]) for row in epochs if row[self.column] is not None]
        seen = [(step, value) for step, value in seen if math.isfinite(value)]
        if not seen:
            return dataclasses.replace(outcome, steps_to_goals=[None] * len(self.values))
        rows = pd.DataFrame(seen, columns=["step", "value"], dtype="float64").assign(run=0)
        steps: list[float | None] = []
        costs: list[float] = []
        for goal in self.values:
            found = first_at_goal(rows, rows["value"] <= sign * goal, sign * goal, "run")["step"]
            steps.append(max(1.0, float(found.iloc[0])) if len(found) else None)
            short = abs(rows["value"].min() - sign * goal) / (abs(goal) or 1.0)
            costs.append(math.log(steps[-1] or max(1, outcome.steps)) + (0.0 if len(found) else short))
        return dataclasses.replace(outcome, steps_to_goals=steps, cost=math.fsum(costs) / len(costs))
