"""The tables of a sweep, and how a trial's numbers get into them without ever being lost or doubled.

While a sweep runs, each trial that ends leaves one record file, `trials/<trial_id>.json`, written under another
name and renamed, so it is there whole or not at all. `compact` merges the records into three Parquet tables

    trials.parquet    a row per trial
    epochs.parquet    a row per trial and epoch
    measures.parquet  a row per trial, measure and setting

and removes them only when all three are in place; a record that is both in the tables and in a file is one trial,
and the file wins. So whatever is interrupted, tables plus records hold every trial that ended, once. Missing values
are null; numbers that are not finite are null too.
"""

import contextlib
import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.matching import is_plain, reference_of, study_of
from trainables.remedies import REMEDIES, base_remedies, remedy_of
from trainables.storage import in_parallel, is_remote, patiently, write_atomically

Row = dict[str, Any]

_ARROW_TYPES: dict[type, pa.DataType] = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}


def _arrow_type(annotation: Any) -> pa.DataType:
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in typing.get_args(annotation) if part is not types.NoneType)
    return _ARROW_TYPES[annotation]


_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(TrialConfig)
    if field.default is not dataclasses.MISSING  # what a trial was before the field was there
}
_DEFAULTS |= dict.fromkeys(("numbers_version", "numpy_version", "measured", "measured_at", "within"))  # unknown
_DEFAULTS |= {"error": None}  # of a measure: one that failed left no rows
_FIELDS = sorted(dataclasses.fields(TrialConfig), key=lambda field: field.name in REMEDIES)

TRIALS = pa.schema(
    [
        ("trial_id", pa.string()),
        ("status", pa.string()),  # completed, diverged, failed
        ("numbers_version", pa.int64()),  # of the code that trained it, trainables.config; null before it was recorded
        *((field.name, _arrow_type(field.type)) for field in _FIELDS),
        ("remedy", pa.string()),  # what the trial does beyond the plain ones of its study, or none
        ("epochs_done", pa.int64()),
        ("steps", pa.int64()),
        ("train_loss", pa.float64()),
        ("train_accuracy", pa.float64()),
        ("test_loss", pa.float64()),
        ("test_accuracy", pa.float64()),
        ("test_perplexity", pa.float64()),  # exp(test_loss), of language models
        ("generalization_gap", pa.float64()),
        ("large_batch_gap", pa.float64()),
        ("large_batch_loss_gap", pa.float64()),  # nats per example or token
        ("box_sharpness", pa.float64()),
        ("box_sharpness_paper", pa.float64()),
        ("hessian_max_eig", pa.float64()),
        ("measured", pa.list_(pa.string())),  # what has been measured and how, `TrialConfig.measurement`
        ("measured_at", pa.string()),  # when measures were added to the trained trial, as `finished_at`; else null
        ("reached_target", pa.bool_()),
        ("flags", pa.list_(pa.string())),
        ("parameters", pa.int64()),
        ("train_seconds", pa.float64()),
        ("sharpness_seconds", pa.float64()),
        ("resumed_epoch", pa.int64()),  # where a checkpoint was taken up; null where the trial ran through
        ("finished_at", pa.string()),  # UTC, ISO 8601
        ("device", pa.string()),
        ("threads", pa.int64()),
        ("workers", pa.int64()),  # that trained it together
        ("micro_batch_size", pa.int64()),  # examples of a batch at once; null where batches were whole
        ("host", pa.string()),
        ("python_version", pa.string()),
        ("torch_version", pa.string()),
        ("numpy_version", pa.string()),
        ("ray_version", pa.string()),
        ("error", pa.string()),
    ]
)

EPOCHS = pa.schema(
    [
        ("trial_id", pa.string()),
        ("epoch", pa.int64()),
        ("step", pa.int64()),
        ("train_loss", pa.float64()),
        ("train_accuracy", pa.float64()),
        ("test_loss", pa.float64()),
        ("test_accuracy", pa.float64()),
        ("distance", pa.float64()),  # l2 distance of the weights from the start
        ("lr", pa.float64()),
        ("batch_size", pa.int64()),
        ("seconds", pa.float64()),
        # In the first epochs, the training loss of some of the examples between steps; `epoch` is fractional.
        ("within", pa.list_(pa.struct({"step": pa.int64(), "epoch": pa.float64(), "train_loss": pa.float64()}))),
    ]
)

MEASURES = pa.schema(
    [
        ("trial_id", pa.string()),
        ("epoch", pa.int64()),  # epochs done when it was measured: those of the trial, or fewer along the run
        ("measure", pa.string()),  # box_sharpness, hessian_max_eig, ...
        ("epsilon", pa.float64()),
        ("scale", pa.float64()),  # the radius of a ball, the standard deviation of a perturbation
        ("space", pa.string()),  # full
        ("method", pa.string()),  # paper, strong, lanczos, ...
        ("value", pa.float64()),
        ("loss_center", pa.float64()),
        ("residual", pa.float64()),
        ("stderr", pa.float64()),
        ("evaluations", pa.int64()),
        ("converged", pa.bool_()),
        ("seconds", pa.float64()),
        ("split", pa.string()),  # train
        ("examples", pa.int64()),
        ("batch_norm", pa.string()),  # running, batch, recalibrated
        ("batch_norm_batch_size", pa.int64()),
        ("dtype", pa.string()),
        ("seed", pa.int64()),
        ("error", pa.string()),  # why there is no value; null where there is one
    ]
)

SCHEMAS = {"trials": TRIALS, "epochs": EPOCHS, "measures": MEASURES}
RECORD_FORMAT = 1
RECORDS_AT_ONCE = 1000  # read into memory


@dataclasses.dataclass(frozen=True)
class Record:
    """All rows of one trial that ended."""

    trial: Row
    epochs: list[Row]
    measures: list[Row]


@dataclasses.dataclass(frozen=True)
class Tables:
    """The tables of a sweep, with the schemas TRIALS, EPOCHS and MEASURES."""

    trials: pa.Table
    epochs: pa.Table
    measures: pa.Table


def write_record(folder: Path, record: Record, part: str = "trials") -> None:
    """Leaves the record file of one trial in a `part` of the results folder. Storage that is away is waited for."""
    content = {"format": RECORD_FORMAT, **_finite(dataclasses.asdict(record))}
    path = folder / part / f"{record.trial['trial_id']}.json"
    patiently(lambda: write_atomically(path, json.dumps(content).encode()))


def read_tables(folder: Path) -> Tables:
    """Everything known of a sweep: its Parquet tables and the records that are not in them yet.

    Empty tables where no trial has ended yet. Raises UserError where `folder` holds no sweep, or a table that
    cannot be read.
    """
    for _ in range(3):
        with contextlib.suppress(FileNotFoundError):  # a record that `compact` has just merged: look again
            return _merge(folder, _record_files(folder))
    return _merge(folder, _record_files(folder))


def compact(folder: Path) -> Tables:
    """Merges the records into the Parquet tables, each replaced in one step, then removes the records."""
    record_files = _record_files(folder)
    tables = _merge(folder, record_files)
    for name in SCHEMAS:
        buffer = pa.BufferOutputStream()
        pq.write_table(getattr(tables, name), buffer, compression="zstd")
        write_atomically(folder / f"{name}.parquet", buffer.getvalue().to_pybytes())
    in_parallel(lambda file: file.unlink(missing_ok=True), record_files)
    return tables


def finished_trials(folder: Path) -> set[str]:
    """The keys of the trials that are trained, completed or diverged."""
    return finished(_tables_of(folder))


def finished(tables: Tables) -> set[str]:
    """`finished_trials` of tables that have been read."""
    done = pc.is_in(tables.trials["status"], pa.array(["completed", "diverged"]))
    return set(tables.trials.filter(done)["trial_id"].to_pylist())


def incomplete_trials(folder: Path, configs: Iterable[TrialConfig]) -> list[TrialConfig]:
    """Those of `configs` that have to run, in their order: to be trained, or to be measured further.

    Of a trained trial the configuration has only the measures that are missing. One that diverged has none to add.
    """
    columns = _tables_of(folder).trials.select(["trial_id", "status", "measured"])
    rows = {row["trial_id"]: row for row in columns.to_pylist() if row["status"] in ("completed", "diverged")}
    found: list[TrialConfig | None] = []
    for config in configs:
        row = rows.get(config.trial_id)
        is_diverged = row is not None and row["status"] == "diverged"
        found.append(None if is_diverged else config if row is None else config.lacking(row["measured"] or ()))
    return [config for config in found if config is not None]


def record_of(tables: Tables, trial_id: str) -> Record:
    """The rows of a trial that is in `tables`, as a trial leaves them."""
    own = [
        table.filter(pc.equal(table["trial_id"], trial_id)) for table in (tables.trials, tables.epochs, tables.measures)
    ]
    trials, *others = (table.to_pylist() for table in own)
    epochs, measures = ([{name: row[name] for name in row if name != "trial_id"} for row in rows] for rows in others)
    return Record(trials[0], epochs, measures)


def _tables_of(folder: Path) -> Tables:
    """`read_tables`, empty where no trial has ended."""
    if not _record_files(folder) and not (folder / "trials.parquet").exists():
        return Tables(*(schema.empty_table() for schema in SCHEMAS.values()))
    return read_tables(folder)


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


def large_batch_gaps(trials: list[Row], of: str = "test_accuracy") -> list[float | None]:
    """`large_batch_gap` of each trial: the small-batch reference's test accuracy minus its own; or that `of` test_loss,
    whose negative is `large_batch_loss_gap`, in nats.

    The reference is the mean over the completed trials that trainables.matching names. None where there is none.
    `trials` have their `remedy`.
    """
    smallest: dict[tuple[object, ...], int] = {}
    references: dict[tuple[object, ...], list[float]] = {}
    plain = [row for row in trials if row["status"] == "completed" and is_plain(row)]
    for row in plain:
        study = study_of(row)
        smallest[study] = min(row["batch_size"], smallest.get(study, row["batch_size"]))
    for row in plain:
        if row["batch_size"] == smallest[study_of(row)]:
            references.setdefault(reference_of(row), []).append(row[of])
    gaps: list[float | None] = []
    for row in trials:
        values = references.get(reference_of(row))
        known = values is not None and row[of] is not None
        gaps.append(math.fsum(values) / len(values) - row[of] if known and values else None)
    return gaps


_COMPARED = [
    *(field.name for field in dataclasses.fields(TrialConfig)), "numbers_version", "status", "test_accuracy",
    "test_loss",
]  # fmt: skip


def _record_files(folder: Path) -> list[Path]:
    return sorted((folder / "trials").glob("[!.]*.json"))


def _merge(folder: Path, record_files: list[Path]) -> Tables:
    if not (folder / "trials").is_dir() and not (folder / "trials.parquet").exists():
        raise UserError(f"`results` must be a folder that a sweep has written, got {folder}, without trials.parquet")
    merged = {name: [_read_parquet(folder / f"{name}.parquet", schema)] for name, schema in SCHEMAS.items()}
    if not record_files:
        return Tables(**{name: known for name, (known,) in merged.items()})
    pending: list[str] = []
    for first in range(0, len(record_files), RECORDS_AT_ONCE):
        records = in_parallel(read_record, record_files[first : first + RECORDS_AT_ONCE])
        pending += [record.trial["trial_id"] for record in records]
        new: dict[str, list[Row]] = {"trials": [record.trial for record in records], "epochs": [], "measures": []}
        for record in records:
            key = {"trial_id": record.trial["trial_id"]}
            new["epochs"] += [key | row for row in record.epochs]
            new["measures"] += [key | row for row in record.measures]
        for name, schema in SCHEMAS.items():
            merged[name].append(pa.Table.from_pylist(new[name], schema=schema))
    again = pa.array(pending, pa.string())
    for parts in merged.values():
        parts[0] = parts[0].filter(pc.invert(pc.is_in(parts[0]["trial_id"], again)))
    tables = {name: pa.concat_tables(parts) for name, parts in merged.items()}
    return Tables(_with_comparisons(tables["trials"]), tables["epochs"], tables["measures"])


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


def _read_parquet(path: Path, schema: pa.Schema) -> pa.Table:
    if not path.exists():
        return schema.empty_table()
    try:
        table = pq.read_table(pa.BufferReader(path.read_bytes()) if is_remote(path) else path)
        for name in set(schema.names) & _DEFAULTS.keys() - set(table.column_names):
            table = table.append_column(name, pa.array([_DEFAULTS[name]] * table.num_rows, schema.field(name).type))
        missing = [name for name in schema.names if name not in table.column_names]
        if missing:
            raise UserError(f"`results` must hold tables of this version, got {path} without {', '.join(missing)}")
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"`results` must hold whole tables, got {path}, which cannot be read ({error})") from error


def read_record(path: Path) -> Record:
    """What `write_record` left. Raises UserError where it cannot be read."""
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != RECORD_FORMAT:
            raise UserError(f"`results` must hold records of format {RECORD_FORMAT}, got {content['format']} in {path}")
        return Record(content["trial"], content["epochs"], content["measures"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"`results` must hold whole records, got {path}, which cannot be read ({error})") from error


def _finite(value: Any) -> Any:
    """`value` with every number that is not finite replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return value
