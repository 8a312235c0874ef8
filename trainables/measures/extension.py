"""Measuring more of a trial that is already trained: its rows are extended, and nothing in them is lost or repeated.

What was measured of a trial is noted in its row (`measured` of trials.parquet), as texts of `TrialConfig.measurements`.
A sweep that asks for more measures only what is missing there, at the trial's final weights: those that were kept, or,
where they were not, those that the same training reaches again. Both must reproduce the losses of the row. Measures
along the run, and those of the optimizer's steps, need the training itself.

Columns of trials.parquet that hold a measure (`box_sharpness`, ...) are of the newest setting that it was measured
under, and the row's `measures`, `measure_dtype`, ... say which. measures.parquet has the rows of every setting.
"""

import datetime
import json
import math
from collections.abc import Iterable
from typing import Any

from trainables.config import MEASURING, TrialConfig
from trainables.measures.by_name import MEASURES, SEED
from trainables.measuring import ALONG_THE_RUN, OF_STEPS, SHIFT, SHIFTS
from trainables.records.flag_names import FAILED_MEASURE, OF_MEASURES
from trainables.records.schemas import NOISE_COLUMNS, RAW_COLUMNS
from trainables.records.tables import RESULTS, Record, Row
from trainables.training.shifts import with_metrics

REACHED = 1e-3  # relative difference of losses and accuracies: on another machine they agree to rounding only
IN_STEPS = ("noise_scale", "noise_scale_parameters")
IN_TRIALS = ("box_sharpness", "box_sharpness_paper", "hessian_max_eig")
SETTING = ("examples", "batch_norm", "batch_norm_batch_size", "dtype")


class Extension:
    """The rows of a trained trial, which the measures that `config` asks for beyond them are added to."""

    def __init__(self, record: Record, config: TrialConfig) -> None:
        self.epochs = record.epochs
        self._record, self._config = record, config
        self._measured = frozenset(record.trial["measured"] or ())

    @property
    def needs_training(self) -> bool:
        """Whether the final weights are not enough for what is missing."""
        missing = set().union(*self._config.measurements().values()) - self._measured
        missing = {text for text in missing if not text.startswith(SHIFT)}
        at_end = {self._config.measurement(name): name for name in self._config.measurements()}
        return any(at_end.get(text) is None or at_end[text] in OF_STEPS for text in missing)

    def has(self, measurement: str) -> bool:
        """Whether the rows hold what `TrialConfig.measurement` names."""
        return measurement in self._measured

    def difference(self, results: Row) -> str | None:
        """In words where the trained weights are not those of the rows: they have the `results` (RESULTS, `epoch`)."""
        stored = self.epochs[-1]
        if results["epoch"] != stored["epoch"]:
            return f"trained again the trial ended after {results['epoch']:g} epochs, not {stored['epoch']:g}"
        for name in RESULTS:
            if results[name] is None or stored[name] is None:  # the task has no accuracy
                continue
            if not math.isclose(results[name], stored[name], rel_tol=REACHED, abs_tol=1e-6):
                return f"the weights could not be reached again: {name} {results[name]:.6g}, not {stored[name]:.6g}"
        return None

    def extended(self, new: Record) -> Record:
        """The rows with those of `new`, whose `measured` and measure columns are of this run alone."""
        old = self._record
        done = self._measured.union(new.trial["measured"])
        known = {_identity(row) for row in old.measures}
        added = [row for row in new.measures if _identity(row) not in known]
        succeeded = [row for row in added if row.get("error") is None]
        with_values = {_subject(row | {"dtype": dtype}) for row in succeeded for dtype in (row.get("dtype"), "auto")}
        kept = [row for row in old.measures if row.get("error") is None or _subject(row) not in with_values]
        rows = [*kept, *added]
        flags = [*old.trial["flags"], *(flag for flag in new.trial["flags"] if flag in OF_MEASURES)]
        flags = [flag for flag in dict.fromkeys(flags) if flag != FAILED_MEASURE]
        if any(row.get("error") is not None and row["epoch"] == old.trial["epochs_done"] for row in rows):
            flags.append(FAILED_MEASURE)
        changes: Row = {}
        if new.trial["measured"] and self._names_its_columns(new):  # nothing was where the weights were not reached
            changes = {name: new.trial[name] for name in (*MEASURING, *IN_TRIALS)}
            for name in (*ALONG_THE_RUN, "noise_scale", *IN_TRIALS):
                changes[name] = old.trial[name] if changes[name] is None else changes[name]
            changes["measures"] = ",".join(name for name in MEASURES if self._config.measurement(name) in done)
        epochs, steps = old.epochs, set(self._config.in_steps) & set(new.trial["measured"])
        if steps:
            found = {row["step"]: {name: row[name] for name in NOISE_COLUMNS} for row in new.epochs}
            epochs = [row | found.get(row["step"], {}) for row in epochs]
        changes |= {
            **{name: (new if steps else old).trial[name] for name in IN_STEPS},
            **{name: new.trial[name] if old.trial[name] is None else old.trial[name] for name in RAW_COLUMNS},
            "shifts": ",".join(name for name in SHIFTS if SHIFT + name in done) or None,
            "metrics": with_metrics(old.trial["metrics"], json.loads(new.trial["metrics"] or "{}")),
            "measured": sorted(done),
            "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "flags": flags,
            "sharpness_seconds": math.fsum(row["seconds"] or 0.0 for row in rows),
            "error": None,
        }
        return Record(old.trial | changes, epochs, rows)

    def _names_its_columns(self, new: Record) -> bool:
        """Whether the setting of `new` is that of the columns IN_TRIALS from now on, so that the row names it."""
        old = self._record.trial
        others = {"measures", "shifts", "noise_scale", *ALONG_THE_RUN}
        is_same = all(new.trial[name] == old[name] for name in MEASURING - others)
        known, found = ([row[name] for name in IN_TRIALS if row[name] is not None] for row in (old, new.trial))
        return is_same or bool(found) or not known

    def failed(self, error: str) -> Record:
        """The rows as they are, and the reason why they could not be extended: a later run tries again."""
        return Record({**self._record.trial, "error": error}, self.epochs, self._record.measures)


def measured_by(config: TrialConfig) -> list[str]:
    """`measured` of a trial that was measured as `config` asks."""
    return sorted(set[str]().union(*config.measurements().values()))


def failed_row(measure: str, reason: str, seconds: float) -> Row:
    """The row of a measure without a value."""
    return {"measure": measure, "value": None, "seconds": seconds, "seed": SEED, "error": reason}


def _identity(row: Row) -> tuple[Any, ...]:
    return (*_subject(row), *_values(row, ("method", "epsilon", "scale")), row.get("space") or "full")


def _subject(row: Row) -> tuple[Any, ...]:
    return _values(row, ("epoch", "weights", "measure", *SETTING))


def _values(row: Row, names: Iterable[str]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in names)
