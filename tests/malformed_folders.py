"""Folders that are damaged in one way each, for test_malformed_folders.py: results, made from old_folder/, and runs of
other tools."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.records.schemas import REQUIRED, SCHEMAS

WHOLE = Path(__file__).parent / "old_folder"
ABOUT = {
    "command": ["batch_grid.py"],
    "started_at": "2026-01-01T00:00:00+00:00",
    "planned": 12,
    "batch_sizes": {"30": 8, "300": 4},
    "to_measure": {"30": 1},
    "numbers_version": 9,
}
REFUSED = "`results` must hold whole tables"
LEFT_OUT = "cannot be read and is left out"


@dataclass(frozen=True)
class Damage:
    """`make` damages a whole folder. `says`: what the line of the refusal or of the warning holds; "" for neither."""

    name: str
    says: str
    make: Callable[[Path], object]


def whole_folder(folder: Path) -> None:
    """Make a folder of 12 trials, one of which is in a record file too, without damage."""
    for part in ("trials", "checkpoints"):
        (folder / part).mkdir(parents=True)
    for name in SCHEMAS:
        shutil.copy(WHOLE / f"{name}.parquet", folder)
    (folder / "sweep.json").write_text(json.dumps(ABOUT))


FOREIGN = {  # the layout of Shallue et al. 2019, two exports of W&B, and a run of TensorBoard
    "studies/64/study.json": '{"batch_size": 64}',
    "studies/64/1/metadata.json": '{"status": "COMPLETE", "parameters": {"learning_rate": 0.1}}',
    "studies/64/1/measurements.csv": "step,val_loss\n1,0.5\n2,0.4\n",
    "studies/128/study.json": '{"batch_size": 128}',
    "studies/128/1/metadata.json": '{"status": "COMPLETE", "parameters": {"learning_rate": 0.1}}',
    "studies/128/1/measurements.csv": "step,val_loss\n1,0.5\n2,0.3\n",
    "chart.csv": "Step,a - val_loss,b - val_loss\n1,0.5,0.5\n2,0.4,0.3\n",
    "runs.csv": "Name,batch_size\na,64\nb,128\n",
    "events/a/events.out.tfevents.0": "",
}


def foreign_runs(folder: Path) -> None:
    """Fill `folder` with FOREIGN."""
    for name, content in FOREIGN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def foreign_damages() -> Iterator[Damage]:
    """Of `foreign_runs`: what is no file, or no whole one, where a file is expected."""
    for name in ("studies/64/study.json", "studies/64/1/metadata.json", "studies/64/1/measurements.csv", "runs.csv"):
        for kind, put in _KINDS.items():
            yield Damage(f"{name} is {kind}", "` must ", _at(name, put))
    for name in ("events/a/events.out.tfevents.1", "events/a/b.tfevents"):
        for kind, put in _NO_FILES.items():
            yield Damage(f"{name} is {kind}", "`source` must hold event files", _at(name, put))
    for value in ("3", "[1]", "null", '"x"'):
        content = f'{{"status": "COMPLETE", "parameters": {value}}}'.encode()
        place = _at("studies/64/1/metadata.json", _put(content))
        yield Damage(f"parameters are {value}", "`source` must hold parameters by name", place)


def damages() -> Iterator[Damage]:
    """All of them, each with a name of its own."""
    yield from _no_files()
    yield from _tables()
    yield from _records()
    yield from _abouts()


@lru_cache
def _table(name: str) -> pa.Table:
    return pq.read_table(WHOLE / f"{name}.parquet")


def record() -> dict[str, Any]:
    """The record of a trial of old_folder/."""
    trial = _table("trials").to_pylist()[0]
    rows = {
        name: [row for row in _table(name).to_pylist() if row.pop("trial_id") == trial["trial_id"]]
        for name in ("epochs", "measures")
    }
    return {"format": 1, "trial": trial, **rows}


def _no_files() -> Iterator[Damage]:
    """What is no file, or no whole one, where a file is expected."""

    trial_id = record()["trial"]["trial_id"]
    places = {f"{name}.parquet": REFUSED for name in SCHEMAS}
    places |= {"sweep.json": "", f"trials/{trial_id}.json": LEFT_OUT}
    for place, says in places.items():
        for kind, put in _KINDS.items():
            yield Damage(f"{place} is {kind}", says, _at(place, put))


def _at(place: str, put: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: put(folder / place)


def _put(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _instead(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def put(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return put


_NO_FILES: dict[str, Callable[[Path], object]] = {
    "a named pipe": _instead(os.mkfifo),
    "a folder": _instead(Path.mkdir),
    "a link to nowhere": _instead(lambda path: path.symlink_to("nowhere")),
    "a link to itself": _instead(lambda path: path.symlink_to(path.name)),
    "a device": _instead(lambda path: path.symlink_to("/dev/zero")),
}
_KINDS = _NO_FILES | {
    "empty": _put(b""),
    "garbage": _put(b"PAR1 \xff\0 no table PAR1"),
    "NUL": _put(b"\0" * 1000),
    "deeply nested": _put(b"[" * 100_000),
}


def _tables() -> Iterator[Damage]:
    def changed(name: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
        return lambda folder: pq.write_table(change(_table(name)), folder / f"{name}.parquet")

    def with_column(column: str, make: Callable[[list[Any]], Any]) -> Callable[[pa.Table], pa.Table]:
        return lambda table: table.set_column(
            table.schema.get_field_index(column), column, make(table[column].to_pylist())
        )

    def without_first(kind: pa.DataType) -> Callable[[list[Any]], Any]:
        return lambda values: pa.array([None, *values[1:]], kind)

    def with_first(value: float) -> Callable[[list[Any]], Any]:
        return lambda values: pa.array([value, *values[1:]])

    for name, schema in SCHEMAS.items():
        for column in REQUIRED[name]:
            change = with_column(column, without_first(schema.field(column).type))
            yield Damage(f"null in {column} of {name}", f"has no {column}", changed(name, change))
        numbers = [field.name for field in schema if field.name in _table(name).column_names]
        numbers = [column for column in numbers if not pa.types.is_string(schema.field(column).type)]
        for column in numbers:
            change = with_column(column, lambda values: pa.array([{"a": "b"}] * len(values)))
            yield Damage(f"structs in {column} of {name}", REFUSED, changed(name, change))
        for column in numbers[:5]:
            change = with_column(column, lambda values: pa.array(["many"] * len(values)))
            yield Damage(f"text in {column} of {name}", REFUSED, changed(name, change))
        twice = changed(name, lambda table: table.append_column(table.column_names[2], table[2]))
        yield Damage(f"a column of {name} twice", "it has several columns", twice)
        cut = changed(name, lambda table: table.drop_columns([table.column_names[1]]))
        yield Damage(f"{name} without a column", "must hold tables of this version", cut)
        odd = changed(name, lambda table: table.append_column("a\0b\x1b[31m", table[1]))
        yield Damage(f"a name with NUL in {name}", "", odd)
    twice = changed("trials", lambda table: pa.concat_tables([table, table[:1]]))
    yield Damage("a trial twice", "it has trial", twice)
    status = changed("trials", with_column("status", lambda values: pa.array(["\x1b[2Jdone", *values[1:]])))
    yield Damage("unknown status", r"the status of a trial is \x1b[2Jdone", status)
    below = changed("epochs", with_column("epoch", lambda values: pa.array([-1, *values[1:]])))
    yield Damage("epoch below 0", "an epoch is -1", below)
    for column in ("train_seconds", "test_accuracy", "box_sharpness", "hessian_max_eig", "train_loss"):
        for value in (float("nan"), float("inf"), -1e308, 1e308):
            yield Damage(f"{value} in {column}", "", changed("trials", with_column(column, with_first(value))))


def _records() -> Iterator[Damage]:
    whole = record()

    def put(content: dict[str, Any]) -> Callable[[Path], object]:
        return lambda folder: (folder / "trials" / f"{whole['trial']['trial_id']}.json").write_text(json.dumps(content))

    wrong: dict[str, list[Any]] = {
        "format": [None, "x", [], {}],
        "trial": [None, [], 3, "x", {}],
        "epochs": [None, 3, {}, [3], [None], [{}], [{"epoch": None}], [{"epoch": "x"}], [{"epoch": -1}]],
        "measures": [None, 3, [3], [{}], [{"measure": None}], [{"measure": 3}], [{"measure": "a", "value": "x"}]],
    }
    for part, values in wrong.items():
        for value in values:
            yield Damage(f"record with {part} {json.dumps(value)}", LEFT_OUT, put({**whole, part: value}))
    for column in ("trial_id", "status", "batch_size", "learning_rate", "epochs", "train_size"):
        for value in (None, [3], {"a": 1}, "x", "\ud800"):
            if (column, value) == ("epochs", None):
                continue  # of a trial with a budget
            content = {**whole, "trial": {**whole["trial"], column: value}}
            yield Damage(f"trial with {column} {json.dumps(value)}", LEFT_OUT, put(content))
    for column in ("steps", "numbers_version", "reached_target", "parameters"):
        for value in ("x", 2**63, {"a": 1}):
            content = {**whole, "trial": {**whole["trial"], column: value}}
            yield Damage(f"trial with {column} {json.dumps(value)}", LEFT_OUT, put(content))


def _abouts() -> Iterator[Damage]:
    """sweep.json only says where a sweep came from: what makes no sense there is left out without a word."""

    def put(text: str) -> Callable[[Path], object]:
        return lambda folder: (folder / "sweep.json").write_text(text)

    for name in ABOUT:
        for value in (None, [3], {"x": "y"}, {"30": -3}, -1, 2**63, "9999-12-31", True):
            yield Damage(f"{name} {json.dumps(value)}", "", put(json.dumps({**ABOUT, name: value})))
