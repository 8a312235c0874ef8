"""The record file of one trial that ended, `trials/<trial_id>.json`: written whole, checked, and read with suspicion.

A record is checked against the tables' schemas before it is written, for one that does not fit would stop every later
reading of the folder. One that is damaged nevertheless raises BadRecordError, and costs its own trial alone.
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trainables.records.schemas import REQUIRED, SCHEMAS, STATUSES, Row
from trainables.runtime.errors import UserError, one_line, quoted
from trainables.runtime.text import printable
from trainables.storage.folders import AnyPath, NotAFileError, in_parallel, read_file, write_atomically
from trainables.storage.remote_path import retry_io

RECORD_FORMAT = 1


class BadRecordError(ValueError):
    """A record file that cannot become rows of the tables; the message says why."""


@dataclasses.dataclass(frozen=True)
class Record:
    """All rows of one trial that ended."""

    trial: Row
    epochs: list[Row]
    measures: list[Row]


def record_files(folder: AnyPath) -> list[AnyPath]:
    """The record files of the trials in `folder` that are not in its tables yet."""
    return sorted((folder / "trials").glob("[!.]*.json"))


def write_record(folder: AnyPath, record: Record, part: str = "trials") -> None:
    """Leaves the record file of one trial in a `part` of the results folder. Storage that is away is waited for.

    Numbers that are not finite become null, and unprintable characters their escapes. Raises BadRecordError for rows
    that do not fit the tables.
    """
    record = Record(**cleaned(dataclasses.asdict(record)))
    _check_row(record)
    _check_types(record)
    path = folder / part / f"{record.trial['trial_id']}.json"
    content = json.dumps({"format": RECORD_FORMAT, **vars(record)}).encode()
    retry_io(lambda: write_atomically(path, content))


def read_record(path: AnyPath) -> Record:
    """What `write_record` left. Raises BadRecordError, and UserError for a record in the format of another version."""
    try:
        content = json.loads(read_file(path))
        if not isinstance(content["format"], int):
            raise BadRecordError("its format is not a number")
        if content["format"] > RECORD_FORMAT:
            raise UserError(
                f"`results` must hold records of format {RECORD_FORMAT}, got {content['format']} in {path}; "
                "a newer version of this project reads them"
            )
        record = Record(**cleaned({name: content[name] for name in ("trial", "epochs", "measures")}))
    except (UserError, BadRecordError):
        raise
    except NotAFileError as error:
        raise BadRecordError(str(error)) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadRecordError(f"{type(error).__name__}: {error}") from error
    _check_row(record)
    if record.trial["trial_id"] != path.stem:
        raise BadRecordError(f"it is of trial {record.trial['trial_id']}")
    return record


def read_records(paths: list[AnyPath]) -> tuple[list[Record], dict[AnyPath, str]]:
    """The records of those of `paths` that become rows of the tables, and why the others do not."""
    found = dict(zip(paths, in_parallel(_read_or_reason, paths), strict=True))
    try:
        rows_as_tables([record for record in found.values() if isinstance(record, Record)])
    except _NO_ROWS:  # which of them is it?
        found = {path: _types_or_reason(record) for path, record in found.items()}
    records = [record for record in found.values() if isinstance(record, Record)]
    return records, {path: reason for path, reason in found.items() if isinstance(reason, str)}


def rows_as_tables(records: Sequence[Record], schemas: Mapping[str, pa.Schema] = SCHEMAS) -> dict[str, pa.Table]:
    """The rows of `records` as a table for each of `schemas`."""
    rows: dict[str, list[Row]] = {"trials": [record.trial for record in records], "epochs": [], "measures": []}
    for record in records:
        key = {"trial_id": record.trial["trial_id"]}
        rows["epochs"] += [key | row for row in record.epochs]
        rows["measures"] += [key | row for row in record.measures]
    tables = {name: pa.Table.from_pylist(rows[name], schema=schema) for name, schema in schemas.items()}
    for name, table in tables.items():
        check_rows(name, table)
    return tables


def check_rows(name: str, table: pa.Table) -> None:
    """Raise BadRecordError if a row of the table `name` cannot be one of a sweep."""
    if missing := [column for column in REQUIRED[name] if table[column].null_count]:
        raise BadRecordError(f"a row of its {name} has no {', '.join(missing)}")
    if name == "trials":
        if other := set(pc.unique(table["status"]).to_pylist()) - set(STATUSES):
            raise BadRecordError(f"the status of a trial is {quoted(min(other))}, none of {', '.join(STATUSES)}")
        if pc.count_distinct(table["trial_id"]).as_py() < len(table):
            (twice, _), *_ = Counter(table["trial_id"].to_pylist()).most_common(1)
            raise BadRecordError(f"it has trial {quoted(twice)} twice")
    least = pc.min(table["epoch"]).as_py() if name == "epochs" else None
    if least is not None and least < 0:
        raise BadRecordError(f"an epoch is {least}, below 0")


_NO_ROWS = BadRecordError, pa.ArrowException, ArithmeticError, AttributeError, TypeError, UnicodeError


def _check_row(record: Record) -> None:
    parts = record.epochs, record.measures
    if not isinstance(record.trial, dict) or not all(isinstance(part, list) for part in parts):
        raise BadRecordError("it has no rows")
    missing = [name for name in REQUIRED["trials"] if record.trial.get(name) is None]
    if missing:
        raise BadRecordError(f"its row has no {', '.join(missing)}")


def _check_types(record: Record) -> None:
    try:
        rows_as_tables([record])
    except BadRecordError:
        raise
    except _NO_ROWS as error:
        raise BadRecordError(f"a row does not fit its table: {error}") from error


def _read_or_reason(path: AnyPath) -> Record | str:
    try:
        return read_record(path)
    except BadRecordError as error:
        return one_line(error)


def _types_or_reason(record: Record | str) -> Record | str:
    try:
        if isinstance(record, Record):
            _check_types(record)
        return record
    except BadRecordError as error:
        return one_line(error)


def cleaned(value: Any) -> Any:
    """`value` with every number that is not finite replaced by None, and text made printable."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {key: cleaned(part) for key, part in value.items()}
    if isinstance(value, list):
        return [cleaned(part) for part in value]
    return value
