"""`--resume --measures ...` on real Ray: what is trained is measured further, not trained again."""

import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_batch_grid import Run, run, run_here, start, wait_for

from analysis.data.load import comparable, load_sweep
from trainables.config import NUMBERS_VERSION
from trainables.records.schemas import SCHEMAS
from trainables.records.tables import of_newest_version, read_tables

QUICK: dict[str, Any] = {
    "batch_sizes": [30, 300], "learning_rates": [0.01], "switch_epochs": [None], "seeds": [0, 1], "epochs": 6,
}  # fmt: skip

__all__ = ["run_here"]  # a fixture
pytestmark = pytest.mark.slow  # each runs a sweep twice


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.reporting.report.write_report", lambda sweep: None)


def rows(results: Path, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(results / "test" / f"{table}.parquet").to_pylist()
    return found


def in_order(table: list[dict[str, Any]]) -> list[str]:
    return sorted(map(repr, table))


@pytest.mark.parametrize("keep_weights", [True, False])
def test_a_measure_is_added_to_the_trained_trials(tmp_path: Path, run_here: Run, keep_weights: bool) -> None:
    first = run_here(tmp_path, QUICK, *(["--keep-weights"] if keep_weights else []))
    assert first.returncode == 0, first.stderr
    before = {name: rows(tmp_path, name) for name in ("trials", "epochs", "measures")}
    planned = run_here(
        tmp_path, QUICK, "--resume", "--measures", "hessian_max_eig", "hessian_trace", "--dry-run", "list"
    )
    assert "4 trials, 0 of them done already, 4 trained already and to be measured" in planned.stdout, planned.stderr
    assert planned.stdout.count("to measure\n") == 4

    more = ["--resume", "--measures", "box_sharpness", "hessian_max_eig", "hessian_trace"]
    wider = run_here(tmp_path, {**QUICK, "seeds": [0, 1, 2]}, *more)
    assert wider.returncode == 0, wider.stderr
    assert "6 trials, 4 trained already and to be measured" in wider.stdout
    after = {name: rows(tmp_path, name) for name in ("trials", "epochs", "measures")}
    old = {row["trial_id"] for row in before["trials"]}
    assert len(after["trials"]) == len({row["trial_id"] for row in after["trials"]}) == 6
    assert in_order([row for row in after["epochs"] if row["trial_id"] in old]) == in_order(before["epochs"])
    traces = [row for row in after["measures"] if row["measure"] == "hessian_trace"]
    assert len(traces) == 6
    assert all(row["value"] is not None for row in traces)
    others = [row for row in after["measures"] if row["trial_id"] in old and row["measure"] != "hessian_trace"]
    assert in_order(others) == in_order(before["measures"])
    frame = comparable(load_sweep(tmp_path / "test"))
    assert frame.groupby("configuration").size().tolist() == [3, 3]
    assert frame["hessian_trace"].notna().all()
    done = run_here(tmp_path, {**QUICK, "seeds": [0, 1, 2]}, *more)
    assert "6 trials, 6 of them done already" in done.stdout
    assert "Ray:" not in done.stdout


def test_interrupted_while_measuring(tmp_path: Path) -> None:
    many = {**QUICK, "seeds": list(range(4))}
    assert run(tmp_path, many, "--keep-weights").returncode == 0
    before = rows(tmp_path, "trials")
    more = ["--resume", "--measures", "box_sharpness", "hessian_max_eig", "spectral_density"]
    driver = start(tmp_path, many, *more)
    wait_for(lambda: len(list((tmp_path / "test" / "trials").glob("*.json"))) > 1, driver)
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=60)
    resumed = run(tmp_path, many, *more)
    assert resumed.returncode == 0, resumed.stderr
    assert "of them done already" in resumed.stdout
    assert "trained already and to be measured" in resumed.stdout
    after = rows(tmp_path, "trials")
    assert len(after) == len(before) == 8
    kept = ("trial_id", "test_accuracy", "train_seconds", "finished_at", "box_sharpness")
    assert in_order([{name: row[name] for name in kept} for row in after]) == in_order(
        [{name: row[name] for name in kept} for row in before]
    )
    measured = [(row["trial_id"], row["measure"], row["scale"]) for row in rows(tmp_path, "measures")]
    densities = [one for one in measured if one[1] == "spectral_density"]
    assert len(set(densities)) == len(densities)
    assert len({one[0] for one in densities}) == 8


def test_a_newer_version_of_the_code(tmp_path: Path, run_here: Run) -> None:
    """Its trials take the place of the older ones in every result, and the folder keeps both."""
    assert run_here(tmp_path, QUICK).returncode == 0
    folder = tmp_path / "test"
    for name in SCHEMAS:  # as an older version would have left them, under other keys
        table = pq.read_table(folder / f"{name}.parquet")
        keys = pa.array([f"old-{key}" for key in table["trial_id"].to_pylist()])
        table = table.set_column(0, "trial_id", keys)
        if name == "trials":
            place = table.schema.get_field_index("numbers_version")
            table = table.set_column(place, "numbers_version", pa.array([NUMBERS_VERSION - 1] * len(table)))
        pq.write_table(table, folder / f"{name}.parquet")
    assert load_sweep(folder).notes == ()
    second = run_here(tmp_path, QUICK, "--resume")
    assert second.returncode == 0, second.stderr
    assert "4 trials of an older version of this code" in " ".join(second.stdout.split())
    both = read_tables(folder)
    assert both.trials.num_rows == 8
    newest, left_out = of_newest_version(both)
    assert (newest.trials.num_rows, left_out) == (4, 4)
    assert set(newest.trials["numbers_version"].to_pylist()) == {NUMBERS_VERSION}
    assert comparable(load_sweep(folder)).groupby("configuration").size().tolist() == [2, 2]
