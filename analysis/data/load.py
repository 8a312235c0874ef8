"""A sweep as pandas frames, and which of its trials may enter a number.

The tables are always read by `trainables.records.tables.read_tables`, so a sweep that is still running can be looked
at too. `comparable` is the one place that decides who is compared with whom; every figure and number starts
from it:

- only trials that completed have a minimum to speak of; diverged and failed ones are counted, never averaged;
- a trial that ended before its switch is a copy, number for number, of the trial without a switch: counted
once;
- a trial with the placebo `rescaling` is a copy too, but for its sharpness: only
  analysis.questions.sharpness_intervention looks at it;
- a trial that differs from another only in its seed, and yet has the same initial weights, is no replicate: left out;
- trials that hold out a validation set never saw the test set: they choose settings (`chosen_on_validation`) and stay
  out of every number, unless the sweep has no others;
- `is_plain` trials, without a switch and without a remedy, are what headline figures and the batch-size table show;
- `off_target` trials missed the target loss or, where a classifier had none, have a train accuracy below 99.9 %: at
  another training loss sharpness is not comparable. They are in the tables and drawn hollow, and left out of the
  headline correlation, which is always given with and without them;
- `is_reference` trials are those that `large_batch_gap` is measured from: their own gap is 0 by construction.

Trap: pandas has a `DataFrame.flags` of its own; the column is `frame["flags"]`.
"""

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from analysis.data.batch_unit import BatchUnit, batch_unit_of
from analysis.data.measure_names import measure_in_words, short
from analysis.data.metric import ACCURACY, Metric, metric_of
from analysis.data.progress import LONGEST, read_about
from analysis.data.provenance import notes, one_setting, repeats_weights
from analysis.data.sequential_design import SequentialDesign, read_design
from trainables.config import MEASURING, TrialConfig
from trainables.records.flag_names import ENDED_BEFORE_SWITCH, OFF_TARGET
from trainables.records.matching import MATCHED, SAME_STUDY, smallest_of_studies
from trainables.records.matching import NO_REMEDY as NO_REMEDY
from trainables.records.matching import REPLICATE as REPLICATE
from trainables.records.matching import SWITCH as SWITCH
from trainables.records.schemas import RAW
from trainables.records.tables import of_newest_version, read_tables
from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath, place

CONFIGURATION = tuple(field.name for field in dataclasses.fields(TrialConfig))
NOT_TRAINING = ("validation_size", *sorted(MEASURING))  # they leave the training alone
LARGEST = 1e100  # of a metric: squares of larger ones overflow, so they count as missing, as infinite ones do


@dataclass(frozen=True)
class Measure:
    """A sharpness measure: its column, the row of measures.parquet it is, and its name with the unit."""

    column: str
    label: str
    measure: str
    method: str
    epsilon: float | None = None
    space: str = "full"
    scale: float | None = None


BOX_STRONG = Measure("box_sharpness", "box sharpness, epsilon 1e-3, strong [%]", "box_sharpness", "strong", 1e-3)
BOX_PAPER = Measure("box_sharpness_paper", "box sharpness, epsilon 1e-3, paper [%]", "box_sharpness", "paper", 1e-3)
BOX_STRONG_SMALL = Measure(
    "box_sharpness_5e-4", "box sharpness, epsilon 5e-4, strong [%]", "box_sharpness", "strong", 5e-4
)
BOX_PAPER_SMALL = Measure(
    "box_sharpness_paper_5e-4", "box sharpness, epsilon 5e-4, paper [%]", "box_sharpness", "paper", 5e-4
)
MAX_EIG = Measure("hessian_max_eig", measure_in_words("hessian_max_eig"), "hessian_max_eig", "lanczos")
MEASURES = (BOX_STRONG, BOX_PAPER, BOX_STRONG_SMALL, BOX_PAPER_SMALL, MAX_EIG)


SETTING = ("measure", "method", "epsilon", "scale", "space")  # what tells the rows of one trial apart
IN_TRIALS = (BOX_STRONG, BOX_PAPER, MAX_EIG)  # columns of trials.parquet; all others come from measures.parquet


@dataclass(frozen=True, eq=False)
class Sweep:
    """The tables of a sweep, and what it wrote about itself in sweep.json (None where it did not).

    Trials of an older version of the code are left out where there are newer ones, and each measure of a trial has one
    setting; `notes` says so, a line each (analysis/data/provenance.py). All trials have the primary `metric`. A sweep
    that adds replicates until it is decided has a `sequential` design. `measures` are of the trials' own weights;
    `raw_measures` of the last ones, where a trial's own are an average of them.
    """

    folder: AnyPath
    trials: pd.DataFrame
    epochs: pd.DataFrame
    measures: pd.DataFrame
    raw_measures: pd.DataFrame
    command: tuple[str, ...] | None = None
    started_at: str | None = None
    planned: int | None = None
    notes: tuple[str, ...] = ()
    metric: Metric = ACCURACY
    sequential: SequentialDesign | None = None

    @property
    def name(self) -> str:
        """The name of the sweep: that of its folder."""
        return self.folder.resolve().name

    @property
    def batch_unit(self) -> BatchUnit:
        """What its batch sizes are told in."""
        return batch_unit_of(self.trials)


def load_sweep(folder: str | AnyPath, *, metric: str | None = None, margin: float | None = None) -> Sweep:
    """Everything known of the sweep in `folder`, also of one that still runs.

    Args:
        metric: the primary metric of the trials to look at, where the folder has several; None for the most frequent.
        margin: what a batch size may lose and still count as free, in the unit that the metric is shown in
            (percentage points of accuracy); None for the one that the sweep has fixed, or the metric's own.

    Raises UserError where `folder` holds no sweep, no trial of it has ended yet, or none has the `metric`, and for a
    `margin` that is not above 0.
    """
    folder = place(folder)
    tables, left_out = of_newest_version(read_tables(folder))
    if tables.trials.num_rows == 0:
        raise UserError(f"`results` must hold at least one trial that ended, got none in {folder}")
    trials, epochs, measures = (table.to_pandas() for table in (tables.trials, tables.epochs, tables.measures))
    del tables
    pa.default_memory_pool().release_unused()
    trials = _without_huge(trials)
    is_raw = measures["weights"].eq(RAW)
    (measures, several), (raw_measures, _) = one_setting(measures[~is_raw]), one_setting(measures[is_raw])
    trials, primary, others = metric_of(trials, metric)
    about, design = read_about(folder), read_design(folder)
    command = about.get("command")
    if margin is None and design is not None:
        margin = design.margin
    sweep = Sweep(
        folder=folder,
        trials=trials,
        epochs=epochs,
        measures=measures,
        raw_measures=raw_measures,
        command=None if command is None else tuple(str(word) for word in command),
        started_at=about.get("started_at"),
        planned=about.get("planned"),
        notes=(*([design.note] if design else []), *([others] if others else []), *notes(trials, left_out, several)),
        metric=primary.with_margin(margin),
        sequential=design,
    )
    for measure in IN_TRIALS if several else ():
        value = trials["trial_id"].map(rows_of(sweep, measure)["value"])
        trials[measure.column] = value.where(value.notna(), trials[measure.column])
    return sweep


def _without_huge(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` without losses and metrics beyond LARGEST and times below 0 or beyond LONGEST: only a damaged table has
    them. Sharpness has no upper limit, because it is ranked or its logarithm is used."""
    numbers = frame.select_dtypes("floating")
    metrics = [name for name in numbers if name.endswith(("_loss", "_accuracy", "_metric"))]
    seconds = [name for name in numbers if name.endswith("seconds")]
    return frame.assign(
        **{name: numbers[name].where(numbers[name].abs() <= LARGEST) for name in metrics},
        **{name: numbers[name].where(numbers[name].between(0, LONGEST)) for name in seconds},
    )


def axes(trials: pd.DataFrame) -> dict[str, list[Any]]:
    """The fields of the configuration that vary between trials, with their values in order (None last).

    What was measured is not among them: it is no difference between trials.
    """
    values = {name: _values(trials[name]) for name in CONFIGURATION if name not in MEASURING}
    return {name: found for name, found in values.items() if len(found) > 1}


def constants(trials: pd.DataFrame) -> dict[str, Any]:
    """The fields of the configuration in which all trials agree, with the value (None where it is null)."""
    values = {name: _values(trials[name]) for name in CONFIGURATION}
    return {name: found[0] for name, found in values.items() if len(found) == 1}


def comparable(sweep: Sweep) -> pd.DataFrame:
    """The completed trials, each once, with the columns that the statistics need.

    In a sequential sweep they are those that the last look has seen, so that no result is a look that was not planned.

    `replicate`: number of the (seed, split_seed). `configuration`: number of the configuration of the training but for
    those two. `setting`: number of what is left of it without batch size, switch and remedy (learning rate, warmup,
    ...), the MATCHED of trainables.records.matching. `remedy_set`: number of the (setting, replicate): trials that
    differ in batch size, switch and remedy alone. `matched_set`: the same, and with one remedy. `is_switched`,
    `is_plain`, `is_reference`, `off_target`: see the top of this file. `test_error`: 1 - test accuracy, in [0, 1], or
    what of another metric is the higher, the worse. `test_score`: the metric's negative where lower is better.
    `distance`: l2 distance of the final weights from the start, where it is known. And the column of every measure of
    `measures_of`.
    """
    frame = _completed(sweep)
    tested = frame["validation_size"].isna()
    return frame[tested].copy() if tested.any() else frame.copy()


def attempted(sweep: Sweep) -> pd.DataFrame:
    """All trials that ended, also those that diverged or failed, with `status` and the group columns of `comparable`.

    Where a trial is missing from `comparable`, this says whether it was tried. Trials with a validation set are left
    out as there, and in a sequential sweep those that no look has seen.
    """
    frame = _attempted(sweep)
    tested = frame["validation_size"].isna()
    return frame[tested].copy() if tested.any() else frame.copy()


def chosen_on_validation(sweep: Sweep) -> pd.DataFrame:
    """The completed plain trials that held out a validation set, whose results are that set's; may be empty."""
    frame = _completed(sweep)
    return frame[frame["validation_size"].notna() & frame["is_plain"]].copy()


@lru_cache(maxsize=16)
def _attempted(sweep: Sweep) -> pd.DataFrame:
    trials = sweep.trials if sweep.sequential is None else sweep.sequential.seen(sweep.trials)
    is_copy = has_flag(trials, {ENDED_BEFORE_SWITCH}) | repeats_weights(trials) | trials["rescaling"].notna()
    frame = trials[~is_copy].copy()
    trained = [name for name in CONFIGURATION if name not in (*REPLICATE, *MEASURING)]
    groups = {
        "replicate": REPLICATE,
        "configuration": trained,
        "setting": MATCHED,
        "remedy_set": [*MATCHED, *REPLICATE],
        "matched_set": [*MATCHED, *REPLICATE, "remedy"],
    }
    varying = {name for name in set().union(*groups.values()) if frame[name].nunique(dropna=False) > 1}
    for group, columns in groups.items():
        frame[group] = number_of(frame, [name for name in columns if name in varying])
    frame["is_switched"] = frame["switch_epoch"].notna()
    frame["is_plain"] = ~frame["is_switched"] & frame["remedy"].eq(NO_REMEDY)
    frame["off_target"] = has_flag(frame, OFF_TARGET)
    if sweep.metric.direction == "lower":
        frame[sweep.metric.score] = -frame[sweep.metric.column]
    return frame


@lru_cache(maxsize=16)
def _completed(sweep: Sweep) -> pd.DataFrame:
    frame = _attempted(sweep)
    frame = frame[frame["status"] == "completed"].copy()
    plain = frame[frame["is_plain"]]
    study = number_of(frame, SAME_STUDY).loc[plain.index]
    smallest = study.map(smallest_of_studies(study, plain["batch_size"]))
    frame["is_reference"] = plain["batch_size"].eq(smallest).reindex(frame.index, fill_value=False)
    frame["test_error"] = sweep.metric.errors(frame[sweep.metric.column])
    last = sweep.epochs.sort_values("epoch").drop_duplicates("trial_id", keep="last").set_index("trial_id")
    frame["distance"] = frame["trial_id"].map(last["distance"]).astype("float64")
    for measure in measures_of(sweep):
        if measure in IN_TRIALS:
            continue
        frame[measure.column] = frame["trial_id"].map(rows_of(sweep, measure)["value"]).astype("float64")
    return frame


def measures_of(sweep: Sweep) -> tuple[Measure, ...]:
    """MEASURES, and one for each further setting that measures.parquet has values of, each with its own column.

    A column and a label name what tells a setting from the measure's others: `layer_max_eig_lanczos_3.weight`.
    """
    final = _final_measures(sweep)
    found = {_setting(known): known for known in MEASURES}
    names = list(SETTING)
    settings = final.loc[final["value"].notna() & final["method"].notna(), names].drop_duplicates().sort_values(names)
    for name, rows in settings.groupby("measure"):
        several, spaces = len(rows) > 1, rows["space"].nunique() > 1
        methods = rows["method"].nunique() > 1 or (several and not spaces)
        for _, method, epsilon, scale, space in rows.itertuples(index=False):
            further = [space] if spaces else []
            if pd.notna(epsilon):
                column, label = [method, f"{epsilon:.12g}", *further], [f"epsilon {short(epsilon)}", method, *further]
            else:
                number = [f"{scale:.12g}"] if several and pd.notna(scale) else []
                parts = [method] if methods else []
                column, label = [*parts, *number, *further], [*parts, *(f"scale {part}" for part in number), *further]
            measure = Measure(
                column="_".join([name, *column]),
                label=", ".join([measure_in_words(name), *label]) + (" [%]" if pd.notna(epsilon) else ""),
                measure=name,
                method=method,
                epsilon=None if pd.isna(epsilon) else float(epsilon),
                space=space,
                scale=None if pd.isna(scale) else float(scale),
            )
            found.setdefault(_setting(measure), measure)
    return tuple(found.values())


def rows_of(sweep: Sweep, measure: Measure) -> pd.DataFrame:
    """The final rows of measures.parquet that hold the measure, one for each trial, indexed by trial_id."""
    rows = _final_measures(sweep)
    same = pd.Series(True, index=rows.index)
    for name, value in zip(SETTING, _setting(measure), strict=True):
        same &= rows[name].isna() if value is None else rows[name] == value
    return rows[same].drop_duplicates("trial_id").set_index("trial_id")


@lru_cache(maxsize=16)
def _final_measures(sweep: Sweep) -> pd.DataFrame:
    """The rows of measures.parquet of the final weights: those taken along the run are another matter."""
    done = sweep.measures["trial_id"].map(sweep.trials.set_index("trial_id")["epochs_done"])
    epoch = sweep.measures["epoch"]
    return sweep.measures[epoch.isna() | (epoch == done)]


def _setting(measure: Measure) -> tuple[Any, ...]:
    return measure.measure, measure.method, measure.epsilon, measure.scale, measure.space


def has_flag(trials: pd.DataFrame, flags: frozenset[str] | set[str]) -> Any:
    """Whether each trial carries one of `flags`: a boolean series."""
    found = [not flags.isdisjoint(raised) if raised is not None else False for raised in trials["flags"]]
    return pd.Series(found, index=trials.index, dtype=bool)


def number_of(frame: pd.DataFrame, columns: Any) -> Any:
    """A series that numbers the distinct settings of `columns` in their order, null being the last; 0 without any."""
    codes = np.zeros(len(frame), dtype=np.int64)
    for name in columns:
        part, values = pd.factorize(frame[name], sort=True, use_na_sentinel=False)
        if len(values) > 1:
            codes = np.unique(codes * len(values) + part, return_inverse=True)[1]
    return pd.Series(codes, index=frame.index)


def _values(column: Any) -> list[Any]:
    values = sorted(column.dropna().unique().tolist())
    integers = values and all(isinstance(value, float) and value.is_integer() for value in values)
    if integers and column.name not in (
        "learning_rate",
        "warmup_epochs",
        "weight_decay",
        "target_loss",
        "target_metric",
        "target_test_loss",
        "momentum",
    ):
        values = [int(value) for value in values]  # pandas turns an integer column with nulls into floats
    return [*values, None] if column.isna().any() else values
