"""The results so far by batch size, for the terminal: done, primary metric, gap and sharpness.

Metric, gap and sharpness are means over the trials without a switch or remedy (of the sharpness the geometric mean).
The gap is that of the tables: the mean of the reference trials (trainables.records.matching) that have ended, less the
trial, in the direction in which above 0 is worse.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from analysis.data.batch_unit import unit_of_ratios
from analysis.data.metric import ACCURACY, Metric
from trainables.config import NUMBERS_VERSION, TrialConfig
from trainables.records.matching import is_plain, reference_of, smallest_of_studies, study_of
from trainables.remedies import remedy_of

Row = Mapping[str, Any]
NONE_YET = "–"


@dataclass(frozen=True)
class Cells:
    """A row: means over the plain trials of a batch size, None where there are none yet."""

    batch_size: int
    done: int
    planned: int
    metric: float | None
    gap: float | None
    sharpness: float | None


@dataclass(frozen=True)
class _Plain:
    """What a plain trial that has completed adds to its row; `reference` names the trials it is compared with."""

    reference: tuple[object, ...]
    is_reference: bool
    value: float
    sharpness: float | None


class BatchSizeTable:
    """Collects the results of `configs`, and of the rows `ended` of trials.parquet, whose trials do not run again."""

    def __init__(self, configs: Iterable[TrialConfig], ended: Sequence[Row] = ()) -> None:
        rows = [*map(_row, configs), *ended]
        self._planned = Counter(row["batch_size"] for row in rows)
        self._has_others = not all(map(_counts, rows))
        self._smallest = smallest_of_studies(map(study_of, rows), (row["batch_size"] for row in rows))
        self._metric = ACCURACY
        self._done: dict[str, int] = {}
        self._plain: dict[int, dict[str, _Plain]] = {}
        self._tokens: set[float] = set()  # of an example, in the trials that have ended
        for row in ended:
            self._add(row["trial_id"], row)

    def add(self, config: TrialConfig, result: Row) -> None:
        """Add what a trial has reported at its end."""
        self._add(config.trial_id, {**_row(config), **result})

    def _add(self, key: str, row: Row) -> None:
        size = row["batch_size"]
        self._done[key] = size
        if (row.get("examples") or 0) > 0:
            self._tokens.add((row.get("tokens") or 0) / row["examples"])
        value = row.get("test_accuracy") if row.get("test_metric") is None else row["test_metric"]
        if row.get("status") == "completed" and _counts(row) and value is not None:
            self._metric = Metric.of_row(row)
            is_reference = size == self._smallest[study_of(row)]
            self._plain.setdefault(size, {})[key] = _Plain(
                reference_of(row), is_reference, value, row.get("box_sharpness")
            )

    def rows(self) -> list[Cells]:
        """A row for each planned batch size."""
        references: dict[tuple[object, ...], list[float]] = {}
        for plain in self._plain.values():
            for one in plain.values():
                if one.is_reference:
                    references.setdefault(one.reference, []).append(one.value)
        known = {reference: math.fsum(values) / len(values) for reference, values in references.items()}
        done = Counter(self._done.values())
        found = []
        for size in sorted(self._planned):
            own = list(self._plain.get(size, {}).values())
            compared = [one for one in own if not one.is_reference and one.reference in known]
            gap = _mean([self._metric.sign * (known[one.reference] - one.value) for one in compared])
            logs = _mean([math.log(one.sharpness) for one in own if one.sharpness is not None and one.sharpness > 0])
            sharpness = None if logs is None else math.exp(logs)
            value = _mean([one.value for one in own])
            found.append(Cells(size, done[size], self._planned[size], value, gap, sharpness))
        return found

    def table(self) -> Table | None:
        """The rows as they are shown; None where nothing is planned."""
        if not self._planned:
            return None
        metric, unit = self._metric, unit_of_ratios(self._tokens)
        caption = "means of trials without a switch or remedy" if self._has_others else None
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", caption=caption)
        gap = metric.difference_label("gap", short=True)
        for head in ("batch size", "done", metric.label("").strip(), gap, "sharpness [%]"):
            table.add_column(head, justify="right")
        for row in self.rows():
            shown = [
                NONE_YET if row.metric is None else metric.number(row.metric),
                NONE_YET if row.gap is None else metric.signed(row.gap),
                NONE_YET if row.sharpness is None else f"{row.sharpness:.3g}",
            ]
            table.add_row(unit.batch(row.batch_size), f"{row.done}/{row.planned}", *shown)
        return table


def _row(config: TrialConfig) -> Row:
    return {**vars(config), "numbers_version": NUMBERS_VERSION, "remedy": remedy_of(vars(config))}


def _counts(row: Row) -> bool:
    """Whether the trial enters the means: a placebo is a copy of a plain trial with another sharpness."""
    return is_plain(row) and row.get("rescaling") is None


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
