"""`--resume --measures ...` on real Ray: what is trained is measured further, not trained again."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from test_batch_grid import arguments, run, start, wait_for

from analysis.load import comparable, load_sweep
from trainables import config
from trainables.tables import of_newest_version, read_tables

QUICK: dict[str, Any] = {
    "batch_sizes": [30, 300], "learning_rates": [0.01], "switch_epochs": [None], "seeds": [0, 1], "epochs": 6,
}  # fmt: skip


def rows(results: Path, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(results / "test" / f"{table}.parquet").to_pylist()
    return found


def in_order(table: list[dict[str, Any]]) -> list[str]:
    return sorted(map(repr, table))


@pytest.mark.parametrize("keep_weights", [True, False])
def test_a_measure_is_added_to_the_trained_trials(tmp_path: Path, keep_weights: bool) -> None:
    first = run(tmp_path, QUICK, *(["--keep-weights"] if keep_weights else []))
    assert first.returncode == 0, first.stderr
    before = {name: rows(tmp_path, name) for name in ("trials", "epochs", "measures")}
    planned = run(tmp_path, QUICK, "--resume", "--measures", "hessian_max_eig", "hessian_trace", "--dry-run")
    assert "4 trials, 0 of them done already, 4 trained already and to be measured" in planned.stdout, planned.stderr
    assert planned.stdout.count("to measure\n") == 4

    more = ["--resume", "--measures", "box_sharpness", "hessian_max_eig", "hessian_trace"]
    wider = run(tmp_path, {**QUICK, "seeds": [0, 1, 2]}, *more)
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
    done = run(tmp_path, {**QUICK, "seeds": [0, 1, 2]}, *more)
    assert "6 trials, 6 of them done already" in done.stdout
    assert "Ray:" not in done.stdout


def test_interrupted_while_measuring(tmp_path: Path) -> None:
    many = {**QUICK, "seeds": list(range(40))}
    assert run(tmp_path, many, "--keep-weights").returncode == 0
    before = rows(tmp_path, "trials")
    more = ["--resume", "--measures", "box_sharpness", "hessian_max_eig", "spectral_density"]
    driver = start(tmp_path, many, *more)
    wait_for(lambda: len(list((tmp_path / "test" / "trials").glob("*.json"))) > 3, driver)
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=60)
    resumed = run(tmp_path, many, *more)
    assert resumed.returncode == 0, resumed.stderr
    assert "of them done already" in resumed.stdout
    assert "trained already and to be measured" in resumed.stdout
    after = rows(tmp_path, "trials")
    assert len(after) == len(before) == 80
    kept = ("trial_id", "test_accuracy", "train_seconds", "finished_at", "box_sharpness")
    assert in_order([{name: row[name] for name in kept} for row in after]) == in_order(
        [{name: row[name] for name in kept} for row in before]
    )
    measured = [(row["trial_id"], row["measure"], row["scale"]) for row in rows(tmp_path, "measures")]
    densities = [one for one in measured if one[1] == "spectral_density"]
    assert len(set(densities)) == len(densities)
    assert len({one[0] for one in densities}) == 80


def test_a_newer_version_of_the_code(tmp_path: Path) -> None:
    """Its trials take the place of the older ones in every result, and the folder keeps both."""
    assert run(tmp_path, QUICK).returncode == 0
    newer = (
        "import trainables.config as config; config.NUMBERS_VERSION += 1; "
        "import sys; from sweeps.batch_grid import main; sys.exit(main(sys.argv[1:]))"
    )
    command = arguments(tmp_path, QUICK, "--resume")
    second = subprocess.run(
        [command[0], "-c", newer, *command[2:]], capture_output=True, text=True, timeout=180, check=False
    )
    assert second.returncode == 0, second.stderr
    assert "4 trials of an older version of this code" in " ".join(second.stdout.split())
    both = read_tables(tmp_path / "test")
    assert both.trials.num_rows == 8
    newest, left_out = of_newest_version(both)
    assert (newest.trials.num_rows, left_out) == (4, 4)
    assert set(newest.trials["numbers_version"].to_pylist()) == {config.NUMBERS_VERSION + 1}
    assert comparable(load_sweep(tmp_path / "test")).groupby("configuration").size().tolist() == [2, 2]
