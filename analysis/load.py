"""A sweep as pandas frames, and which of its trials may enter a number.

The tables are always read by `trainables.tables.read_tables`, so a sweep that is still running can be looked
at too. `comparable` is the one place that decides who is compared with whom; every figure and number starts
from it:

- only trials that completed have a minimum to speak of; diverged and failed ones are counted, never averaged;
- a trial that ended before its switch is a copy, number for number, of the trial without a switch: counted
once;
- `off_target` trials (missed the target loss, or train accuracy below 99.9 %) sit at another training loss, where
  sharpness means something else: in the tables and drawn hollow, left out of the headline correlation, which is
  always given with and without them;
- `is_reference` trials are those that `large_batch_gap` is measured from: their own gap is 0 by construction.

Trap: pandas has a `DataFrame.flags` of its own; the column is `frame["flags"]`.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.tables import SAME_STUDY, read_tables

CONFIGURATION = tuple(field.name for field in dataclasses.fields(TrialConfig))
REPLICATE = ("seed", "split_seed")
SWITCH = ("switch_epoch", "switch_batch_size", "switch_learning_rate", "switch_optimizer_state")
OFF_TARGET_FLAGS = frozenset({"missed target loss", "train accuracy below 99.9 %"})
COPY_FLAG = "ended before its switch"
PAPER_FLAG = "paper method far below strong"


@dataclass(frozen=True)
class Measure:
    """A sharpness measure: its column, the row of measures.parquet it is, and its name with the unit."""

    column: str
    label: str
    measure: str
    method: str
    epsilon: float | None = None
    space: str = "full"


BOX_STRONG = Measure("box_sharpness", "box sharpness, epsilon 1e-3, strong [%]", "box_sharpness", "strong", 1e-3)
BOX_PAPER = Measure("box_sharpness_paper", "box sharpness, epsilon 1e-3, paper [%]", "box_sharpness", "paper", 1e-3)
BOX_STRONG_SMALL = Measure(
    "box_sharpness_5e-4", "box sharpness, epsilon 5e-4, strong [%]", "box_sharpness", "strong", 5e-4
)
BOX_PAPER_SMALL = Measure(
    "box_sharpness_paper_5e-4", "box sharpness, epsilon 5e-4, paper [%]", "box_sharpness", "paper", 5e-4
)
MAX_EIG = Measure("hessian_max_eig", "largest Hessian eigenvalue, hessian_max_eig", "hessian_max_eig", "lanczos")
MEASURES = (BOX_STRONG, BOX_PAPER, BOX_STRONG_SMALL, BOX_PAPER_SMALL, MAX_EIG)


IN_TRIALS = (BOX_STRONG, BOX_PAPER, MAX_EIG)  # columns of trials.parquet; all others come from measures.parquet


@dataclass(frozen=True, eq=False)
class Sweep:
    """The tables of a sweep, and what it wrote about itself in sweep.json (None where it did not)."""

    folder: Path
    trials: pd.DataFrame
    epochs: pd.DataFrame
    measures: pd.DataFrame
    command: tuple[str, ...] | None = None
    started_at: str | None = None
    planned: int | None = None

    @property
    def name(self) -> str:
        """The name of the sweep: that of its folder."""
        return self.folder.resolve().name


def load_sweep(folder: str | Path) -> Sweep:
    """Everything known of the sweep in `folder`, also of one that still runs.

    Raises UserError where `folder` holds no sweep, or no trial of it has ended yet.
    """
    folder = Path(folder)
    tables = read_tables(folder)
    if tables.trials.num_rows == 0:
        raise UserError(f"`results` must hold at least one trial that ended, got none in {folder}")
    about = _about(folder / "sweep.json")
    command, started_at, planned = about.get("command"), about.get("started_at"), about.get("planned")
    return Sweep(
        folder=folder,
        trials=tables.trials.to_pandas(),
        epochs=tables.epochs.to_pandas(),
        measures=tables.measures.to_pandas(),
        command=tuple(str(word) for word in command) if isinstance(command, list) else None,
        started_at=started_at if isinstance(started_at, str) else None,
        planned=planned if isinstance(planned, int) else None,
    )


def axes(trials: pd.DataFrame) -> dict[str, list[Any]]:
    """The fields of the configuration that vary between trials, with their values in order (None last)."""
    values = {name: _values(trials[name]) for name in CONFIGURATION}
    return {name: found for name, found in values.items() if len(found) > 1}


def constants(trials: pd.DataFrame) -> dict[str, Any]:
    """The fields of the configuration in which all trials agree, with the value (None where it is null)."""
    values = {name: _values(trials[name]) for name in CONFIGURATION}
    return {name: found[0] for name, found in values.items() if len(found) == 1}


def comparable(sweep: Sweep) -> pd.DataFrame:
    """The completed trials, each once, with the columns that the statistics need.

    `replicate`: number of the (seed, split_seed). `configuration`: number of the configuration but for those
    two. `matched_set`: number of the trials that differ in nothing but batch size and switch. `is_switched`,
    `is_reference`, `off_target`: see the top of this file. `test_error`: 1 - test accuracy, in [0, 1].
    And the column of every measure of `measures_of`.
    """
    trials = sweep.trials
    frame = trials[(trials["status"] == "completed") & ~has_flag(trials, {COPY_FLAG})].copy()
    frame["replicate"] = number_of(frame, REPLICATE)
    frame["configuration"] = number_of(frame, [name for name in CONFIGURATION if name not in REPLICATE])
    changed = {"batch_size", *SWITCH}
    frame["matched_set"] = number_of(frame, [name for name in CONFIGURATION if name not in changed])
    frame["is_switched"] = frame["switch_epoch"].notna()
    frame["off_target"] = has_flag(frame, OFF_TARGET_FLAGS)
    pure = frame[~frame["is_switched"]]
    smallest = pure.groupby(number_of(frame, SAME_STUDY).loc[pure.index])["batch_size"].transform("min")
    frame["is_reference"] = pure["batch_size"].eq(smallest).reindex(frame.index, fill_value=False)
    frame["test_error"] = 1.0 - frame["test_accuracy"]
    for measure in measures_of(sweep):
        if measure in IN_TRIALS:
            continue
        frame[measure.column] = frame["trial_id"].map(_values_of(sweep.measures, measure)).astype("float64")
    return frame


def measures_of(sweep: Sweep) -> tuple[Measure, ...]:
    """MEASURES, and one for each further setting that measures.parquet has values of."""
    settings = sweep.measures.loc[sweep.measures["value"].notna(), ["measure", "method", "epsilon", "space"]]
    found = list(MEASURES)
    for row in settings.drop_duplicates().sort_values(["measure", "epsilon", "method"]).itertuples():
        epsilon = None if pd.isna(row.epsilon) else float(row.epsilon)
        setting = (row.measure, row.method, epsilon, row.space)
        if setting not in [(known.measure, known.method, known.epsilon, known.space) for known in found]:
            label = row.measure if epsilon is None else f"{row.measure}, epsilon {epsilon:g}, {row.method} [%]"
            column = row.measure if epsilon is None else f"{row.measure}_{row.method}_{epsilon:g}"
            found.append(Measure(column, label, row.measure, row.method, epsilon, row.space))
    return tuple(found)


def has_flag(trials: pd.DataFrame, flags: frozenset[str] | set[str]) -> Any:
    """Whether each trial carries one of `flags`: a boolean series."""
    found = [not flags.isdisjoint(raised) if raised is not None else False for raised in trials["flags"]]
    return pd.Series(found, index=trials.index, dtype=bool)


def number_of(frame: pd.DataFrame, columns: Any) -> Any:
    """A series that numbers the distinct settings of `columns`, null being a setting like any other."""
    return frame.groupby(list(columns), dropna=False).ngroup()


def _values(column: Any) -> list[Any]:
    values = sorted(column.dropna().unique().tolist())
    integers = values and all(isinstance(value, float) and value.is_integer() for value in values)
    if integers and column.name not in (
        "learning_rate",
        "warmup_epochs",
        "weight_decay",
        "target_loss",
        "momentum",
    ):
        values = [int(value) for value in values]  # pandas turns an integer column with nulls into floats
    return [*values, None] if column.isna().any() else values


def _values_of(measures: pd.DataFrame, wanted: Measure) -> Any:
    rows = measures[
        (measures["measure"] == wanted.measure)
        & (measures["method"] == wanted.method)
        & (measures["epsilon"].isna() if wanted.epsilon is None else measures["epsilon"] == wanted.epsilon)
        & (measures["space"] == wanted.space)
    ]
    return rows.drop_duplicates("trial_id").set_index("trial_id")["value"]


def _about(path: Path) -> dict[str, Any]:
    """sweep.json, or nothing where it is absent or not whole: it only says where the sweep came from."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
