"""The primary metric of a sweep: what the gap and every sentence about it are in, with its unit and its direction.

    score   the metric, with its sign turned where lower is better: a larger score is always better
    gap     score of the small batch minus score of the large one: above 0 the large batch is worse
    gain    score with a remedy minus score without: above 0 the remedy helps

Every question is computed with scores, so the answers are the same for a metric and for its negative; levels and
changes are shown in the metric's own direction. Metrics with the unit "points" lie in [0, 1] and are shown in percent,
their differences in percentage points.

Each trial says in `metric`, `metric_unit` and `metric_direction` what its `train_metric` and `test_metric` are. Trials
from before there were other metrics than accuracy have none of these columns and are read as accuracy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from trainables.runtime.errors import UserError

Direction = Literal["higher", "lower"]
NOUNS = {
    "nats": "loss",
    "auc": "AUC",
    "f1": "F1",
    "mse": "MSE",
    "r2": "R2",
    "mean_average_precision": "mean average precision",
}
DEFAULT_MARGINS = {
    "points": 0.005,  # 0.5 percentage points
    "nats per token": 0.01,  # 1 % of the perplexity
}
IN_NATS = ("accuracy", "balanced_accuracy", "nats", "auc", "f1", "mean_average_precision")  # their losses are
DIGITS = 4  # of a metric that is not in points


@dataclass(frozen=True)
class Metric:
    """A primary metric. `margin`: what a batch size may lose and still count as free, in the metric's own scale; None
    where the unit has no default and none was given. `decimals`: of its values as they are shown.
    """

    name: str = "accuracy"
    unit: str = "points"
    direction: Direction = "higher"
    margin: float | None = DEFAULT_MARGINS["points"]
    decimals: int = 2

    @staticmethod
    def of_row(row: Mapping[str, Any]) -> "Metric":
        """The metric of a row of trials.parquet, or of what a trial reports; accuracy where it names none."""
        if not row.get("metric"):
            return ACCURACY
        unit = row["metric_unit"] or ""
        return Metric(row["metric"], unit, row["metric_direction"], DEFAULT_MARGINS.get(unit), 2)

    @property
    def is_share(self) -> bool:
        """Whether its values are in [0, 1] and shown in percent."""
        return self.unit == "points"

    @property
    def factor(self) -> float:
        """From its own scale to the one it is shown in."""
        return 100.0 if self.is_share else 1.0

    @property
    def sign(self) -> float:
        """From the metric to its score."""
        return 1.0 if self.direction == "higher" else -1.0

    @property
    def column(self) -> str:
        """The column of its values on the test set."""
        return "test_accuracy" if self.name == "accuracy" else "test_metric"

    @property
    def train_column(self) -> str:
        """The column of its values on the training set."""
        return "train_accuracy" if self.name == "accuracy" else "train_metric"

    @property
    def score(self) -> str:
        """The column of its scores on the test set, in the frames of `analysis.data.load.comparable`."""
        return self.column if self.direction == "higher" else "test_score"

    @property
    def noun(self) -> str:
        """Its name in a sentence: `accuracy`, `loss`, `AUC`."""
        return NOUNS.get(self.name, self.name.replace("_", " "))

    @property
    def difference_unit(self) -> str:
        """The unit of a difference, in a sentence."""
        return "percentage points" if self.is_share else self.unit

    def label(self, of: str = "test") -> str:
        """The label of an axis or a column, such as `test accuracy [%]`."""
        return f"{of} {self.noun}".strip() + _bracketed("%" if self.is_share else self.unit)

    def difference_label(self, what: str, *, short: bool = False) -> str:
        """The label of a difference, such as `gain [percentage points]`; in short `gain [% points]`."""
        return what + _bracketed("% points" if short and self.is_share else self.difference_unit)

    @property
    def gap_label(self) -> str:
        return self.difference_label("large-batch gap")

    @property
    def error(self) -> str:
        """The name of the column `test_error`, by which statistics of ranks order trials: the higher, the worse."""
        if self.name == "accuracy":
            return "test error"
        if self.direction == "lower":
            return f"test {self.noun}"
        return f"{'1 ' if self.is_share else ''}− test {self.noun}"

    @property
    def error_label(self) -> str:
        """The label of `test_error`."""
        return self.error + _bracketed("%" if self.is_share else self.unit)

    @property
    def loss_unit(self) -> str:
        """The unit of the losses that are trained with, in brackets; empty where it is not known to be nats."""
        return " [nats]" if self.name in IN_NATS else ""

    def errors(self, values: pd.Series) -> pd.Series:
        """The column `test_error` of values of the metric."""
        if self.direction == "lower":
            return values
        return 1.0 - values if self.is_share else -values

    def number(self, value: float) -> str:
        """A value or difference as it is shown, without its unit: `94.20`."""
        return f"{round(self.factor * value, self.decimals) + 0.0:.{self.decimals}f}"  # + 0.0: no negative zero

    def signed(self, value: float) -> str:
        """A difference with its sign: `+0.96`."""
        return f"{round(self.factor * value, self.decimals) + 0.0:+.{self.decimals}f}".replace("-", "−")

    def difference(self, value: float) -> str:
        """A difference with its unit: `0.96 percentage points`."""
        return f"{self.number(value)} {self.difference_unit}".strip()

    def signed_difference(self, value: float) -> str:
        """A difference with its sign and unit: `+0.96 percentage points`."""
        return f"{self.signed(value)} {self.difference_unit}".strip()

    def named(self, value: float, of: str = "test") -> str:
        """A value with its name for the terminal: `94.20 % test accuracy`, `test loss 1.523 nats per token`."""
        if self.is_share:
            return f"{100 * value:.2f} % {of} {self.noun}"
        return f"{of} {self.noun} {value:.4g} {self.unit}".strip()

    def loses(self, lost: float, where: str = "") -> str:
        """What a batch size loses: `loses 0.96 percentage points`, `is 0.031 nats per token worse`."""
        amount = self.difference(abs(lost))
        if self.direction == "higher":
            return f"{'gains' if lost < 0 else 'loses'} {amount}{where}"
        return f"is {amount} {'better' if lost < 0 else 'worse'}{where}"

    def shown_margin(self) -> str:
        """The margin with its unit: `0.5 percentage points`."""
        assert self.margin is not None
        return f"{self.factor * self.margin:g} {self.difference_unit}".strip()

    def with_margin(self, shown: float | None) -> "Metric":
        """The same with a margin in the scale that it is shown in, such as 0.5 for percentage points; None: its own.

        Raises UserError for a margin that is not above 0.
        """
        if shown is None:
            return self
        if not 0 < shown < math.inf:
            raise UserError(f"`--margin` must be above 0, in {self.difference_unit or self.name}, got {shown:g}")
        return replace(self, margin=shown / self.factor)


ACCURACY = Metric()


def metric_of(trials: pd.DataFrame, chosen: str | None = None) -> tuple[pd.DataFrame, Metric, str | None]:
    """The trials of one task and metric; the metric; and a sentence on what was left out (None: nothing).

    Where a folder holds several they are those whose metric or task is `chosen`, or those that most trials have. Trials
    that failed before they had a metric belong to any.

    Raises UserError where no trial has the `chosen` metric, and for one whose direction is neither higher nor lower.
    """
    about = ["task", "metric", "metric_unit", "metric_direction"]
    groups = {key: len(rows) for key, rows in trials.groupby(about, sort=True)}  # without those that have none
    if not groups:
        groups = {(None, ACCURACY.name, ACCURACY.unit, ACCURACY.direction): 0}
    kept = max((key for key in groups if chosen in (None, *key[:2])), key=lambda key: groups[key], default=None)
    if kept is None:
        names = ", ".join(sorted({key[1] for key in groups}))
        raise UserError(f"`--metric` must be a primary metric of these trials ({names}), got {chosen}")
    _, name, unit, direction = kept
    if direction not in get_args(Direction):
        raise UserError(f"`results` must hold metrics of which higher or lower is better, got {direction} for {name}")
    same = [trials[column] == value for column, value in zip(about, kept, strict=True)]
    is_other = trials["metric"].notna() & ~np.logical_and.reduce(same)
    trials = trials[~is_other].copy() if is_other.any() else trials
    without = trials["metric"].isna()
    if without.any():  # to be matched with the others
        trials = trials.assign(task=trials["task"].mask(without, kept[0]))
    metric = Metric(name, unit, direction, DEFAULT_MARGINS.get(unit))
    if not metric.is_share:
        metric = replace(metric, decimals=_decimals(trials["test_metric"]))
    others = [f"{count} of {key[0]} ({key[1]})" for key, count in groups.items() if key != kept]
    note = None
    if others:
        note = (
            f"These results are of {kept[0]} ({name}). Trials of another task or primary metric are left out: "
            f"{', '.join(others)}; `--metric` shows them."
        )
    return trials, metric, note


def _decimals(values: pd.Series) -> int:
    """So many that a typical value has DIGITS digits."""
    size = float(values.abs().median())
    if not 0 < size < math.inf:
        return DIGITS - 1
    return min(12, max(0, DIGITS - 1 - math.floor(math.log10(size))))


def _bracketed(unit: str) -> str:
    return f" [{unit}]" if unit else ""
