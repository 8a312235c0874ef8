"""The tables of a sweep, and how a trial's numbers get into them without ever being lost or doubled.

While a sweep runs, each trial that ends leaves one record file, `trials/<trial_id>.json`, written under another
name and renamed, so it is there whole or not at all. `compact` merges the records into three Parquet tables

    trials.parquet    a row per trial
    epochs.parquet    a row per trial and logging point, by default the end of each epoch
    measures.parquet  a row per trial, measure and setting

and removes them only when all three are in place; a record that is both in the tables and in a file is one trial,
and the file wins. So whatever is interrupted, tables plus records hold every trial that ended, once. Missing values
are null; numbers that are not finite are null too.

Columns that a newer version of this project has added stay in the tables. A record that cannot be read costs its own
trial alone: `compact` renames it to `trials/<trial_id>.unreadable`, and the trial runs again.
"""

import dataclasses
import itertools
import math
import sys
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainables.config import TrialConfig
from trainables.records.matching import is_plain, reference_of, smallest_of_studies, study_of
from trainables.records.record_files import (
    BadRecordError,
    check_rows,
    cleaned,
    read_records,
    record_files,
    rows_as_tables,
)
from trainables.records.record_files import Record as Record
from trainables.records.record_files import write_record as write_record
from trainables.records.schemas import DEFAULT_OF_EARLIER_ROWS, DEFAULTS, METRIC_IS, OF_TASK, SCHEMAS, TRIALS
from trainables.records.schemas import EPOCHS as EPOCHS
from trainables.records.schemas import MEASURES as MEASURES
from trainables.records.schemas import RESULTS as RESULTS
from trainables.records.schemas import Row as Row
from trainables.remedies import base_remedies, remedy_of
from trainables.runtime.errors import UserError, quoted
from trainables.runtime.text import UNPRINTABLE_RE2, printable
from trainables.storage.folders import AnyPath, check_is_file, in_parallel, is_there, move, write_atomically
from trainables.storage.remote_path import RemotePath

RECORDS_AT_ONCE = 1000  # read into memory


@dataclasses.dataclass(frozen=True)
class Tables:
    """The tables of a sweep, with the columns of TRIALS, EPOCHS and MEASURES first."""

    trials: pa.Table
    epochs: pa.Table
    measures: pa.Table


def read_tables(folder: AnyPath) -> Tables:
    """Everything known of a sweep: its Parquet tables and the records that are not in them yet.

    Empty tables where no trial has ended yet; records that cannot be read are left out, which is told once. Raises
    UserError where `folder` holds no sweep, a table that cannot be read, or unreadable records alone.
    """
    for attempt in range(4):
        try:
            tables, bad = _merge(folder, record_files(folder))
            break
        except FileNotFoundError:  # a record that `compact` has just merged: look again
            if attempt == 3:
                raise
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"`results` must be a folder that can be read, got {folder} ({reason})") from error
    for file, reason in bad.items():
        if not tables.trials.num_rows:
            raise UserError(f"`results` must hold whole records, got {file}, which cannot be read ({reason})")
        _tell(f"warning: {file} cannot be read and is left out ({reason}); --resume runs its trial again")
    return tables


def compact(folder: AnyPath) -> Tables:
    """Merges the records into the Parquet tables, each replaced in one step, then removes the records."""
    files = record_files(folder)
    tables, bad = _merge(folder, files)
    for name in SCHEMAS:
        buffer = pa.BufferOutputStream()
        pq.write_table(getattr(tables, name), buffer, compression="zstd")
        write_atomically(folder / f"{name}.parquet", buffer.getvalue().to_pybytes())
    for file, reason in bad.items():
        aside = next(name for name in _names_aside(file) if not is_there(name))
        move(file, aside)
        _tell(f"warning: {file} cannot be read ({reason}): renamed to {aside.name}, and its trial runs again")
    in_parallel(lambda file: file.unlink(missing_ok=True), [file for file in files if file not in bad])
    return tables


def _names_aside(file: AnyPath) -> Iterator[AnyPath]:
    yield file.with_suffix(".unreadable")
    yield from (file.with_suffix(f".unreadable-{number}") for number in itertools.count(2))


def record_of(tables: Tables, trial_id: str) -> Record:
    """The rows of a trial that is in `tables`, as a trial leaves them."""
    own = [
        table.filter(pc.equal(table["trial_id"], trial_id)) for table in (tables.trials, tables.epochs, tables.measures)
    ]
    trials, *others = (table.to_pylist() for table in own)
    epochs, measures = ([{name: row[name] for name in row if name != "trial_id"} for row in rows] for rows in others)
    return Record(trials[0], epochs, measures)


def of_newest_version(tables: Tables) -> tuple[Tables, int]:
    """`tables` without the trials of an older NUMBERS_VERSION than the newest there, and the number of those.

    Their results are not those of the same configuration today, so the two are never counted together. A version that
    is not recorded is older than any that is. Tables of one version are returned as they are.
    """
    versions = tables.trials["numbers_version"]
    newest = pc.max(versions).as_py()
    if newest is None or pc.all(pc.equal(versions, newest), skip_nulls=False).as_py():
        return tables, 0
    kept = tables.trials.filter(pc.equal(versions, newest))
    ids = kept["trial_id"].combine_chunks()
    epochs, measures = (table.filter(pc.is_in(table["trial_id"], ids)) for table in (tables.epochs, tables.measures))
    return Tables(kept, epochs, measures), len(tables.trials) - len(kept)


def remedies(trials: list[Row]) -> list[str]:
    """`remedy` of each trial: what it does beyond the plain trials of its study."""
    studies: dict[tuple[object, ...], list[Row]] = {}
    for row in trials:
        studies.setdefault(study_of(row), []).append(row)
    bases = {study: base_remedies(rows) for study, rows in studies.items()}
    return [remedy_of(row, bases[study_of(row)]) for row in trials]


def gap(first: float | None, second: float | None, direction: str) -> float | None:
    """The difference of two values of a metric, above 0 where the second one is worse; None where one is missing."""
    if first is None or second is None:
        return None
    return second - first if direction == "lower" else first - second


def large_batch_gaps(trials: list[Row], of: str = "test_metric") -> list[float | None]:
    """`large_batch_gap` of each trial: how much worse its test metric is than its small-batch reference's; or the
    reference's `of` test_loss minus its own, whose negative is `large_batch_loss_gap`.

    The reference is the mean over the completed trials that trainables.records.matching names. None where there is
    none. `trials` have their `remedy`.
    """
    references: dict[tuple[object, ...], list[float]] = {}
    plain = [row for row in trials if row["status"] == "completed" and is_plain(row)]
    smallest = smallest_of_studies(map(study_of, plain), (row["batch_size"] for row in plain))
    for row in plain:
        if row["batch_size"] == smallest[study_of(row)]:
            references.setdefault(reference_of(row), []).append(row[of])
    gaps: list[float | None] = []
    for row in trials:
        values = references.get(reference_of(row))
        direction = (row.get("metric_direction") if of == "test_metric" else None) or "higher"
        known = values is not None and None not in values
        gaps.append(gap(math.fsum(values) / len(values), row.get(of), direction) if known and values else None)
    return gaps


_COMPARED = [
    *(field.name for field in dataclasses.fields(TrialConfig)), "numbers_version", "status", "test_metric",
    "metric_direction", "test_loss",
]  # fmt: skip


def no_sweep(folder: AnyPath) -> UserError:
    """The error for a folder that no sweep has written, with the sweeps below it where it is the folder of several."""
    found = [] if isinstance(folder, RemotePath) else sorted({file.parent.name for file in folder.glob("*/sweep.json")})
    reason = f"which holds {', '.join(found)}; such as {folder / found[0]}" if found else "without trials.parquet"
    return UserError(f"`results` must be a folder that a sweep has written, got {folder}, {reason}")


def _merge(folder: AnyPath, files: list[AnyPath]) -> tuple[Tables, dict[AnyPath, str]]:
    """The tables with the records of `files`, and why files were left out that cannot be read."""
    if not (folder / "trials").is_dir() and not is_there(folder / "trials.parquet"):
        raise no_sweep(folder)
    merged = {name: [_read_parquet(folder / f"{name}.parquet", schema)] for name, schema in SCHEMAS.items()}
    if not files:
        return Tables(**{name: known for name, (known,) in merged.items()}), {}
    schemas = {name: known.schema for name, (known,) in merged.items()}
    pending: list[str] = []
    bad: dict[AnyPath, str] = {}
    for first in range(0, len(files), RECORDS_AT_ONCE):
        records, unreadable = read_records(files[first : first + RECORDS_AT_ONCE])
        bad |= unreadable
        pending += [record.trial["trial_id"] for record in records]
        for name, table in rows_as_tables(records, schemas).items():
            merged[name].append(_with_defaults(table))
    again = pa.array(pending, pa.string())
    for parts in merged.values():
        parts[0] = parts[0].filter(pc.invert(pc.is_in(parts[0]["trial_id"], again)))
    tables = {name: pa.concat_tables(parts) for name, parts in merged.items()}
    return Tables(_with_comparisons(tables["trials"]), tables["epochs"], tables["measures"]), bad


@lru_cache
def _tell(warning: str) -> None:
    """Prints `warning`, once."""
    print(printable(warning), file=sys.stderr)


def _with_comparisons(trials: pa.Table) -> pa.Table:
    """`trials` with the columns that are relative to other trials."""
    rows = trials.select(_COMPARED).to_pylist()
    for row, remedy in zip(rows, remedies(rows), strict=True):
        row["remedy"] = remedy
    losses = large_batch_gaps(rows, "test_loss")
    columns = {
        "remedy": [row["remedy"] for row in rows],
        "large_batch_gap": large_batch_gaps(rows),
        "large_batch_loss_gap": [None if gap is None else 0.0 - gap for gap in losses],
    }
    for name, values in columns.items():
        place = trials.schema.get_field_index(name)
        trials = trials.set_column(place, TRIALS.field(name), pa.array(values, TRIALS.field(name).type))
    return trials


def _read_parquet(path: AnyPath, schema: pa.Schema) -> pa.Table:
    if not is_there(path):
        return schema.empty_table()
    try:
        check_is_file(path)
        # No pq.read_table, which adds a column for a folder named key=value.
        with pq.ParquetFile(pa.BufferReader(path.read_bytes()) if isinstance(path, RemotePath) else path) as file:
            table = file.read()
        table.validate(full=True)
        if twice := [name for name, count in Counter(table.column_names).items() if count > 1]:
            raise BadRecordError(f"it has several columns {quoted(twice[0])}")
        for name in set(schema.names) & DEFAULTS.keys() - set(table.column_names):
            table = table.append_column(name, pa.array([DEFAULTS[name]] * table.num_rows, schema.field(name).type))
        missing = [name for name in schema.names if name not in table.column_names]
        if missing:
            raise UserError(f"`results` must hold tables of this version, got {path} without {', '.join(missing)}")
        newer = [table.schema.field(name) for name in table.column_names if name not in schema.names]
        table = table.select([*schema.names, *(field.name for field in newer)]).cast(pa.schema([*schema, *newer]))
        table = _with_defaults(_finite(_printable(table)))
        check_rows(path.stem, table)
        return table
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = quoted(error)
        raise UserError(f"`results` must hold whole tables, got {path}, which cannot be read ({reason})") from error


def _finite(table: pa.Table) -> pa.Table:
    """`table` with null for every number that is not finite: somebody else may have written it."""
    for place, field in enumerate(table.schema):
        column = table[place]
        if pa.types.is_floating(field.type) and not pc.all(pc.is_finite(column)).as_py():
            table = table.set_column(place, field, pc.if_else(pc.is_finite(column), column, None))
    return table


def _with_defaults(table: pa.Table) -> pa.Table:
    """`table` with the fields of a trial that an older version has left null, for it did not know them."""
    for place, name in enumerate(table.column_names):
        if name in DEFAULT_OF_EARLIER_ROWS and table[name].null_count:
            filled = pc.fill_null(table[name], pa.scalar(DEFAULT_OF_EARLIER_ROWS[name], table.schema.field(name).type))
            table = table.set_column(place, table.schema.field(name), filled)
    return _with_metrics(table)


def _with_metrics(table: pa.Table) -> pa.Table:
    """`table` with what an older version did not write: that the task was classification, judged by accuracy."""
    if "test_accuracy" not in table.column_names:
        return table
    known = table.column_names
    is_old = pc.and_(pc.is_null(table["test_metric"]), pc.is_valid(table["test_accuracy"]))
    if "metric" in known:
        is_old = pc.and_(is_old, pc.fill_null(pc.equal(table["metric"], "accuracy"), True))
    if not pc.any(is_old).as_py():
        return table
    for name in (*METRIC_IS, *OF_TASK):
        if name in known:
            value = table[METRIC_IS[name]] if name in METRIC_IS else pa.scalar(OF_TASK[name])
            column = pc.if_else(is_old, value, table[name])
            table = table.set_column(known.index(name), table.schema.field(name), column)
    return table


def _printable(table: pa.Table) -> pa.Table:
    """`table` with all text printable: somebody else may have written it."""
    for place, field in enumerate(table.schema):
        column = table[field.name]
        is_list = pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type)
        if not is_list and not pa.types.is_string(field.type):
            continue
        text = pc.list_flatten(column) if is_list else column
        if pc.any(pc.match_substring_regex(text, UNPRINTABLE_RE2)).as_py():
            values = [cleaned(value) for value in column.to_pylist()]
            table = table.set_column(place, field, pa.array(values, field.type))
    return table
