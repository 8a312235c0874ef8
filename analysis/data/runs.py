"""Training runs of any origin, as two frames: the settings of each run, and a metric over its steps.

analysis/data/read_runs.py reads them from a results folder of this project, a CSV file, or an export of other tools.

A CSV file has a row for each run and evaluation, in any order:

    run,batch_size,step,val_loss,learning_rate,seed
    a,64,100,2.31,0.001,0
    a,64,200,1.87,0.001,0

Semicolons and tabs may separate the columns too, and with semicolons numbers may have decimal commas.

`batch_size` (in examples or tokens), `step` (optimizer updates done) and a metric are needed. `run` may be left out
where all other columns together tell the runs apart; `seed` names replicates. Columns that are the same all along every
run are its setting (learning rate, warmup, ...), but for results and names of runs (analysis/data/settings.py); those
that change are metrics. `--column step=global_step` renames.

Traps: without seeds, runs of one setting count as its replicates in the order of their names. A run whose metric is
infinite somewhere diverged: it is at no goal from there on. Empty values are evaluations that were not made.
"""

import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.batch_sizes import of_known_size, without_factors
from analysis.data.batch_unit import EXAMPLES, BatchUnit
from analysis.data.column_names import HIGHER, LOWER
from analysis.data.load import Sweep, attempted
from analysis.data.metric import Direction
from analysis.data.settings import choose_settings
from analysis.data.what_was_run import what_was_run
from trainables.records.matching import MATCHED
from trainables.runtime.errors import UserError, one_line, quoted
from trainables.storage.folders import AnyPath, check_is_file

NEEDED = ("batch_size", "step")
OURS = (*NEEDED, "run", "seed")
PEEKED = 1 << 16  # bytes of a file that show how its columns are separated
LARGEST = 2.0**53  # up to which floating-point numbers count whole steps and examples


@dataclass(frozen=True, eq=False)
class Runs:
    """What was run, `about`, indexed by run: `batch_size`, `setting` (its number), `text` (in words), `replicate`, and
    `changes_size`, whether the batch size of the run changes from `batch_size`.

    `curves`: `run`, `step`, `examples`, `value`, in order of steps, finite values only. `examples` are those that a
    trial of this project counted, and elsewhere step x batch_size. `metric` is what the values are, and `direction`
    which of them are better. `notes` say what was taken for what, a line each. `sweep`: of a results folder.
    """

    source: AnyPath
    metric: str
    direction: Direction
    about: pd.DataFrame
    curves: pd.DataFrame
    notes: tuple[str, ...] = ()
    batch_unit: BatchUnit = EXAMPLES
    sweep: Sweep | None = None

    @property
    def sign(self) -> float:
        """1 where lower values are better, else -1."""
        return 1.0 if self.direction == "lower" else -1.0


def read_frame(
    source: AnyPath,
    frame: pd.DataFrame,
    metric: str,
    direction: Direction | None,
    about: pd.DataFrame | None = None,
    counted: pd.Series | None = None,
    *,
    named: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Runs:
    """`Runs` of rows with `run`, `step`, `metric` and, there or in `about` (indexed by run), what was run.

    Args:
        about: has no column but `batch_size`, `seed` and settings; None: these are chosen among the columns of `frame`.
            Rows of runs that are not in it do not count.
        counted: the examples of each row; None: step x batch_size.
        named: the settings among the columns of `frame`; None: by the rules of analysis/data/settings.py.
        notes: of what has read the frames.

    Raises UserError where a column is missing or no number.
    """
    if about is None:
        frame = _one_row_each(source, frame)
    _check_results(source, frame, metric)
    if about is None:
        about = _constant_columns(frame, metric)
        if "batch_size" not in about:
            raise UserError(
                f"`source` must have a column 'batch_size', the same all along a run, got none in {source.name}"
            )
        about, size_notes = of_known_size(about, source)
        about, setting_notes = choose_settings(source, about, named)
        notes = (*size_notes, *setting_notes)
    sizes = pd.to_numeric(about["batch_size"], errors="coerce").astype("float64")
    bad = sizes.isna() | (sizes <= 0) | (sizes % 1 != 0) | (sizes > LARGEST)
    if bad.any():
        got = about.loc[bad, "batch_size"].iloc[0]
        raise UserError(f"`batch_size` must be whole numbers above 0, up to 2^53, in {source.name}, got {got}")
    steps = pd.to_numeric(frame["step"], errors="coerce").astype("float64")
    values = pd.to_numeric(frame[metric], errors="coerce").astype("float64")
    if (bad := values.isna() & frame[metric].notna()).any():
        raise UserError(
            f"`metric` {metric} must be numbers in {source.name}, got {quoted(frame.loc[bad, metric].iloc[0])}"
        )
    bad = values.notna() & ~steps.between(0, LARGEST)
    if bad.any():
        raise UserError(f"`step` must be numbers from 0 to 2^53 in {source.name}, got {frame.loc[bad, 'step'].iloc[0]}")
    examples = steps * frame["run"].map(sizes).astype("float64") if counted is None else counted
    columns = {"run": frame["run"], "step": steps, "examples": examples, "value": values}
    curves = pd.DataFrame({name: column.array for name, column in columns.items()}).dropna()
    if curves.empty:
        raise UserError(f"`metric` {metric} must have values in {source.name}, got none")
    curves = curves.sort_values(["run", "step"], ignore_index=True)
    curves = curves[np.isfinite(curves["value"]).groupby(curves["run"]).cummin()].reset_index(drop=True)
    found, run_notes = what_was_run(about.assign(batch_size=sizes.astype("int64")), {*curves["run"]}, metric)
    said = (*notes, *run_notes, *_mixed_units(curves, metric))
    return Runs(source, metric, direction or direction_of(metric), found.assign(changes_size=False), curves, said)


def _check_results(source: AnyPath, frame: pd.DataFrame, metric: str) -> None:
    """Raises UserError where `frame` has no column `metric`, or that or `step` is of a kind that counts nothing."""
    if metric not in frame or metric in OURS:
        numbers = [name for name in frame.select_dtypes("number") if name not in OURS]
        some = f"such as {', '.join(numbers[:8])}" if numbers else "there is no other column of numbers"
        raise UserError(f"`metric` must be a column of results in {source.name}, got {metric!r}; {some}")
    for name in ("step", metric):
        if frame[name].dtype.kind in "cmM":
            raise UserError(f"`{name}` must be numbers in {source.name}, got {frame[name].dtype}")


def read_csv(
    source: Path,
    metric: str,
    direction: Direction | None,
    columns: Mapping[str, str],
    named: Sequence[str] | None = None,
) -> Runs:
    """`Runs` of a CSV file in the layout of the top of this file; `columns`: its names for ours; `named`: settings."""
    frame = renamed(source, read_table(source), columns)
    return read_frame(source, frame, metric, direction, named=named)


def renamed(source: Path, frame: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """`frame` with our names for its columns, in place of columns that have them already.

    The batch size may be a product, `A*B`. Raises UserError where `columns` names one that is not there.
    """
    factors = {
        ours: theirs.split("*") if ours == "batch_size" and theirs not in frame else [theirs]
        for ours, theirs in columns.items()
    }
    used = [name for names in factors.values() for name in names]
    for theirs in used:
        if theirs not in frame:
            raise UserError(f"`column` must name columns of {source.name}, got {theirs}; it has {_some(frame)}")
    copies = {ours: _product(frame, names) for ours, names in factors.items()}
    taken = [ours for ours in columns if ours in frame and ours not in used]
    alone = {names[0] for names in factors.values() if len(names) == 1}
    found = frame.drop(columns=[*taken, *alone]).assign(**copies)
    return without_factors(found, [name for name in used if name in found and name not in columns])


def _product(frame: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    if len(names) == 1:
        return frame[names[0]]
    return frame[[*names]].apply(pd.to_numeric, errors="coerce").prod(axis=1, skipna=False)


def _some(frame: pd.DataFrame) -> str:
    return ", ".join(map(str, frame.columns[:9]))


def _one_row_each(source: AnyPath, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with a column `run`. Raises UserError where a needed column is missing or there twice, or a run has a
    step twice.
    """
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise UserError(f"`source` must have each column once, got {twice!r} twice in {source.name}")
    objects = [name for name, kind in frame.dtypes.items() if kind.kind == "O"]
    frame = frame.assign(**{str(name): frame[name].map(_text_or_number) for name in objects})
    for name in NEEDED:
        if name not in frame:
            is_chart = any(" - " in str(column) for column in frame)  # of Weights & Biases: NAME - METRIC
            way_out = "a chart of Weights & Biases needs the export of the runs table too (--runs)"
            raise UserError(
                f"`source` must have a column {name!r}, got {_some(frame)} in {source.name}; "
                f"{way_out if is_chart else f'--column {name}=NAME says which one it is'}"
            )
    has_runs = "run" in frame
    if not has_runs:
        others = [name for name in frame if name != "step" and not _is_metric(frame[name])]
        frame = frame.assign(run=frame.groupby(others, dropna=False, sort=True).ngroup())
    elif missing := frame["run"].isna().sum():
        raise UserError(f"`run` must be given in every row of {source.name}, got none in {missing}")
    elif not pd.api.types.is_numeric_dtype(frame["run"]):
        frame = frame.assign(run=frame["run"].astype(str))  # which may be categories, or numbers beside text
    require_one_row_each(source, frame, has_runs=has_runs)
    return frame


def _text_or_number(value: Any) -> Any:
    """`value`, or what is said of it where it is a list, an array or the like."""
    return value if value is None or isinstance(value, str | numbers.Number) else str(value)


def require_one_row_each(source: AnyPath, frame: pd.DataFrame, *, has_runs: bool = True) -> None:
    """Raises UserError where a run has a step twice; `has_runs`: whether the source itself tells runs apart."""
    repeated = frame[frame.duplicated(["run", "step"])]
    if len(repeated):
        run, step = (repeated[name].iloc[0] for name in ("run", "step"))
        raise UserError(
            f"`source` must have one row for each run and step, got several for run {str(run)!r} at step {step} in "
            f"{source.name}; leave out all but one{'' if has_runs else ', or add a column `run` that tells runs apart'}"
        )


def read_results(sweep: Sweep, metric: str, direction: Direction | None, *, with_remedies: bool = False) -> Runs:
    """`Runs` of a sweep of this project: its plain trials, or all without a switch `with_remedies`, by epoch."""
    if metric == sweep.metric.column and direction is None:
        direction = sweep.metric.direction
    trials = attempted(sweep)
    kept = ~trials["is_switched"] if with_remedies else trials["is_plain"]
    trials = trials[kept & trials["status"].isin(["completed", "diverged"])].set_index("trial_id")
    names = [name for name in (*MATCHED, *(["remedy"] if with_remedies else [])) if name in trials]
    about = trials[["batch_size", *names]].assign(seed=trials["replicate"])
    epochs = sweep.epochs[sweep.epochs["trial_id"].isin(about.index)].rename(columns={"trial_id": "run"})
    counted = epochs["epoch"] * epochs["run"].map(trials["train_size"]).astype("float64")
    found = read_frame(sweep.folder, epochs, metric, direction, about, counted)
    sizes = epochs["batch_size"]
    others = epochs.loc[sizes.notna() & (sizes != epochs["run"].map(about["batch_size"])), "run"]
    about = found.about.assign(changes_size=found.about.index.isin(others))
    return replace(found, about=about, batch_unit=sweep.batch_unit, sweep=sweep)


def is_results(source: Path) -> bool:
    """Whether `source` is a results folder of this project."""
    if not source.is_dir():
        return False
    return (source / "trials.parquet").is_file() or any((source / "trials").glob("[!.]*.json"))


def read_table(source: Path, *, texts: Sequence[str] = (), may_be_empty: bool = False) -> pd.DataFrame:
    """The rows of a CSV file; `texts`: columns that are no numbers.

    Raises UserError where it is none, and for one without rows unless it `may_be_empty`.
    """
    try:
        check_is_file(source)
        read = partial(pd.read_csv, source, skipinitialspace=True, **_separators(source))
        frame: pd.DataFrame = read(dtype=dict.fromkeys(texts, str))
        header = read(header=None, nrows=1, dtype=str).iloc[0].dropna()  # pandas renames what is twice
    except (OSError, ValueError, pd.errors.ParserError) as error:
        if may_be_empty and isinstance(error, pd.errors.EmptyDataError):
            return pd.DataFrame()
        raise UserError(f"`source` must be a CSV file, got {source} ({one_line(error)})") from error
    if frame.empty and not may_be_empty:
        raise UserError(f"`source` must have rows, got none in {source.name}")
    if header.duplicated().any():
        raise UserError(
            f"`source` must have each column once, got {header[header.duplicated()].iloc[0]!r} twice in {source.name}"
        )
    return frame


def _separators(source: Path) -> dict[str, str]:
    """What separates the columns of a CSV file, and its decimal sign, which beside semicolons may be a comma."""
    with source.open("rb") as file:
        header, _, rows = file.read(PEEKED).decode("utf-8", "replace").replace("\r", "").partition("\n")
    unquoted = re.sub('"[^"]*"', "", header)
    separator = next((one for one in (",", ";", "\t") if one in unquoted), ",")
    has_decimal_commas = separator == ";" and re.search(r"(?m)(^|;)-?\d+,\d+(;|$)", rows.replace('"', ""))
    return {"sep": separator, "decimal": "," if has_decimal_commas else "."}


def direction_of(metric: str) -> Direction:
    """Which values of `metric` are better, by its name. Raises UserError where the name does not say."""
    words = _words(metric)
    for direction, known in (("lower", LOWER), ("higher", HIGHER)):
        if not words.isdisjoint(known):
            return direction  # type: ignore[return-value]
    raise UserError(f"`direction` must be given for a metric named {metric!r}: --direction lower or higher")


def _words(metric: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", metric.lower()))


def _is_metric(column: pd.Series) -> bool:
    """Whether a column holds measured numbers, for files that do not say which rows are one run."""
    return bool(pd.api.types.is_float_dtype(column) and column.nunique() > 0.5 * len(column))


def _constant_columns(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The columns that are the same all along every run, a row for each run."""
    groups = frame.groupby("run", sort=True)
    names = [name for name in frame if name not in ("run", "step", metric)]
    constant = [name for name in names if (groups[name].nunique(dropna=False) <= 1).all()]
    return groups[constant].first() if constant else pd.DataFrame(index=pd.Index(sorted(frame["run"].unique())))


def _mixed_units(curves: pd.DataFrame, metric: str) -> tuple[str, ...]:
    """A note where accuracies of some runs look like fractions and those of others like percentages."""
    best = curves.groupby("run")["value"].max()
    fractions = int((best <= 1).sum())
    if _words(metric).isdisjoint(("acc", "accuracy")) or fractions in (0, len(best)):
        return ()
    return (f"{metric} stays at or below 1 in {fractions} of {len(best)} runs: are all in the same unit?",)


def names_of(texts: Sequence[str]) -> dict[str, str]:
    """`OURS=THEIRS` pairs as a mapping. Raises UserError for others."""
    pairs = [text.partition("=") for text in texts]
    for ours, sign, theirs in pairs:
        if not sign or ours not in OURS or not theirs:
            raise UserError(
                f"`column` must be run=NAME, seed=NAME, batch_size=NAME or step=NAME, got {ours}{sign}{theirs}"
            )
    found = {ours: theirs for ours, _, theirs in pairs}
    if len(found) < len(pairs):
        raise UserError(f"`column` must name each column once, got {' '.join(texts)}")
    return found
