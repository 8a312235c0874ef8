"""Tables: nothing lost and nothing doubled, whatever is interrupted; the large-batch gap by hand."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainables.config import TrialConfig
from trainables.records import tables
from trainables.records.record_files import BadRecordError
from trainables.records.resume import finished_trials
from trainables.records.schemas import SCHEMAS, TRIALS
from trainables.records.tables import (
    Record,
    compact,
    large_batch_gaps,
    of_newest_version,
    read_tables,
    record_of,
    write_record,
)
from trainables.runtime.errors import UserError, one_line
from trainables.storage.folders import write_atomically

Make = Callable[..., TrialConfig]


def record(config: TrialConfig, **changes: Any) -> Record:
    trial = {
        "trial_id": config.trial_id,
        "status": "completed",
        **vars(config.canonical()),
        "test_accuracy": 0.9,
        "flags": [],
    }
    epochs = [{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": math.nan}]
    return Record(trial | changes, epochs, [{"measure": "box_sharpness", "value": 1.5}])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trials").mkdir()
    return tmp_path


def test_records_become_tables(folder: Path, make_config: Make) -> None:
    for seed in range(3):
        write_record(folder, record(make_config(seed=seed)))
    before = read_tables(folder)
    compact(folder)
    assert not list((folder / "trials").iterdir())
    assert sorted(file.name for file in folder.iterdir()) == [
        "epochs.parquet",
        "measures.parquet",
        "trials",
        "trials.parquet",
    ]
    after = read_tables(folder)
    for name in SCHEMAS:
        assert getattr(before, name).equals(getattr(after, name))
        assert pq.read_table(folder / f"{name}.parquet").equals(getattr(after, name))
    assert after.trials.num_rows == 3
    assert after.epochs.num_rows == 6
    assert after.epochs["train_loss"].null_count == 3  # not a number is missing
    assert after.trials.schema.names[:4] == ["trial_id", "status", "numbers_version", "dataset"]
    assert set(vars(make_config())) < set(after.trials.schema.names)
    assert set(after.trials["remedy"].to_pylist()) == {"none"}


def test_records_are_read_in_parts(folder: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [make_config(seed=seed, batch_size=size) for seed in range(3) for size in (16, 300)]
    for config in configs[:2]:
        write_record(folder, record(config, test_accuracy=0.5))
    compact(folder)
    for config in configs:  # the first two again
        write_record(folder, record(config))
    whole = read_tables(folder)
    monkeypatch.setattr(tables, "RECORDS_AT_ONCE", 2)
    for name in SCHEMAS:
        assert getattr(read_tables(folder), name).equals(getattr(whole, name))
    assert whole.trials["test_accuracy"].to_pylist() == [0.9] * 6
    assert whole.trials["large_batch_gap"].to_pylist() == [0.0] * 6
    assert whole.epochs.num_rows == 12


def test_a_table_from_before_a_field_was_there(folder: Path, make_config: Make) -> None:
    """Its trials had the field's default; a column that every table has had is missed."""
    write_record(folder, record(make_config()))
    now = compact(folder).trials
    pq.write_table(now.drop_columns(["precision", "momentum"]), folder / "trials.parquet")
    assert read_tables(folder).trials.equals(now)
    pq.write_table(now.drop_columns(["batch_size"]), folder / "trials.parquet")
    with pytest.raises(UserError, match=r"tables of this version, got .* without batch_size$"):
        read_tables(folder)


def test_a_trial_that_ran_again_is_one_row(folder: Path, make_config: Make) -> None:
    write_record(folder, record(make_config(), status="failed"))
    compact(folder)
    assert finished_trials(folder) == set()
    write_record(folder, record(make_config()))
    compact(folder)
    merged = read_tables(folder)
    assert merged.trials["status"].to_pylist() == ["completed"]
    assert merged.epochs.num_rows == 2
    assert finished_trials(folder) == {make_config().trial_id}


@pytest.mark.parametrize("writes", range(4))
def test_an_interrupted_compaction(
    folder: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Killed after any of its steps, a compaction leaves every trial there once, and the next one ends well."""
    write_record(folder, record(make_config(seed=0)))
    compact(folder)
    write_record(folder, record(make_config(seed=1)))
    left = writes
    original = write_atomically

    def write(path: Path, content: bytes) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        original(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_atomically", write)
        if writes < 3:
            with pytest.raises(KeyboardInterrupt):
                compact(folder)
        else:
            compact(folder)
    for _ in range(2):
        seen = read_tables(folder)
        assert sorted(seen.trials["seed"].to_pylist()) == [0, 1]
        assert seen.epochs.num_rows == 4
        compact(folder)


def test_the_large_batch_gap_by_hand() -> None:
    names = [*TrialConfig.__dataclass_fields__, "numbers_version"]

    def row(
        batch_size: int, accuracy: float | None, *, seed: int = 0, status: str = "completed", **changes: Any
    ) -> dict[str, Any]:
        return {
            **dict.fromkeys(names),
            "batch_size": batch_size,
            "seed": seed,
            "status": status,
            "test_metric": accuracy,
            "metric_direction": "higher",
            "remedy": "none",
            **changes,
        }

    rows = [
        row(16, 0.9, seed=0),
        row(16, 0.8, seed=1),
        row(64, 0.7),
        row(16, 0.75, switch_epoch=2, switch_batch_size=64),
        row(64, 0.6, learning_rate=0.5),  # no small batch at this learning rate
        row(64, None, status="failed"),
        row(8, 0.99, status="diverged"),  # no reference
        row(64, 0.65, measures="hessian_trace", measure_examples=10),  # measured differently, trained alike
        row(16, 0.5, numbers_version=8),  # of an older version of the code, compared among themselves
        row(64, 0.3, numbers_version=8),
    ]
    gaps = large_batch_gaps(rows)
    assert gaps[:4] == pytest.approx([-0.05, 0.05, 0.15, 0.1])
    assert gaps[4:6] == [None, None]
    assert gaps[7:] == pytest.approx([0.2, 0.0, 0.2])


def test_trials_of_an_older_version_of_the_code(folder: Path, make_config: Make) -> None:
    """They are left out where there are newer ones; a version that is not recorded is older than any that is."""

    def write(config: TrialConfig, version: int | None) -> None:
        write_record(folder, record(config, numbers_version=version, trial_id=f"{config.seed}-{version}"))

    for seed in range(2):
        write(make_config(seed=seed), None)
    tables_of_one, left_out = of_newest_version(read_tables(folder))
    assert (tables_of_one.trials.num_rows, left_out) == (2, 0)  # one version alone is there in full
    write(make_config(seed=0), 8)
    write(make_config(seed=0), 9)
    write(make_config(seed=1), 9)
    newest, left_out = of_newest_version(compact(folder))
    assert left_out == 3
    for table in (newest.trials, newest.epochs, newest.measures):
        assert set(table["trial_id"].to_pylist()) == {"0-9", "1-9"}
    assert read_tables(folder).trials.num_rows == 5  # nothing is lost on disk
    pq.write_table(read_tables(folder).trials.drop_columns(["numbers_version"]), folder / "trials.parquet")
    assert of_newest_version(read_tables(folder))[1] == 0


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"seed": 2**63}, "does not fit its table"),
        ({"steps": "many"}, "does not fit its table"),
        ({"batch_size": None}, "its row has no batch_size"),
        ({"trial_id": "../elsewhere"}, "it is of trial ../elsewhere"),
        (None, "JSONDecodeError"),
    ],
)
def test_a_bad_record_costs_its_own_trial_alone(
    folder: Path, make_config: Make, capsys: pytest.CaptureFixture[str], damage: dict[str, Any] | None, reason: str
) -> None:
    """It is left out with one line by whoever reads, and set aside by the driver; the trial then runs again."""
    configs = [make_config(seed=seed) for seed in range(3)]
    for config in configs:
        write_record(folder, record(config))
    file = folder / "trials" / f"{configs[1].trial_id}.json"
    content = json.loads(file.read_bytes())
    file.write_text("{" if damage is None else json.dumps({**content, "trial": {**content["trial"], **damage}}))
    for _ in range(2):
        assert sorted(read_tables(folder).trials["seed"].to_pylist()) == [0, 2]
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{file} cannot be read and is left out" in error
    assert reason in error
    assert sorted(compact(folder).trials["seed"].to_pylist()) == [0, 2]
    assert [left.name for left in (folder / "trials").iterdir()] == [f"{configs[1].trial_id}.unreadable"]
    assert "renamed to" in capsys.readouterr().err
    assert finished_trials(folder) == {configs[0].trial_id, configs[2].trial_id}


def test_a_row_that_does_not_fit_is_not_written(folder: Path, make_config: Make) -> None:
    with pytest.raises(BadRecordError, match="a row does not fit its table"):
        write_record(folder, record(make_config(), steps=2**63))
    assert not list((folder / "trials").iterdir())


def test_text_that_no_table_or_terminal_can_take(folder: Path, make_config: Make) -> None:
    """Lone surrogates cannot be encoded, and a terminal obeys escapes: also those in a table from elsewhere."""
    error = (
        "Traceback:\n\tbad byte \udcff, red \x1b[31m, title \x1b]0;x\x07, reversed \u202e, 9 \u00b1 1 \u2212 \U0001f600"
    )
    write_record(folder, record(make_config(), status="failed", error=error, flags=["\x9b31m"]))
    cleaned = (
        error.replace("\udcff", r"\udcff")
        .replace("\x1b", r"\x1b")
        .replace("\x07", r"\x07")
        .replace("\u202e", r"\u202e")
    )
    stored = compact(folder).trials
    assert stored["error"].to_pylist() == [cleaned]
    assert stored["flags"].to_pylist() == [[r"\x9b31m"]]
    hostile = stored.set_column(stored.schema.names.index("host"), "host", pa.array(["\x1b]0;owned\x07"]))
    hostile = hostile.set_column(stored.schema.names.index("flags"), "flags", pa.array([["\x1b[2J", None]]))
    pq.write_table(hostile, folder / "trials.parquet")
    assert read_tables(folder).trials["host"].to_pylist() == [r"\x1b]0;owned\x07"]
    assert read_tables(folder).trials["flags"].to_pylist() == [[r"\x1b[2J", None]]
    assert one_line("a \x1b[31m\nb") == r"a \x1b[31m b"


def test_columns_of_a_newer_version_are_kept(folder: Path, make_config: Make) -> None:
    """Here of a trial that this version extends, of one that it leaves alone, and null in one that it adds."""
    for seed in range(2):
        write_record(folder, record(make_config(seed=seed)))
    tables_now = compact(folder)
    newer = {name: getattr(tables_now, name) for name in SCHEMAS}
    newer["trials"] = newer["trials"].append_column(
        "new_field", pa.array(["ab"[seed] for seed in newer["trials"]["seed"].to_pylist()])
    )
    newer["measures"] = newer["measures"].append_column("new_number", pa.array([1, 2]))
    for name, table in newer.items():
        pq.write_table(table, folder / f"{name}.parquet")
    write_record(folder, record_of(read_tables(folder), make_config(seed=1).trial_id))
    write_record(folder, record(make_config(seed=2)))
    after = compact(folder)
    assert dict(zip(after.trials["seed"].to_pylist(), after.trials["new_field"].to_pylist(), strict=True)) == {
        0: "a", 1: "b", 2: None
    }  # fmt: skip
    assert sorted(after.measures["new_number"].to_pylist(), key=str) == [1, 2, None]
    assert after.trials.schema.names[:-1] == TRIALS.names


def test_fields_that_an_older_version_left_null(folder: Path, make_config: Make) -> None:
    """A version that did not know `precision` has added a row: it trained in the default."""
    write_record(folder, record(make_config()))
    now = compact(folder).trials
    place = now.schema.names.index("precision")
    pq.write_table(now.set_column(place, "precision", pa.array([None], pa.string())), folder / "trials.parquet")
    assert read_tables(folder).trials.equals(now)


def test_a_reference_without_a_test_loss(folder: Path, make_config: Make) -> None:
    """A completed trial whose test loss overflows has none to measure a gap from; its accuracy has."""
    write_record(folder, record(make_config(batch_size=16), test_loss=math.inf))
    write_record(folder, record(make_config(batch_size=300), test_loss=1.0, test_accuracy=0.8))
    gaps = compact(folder).trials.select(["batch_size", "large_batch_gap", "large_batch_loss_gap"]).to_pylist()
    by_size = {row["batch_size"]: (row["large_batch_gap"], row["large_batch_loss_gap"]) for row in gaps}
    assert by_size == {16: (0.0, None), 300: (pytest.approx(0.1), None)}


def test_a_folder_named_like_a_partition(tmp_path: Path, make_config: Make) -> None:
    folder = tmp_path / "seed=7"
    (folder / "trials").mkdir(parents=True)
    write_record(folder, record(make_config(seed=0)))
    whole = compact(folder)
    assert read_tables(folder).trials.equals(whole.trials)


def test_bad_records_are_set_aside_one_after_another(folder: Path, make_config: Make) -> None:
    file = folder / "trials" / f"{make_config().trial_id}.json"
    write_record(folder, record(make_config(seed=1)))
    file.mkdir()
    compact(folder)
    file.symlink_to("nowhere")
    compact(folder)
    assert sorted(left.name for left in (folder / "trials").iterdir()) == [
        f"{file.stem}.unreadable",
        f"{file.stem}.unreadable-2",
    ]


def test_a_sweep_of_which_no_trial_has_ended(folder: Path) -> None:
    tables_of_none = compact(folder)
    assert tables_of_none.trials.num_rows == 0
    assert finished_trials(folder) == set()


def test_bad_folders(folder: Path, make_config: Make) -> None:
    with pytest.raises(UserError, match="`results` must be a folder that a sweep has written"):
        read_tables(folder / "elsewhere")
    mine = folder / "several" / "mine"
    mine.mkdir(parents=True)
    (mine / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match=f"which holds mine; such as {mine}$"):
        read_tables(mine.parent)
    write_record(folder, record(make_config()))
    file = folder / "trials" / f"{make_config().trial_id}.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:50])
    with pytest.raises(UserError, match="must hold whole records"):
        read_tables(folder)
    file.write_text(json.dumps({**json.loads(whole), "format": 99}))
    with pytest.raises(UserError, match="records of format 1, got 99"):
        read_tables(folder)
    file.write_bytes(whole)
    compact(folder)
    parquet = folder / "trials.parquet"
    parquet.write_bytes(parquet.read_bytes()[:100])
    with pytest.raises(UserError, match="must hold whole tables"):
        read_tables(folder)
