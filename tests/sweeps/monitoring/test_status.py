"""Progress from the folder alone: counts, time left, and whether a run holds the folder."""

import datetime
import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, TextIO

import pytest
from rich.console import Console

from analysis.data.progress import read_progress
from sweeps.monitoring.status import show
from sweeps.status import main
from trainables.config import TrialConfig
from trainables.records.tables import Record, compact, write_record
from trainables.runtime.text import duration

SCRIPT = Path(__file__).parents[3] / "sweeps" / "status.py"


def before_now(seconds: float) -> str:
    """So many seconds ago, as the tables have it: UTC, whole seconds."""
    return (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)).isoformat(timespec="seconds")


def trial(batch_size: int, seed: int, seconds: float, ago: float, status: str = "completed") -> Record:
    """The record of a trial that took `seconds` and ended `ago` seconds ago."""
    config = TrialConfig(
        dataset="digits", data_fingerprint="abc", train_size=512, test_size=1000, learning_rate=0.01, epochs=4,
        measure_examples=512, batch_size=batch_size, seed=seed,
    ).canonical()  # fmt: skip
    row = {
        "status": status,
        "trial_id": config.trial_id,
        **vars(config),
        "test_accuracy": 0.9,
        "finished_at": before_now(ago),
    }
    times = {} if status == "failed" else {"train_seconds": 0.75 * seconds, "sharpness_seconds": 0.25 * seconds}
    return Record({**row, **times, "flags": []}, [], [])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of 100 s on two workers: ten trials of 16 s and four of 8 s ended, of 12 and 40."""
    (tmp_path / "trials").mkdir()
    for seed in range(10):
        write_record(tmp_path, trial(16, seed, 16.0, ago=90 - 5 * seed))
    for seed in range(4):
        write_record(tmp_path, trial(64, seed, 8.0, ago=20 - 5 * seed, status="diverged" if seed else "completed"))
    note = {"planned": 52, "started_at": before_now(100), "batch_sizes": {"16": 12, "64": 40}}
    (tmp_path / "sweep.json").write_text(json.dumps(note))
    return tmp_path


def held(folder: Path) -> TextIO:
    lock = (folder / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def test_time_left_is_the_work_left_at_the_speed_so_far(folder: Path) -> None:
    with held(folder):
        progress = read_progress(folder)
    work_done, work_left = 10 * 16.0 + 4 * 8.0, 2 * 16.0 + 36 * 8.0
    assert progress.seconds_left == pytest.approx(work_left * 100 / work_done, rel=0.05)  # stamps are whole seconds
    assert progress.is_running
    assert progress.counts == {"completed": 11, "diverged": 3, "failed": 0}
    assert [(size.batch_size, size.planned, size.ended, size.seconds) for size in progress.sizes] == [
        (16, 12, 10, 16.0),
        (64, 40, 4, 8.0),
    ]
    assert progress.sentence.startswith("running, 14 of 52 trials ended, about ")


def test_without_the_plan_by_batch_size_missing_trials_are_mean_ones(folder: Path) -> None:
    about = json.loads((folder / "sweep.json").read_text())
    del about["batch_sizes"]
    (folder / "sweep.json").write_text(json.dumps(about))
    with held(folder):
        progress = read_progress(folder)
    mean = (10 * 16.0 + 4 * 8.0) / 14
    assert progress.seconds_left == pytest.approx(38 * mean * 100 / (14 * mean), rel=0.05)


def test_a_run_that_let_go_of_its_folder_is_not_running(folder: Path) -> None:
    progress = read_progress(folder)
    assert not progress.is_running
    assert progress.sentence.startswith("no run on this machine (stopped, or running elsewhere), 14 of 52 trials ended")


def test_trials_of_an_earlier_run_do_not_count_as_speed(folder: Path) -> None:
    about = json.loads((folder / "sweep.json").read_text())
    about["started_at"] = before_now(12)
    (folder / "sweep.json").write_text(json.dumps(about))
    with held(folder):
        left = read_progress(folder).seconds_left
    assert left == pytest.approx((2 * 16.0 + 36 * 8.0) * 12 / (2 * 8.0), rel=0.3)  # two trials ended in 12 s


def test_finished_and_compacted(folder: Path) -> None:
    compact(folder)
    about = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps({**about, "planned": 14}))
    progress = read_progress(folder)
    assert progress.is_finished
    assert progress.seconds_left is None
    assert progress.sentence == "14 of 14 trials ended"


def test_it_is_plain_when_piped_and_fits_80_columns(folder: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in done.stdout
    assert "11 completed, 3 diverged, 0 failed" in lines
    assert [line.split() for line in lines[-2:]] == [["16", "10", "12", "16"], ["64", "4", "40", "8"]]


def test_on_a_terminal_there_is_a_bar(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(force_terminal=True, width=80, highlight=False, markup=False)
    assert show(folder, watch=False, console=console) == 0
    assert "━" in capsys.readouterr().out


def test_watching_ends_with_the_sweep(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "sweep.json").write_text(json.dumps({"planned": 14}))
    assert main([str(folder), "--watch"]) == 0
    assert "14 of 14 trials ended" in capsys.readouterr().out


@pytest.mark.parametrize("case", ["missing", "no sweep", "half a record", "newer", "torn table", "other columns"])
def test_what_cannot_be_read_is_one_line(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    where = folder
    if case == "missing":
        where = folder / "nowhere"
    elif case == "no sweep":
        where = tmp_path_factory.mktemp("other")
    elif case == "half a record":
        (folder / "trials" / "half.json").write_text('{"format": 1,')
    elif case == "newer":
        (folder / "trials" / "newer.json").write_text('{"format": 99, "trial": {}, "epochs": [], "measures": []}')
    elif case == "torn table":
        (folder / "trials.parquet").write_bytes(b"PAR1 torn")
    else:
        import pandas as pd

        pd.DataFrame({"trial_id": ["a"]}).to_parquet(folder / "trials.parquet")
    assert main([str(where)]) == (0 if case == "half a record" else 2)  # the other trials are shown
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ("is left out" if case == "half a record" else "`results` must") in error


def test_a_sweep_that_stopped_tells_the_command_that_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not one that runs, nor one that has ended; what a hostile folder says is no command and moves no cursor."""
    about = json.loads((folder / "sweep.json").read_text())

    def resume(*command: Any) -> str | None:
        (folder / "sweep.json").write_text(json.dumps({**about, "command": command}))
        return read_progress(folder).resume

    words = ["batch_grid.py", "--name", "my sweep", "--seeds", "0", "1"]
    expected = "python sweeps/batch_grid.py --name 'my sweep' --seeds 0 1 --resume"
    assert resume(*words) == expected
    assert resume(*words, "--resume") == expected
    assert resume("rm -rf", "x") is None
    assert resume("batch_grid.py", "\x1b[2J") == r"python sweeps/batch_grid.py '\x1b[2J' --resume"
    resume(*words)
    assert main([str(folder)]) == 0
    assert f"to go on: {expected}" in " ".join(capsys.readouterr().out.split())
    with held(folder):
        assert read_progress(folder).resume is None
    (folder / "sweep.json").write_text(json.dumps({**about, "command": words, "planned": 14}))
    assert read_progress(folder).resume is None


def test_a_sweep_without_an_ended_trial(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    (tmp_path / "sweep.json").write_text(json.dumps({"planned": 3}))
    progress = read_progress(tmp_path)
    assert (progress.ended, progress.planned, progress.sizes) == (0, 3, ())


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "unknown time"), (59.6, "1 min 00 s"), (8, "8 s"), (7500, "2 h 05 min")]
)
def test_duration(seconds: float | int | None, text: str) -> None:
    assert duration(seconds) == text


def test_trained_trials_that_are_measured_further_have_not_ended(folder: Path) -> None:
    """Eight of the trained ones, three of which this run has measured by now."""
    note = {"planned": 14, "started_at": before_now(50), "batch_sizes": {"16": 10, "64": 4}, "to_measure": {"16": 8}}
    (folder / "sweep.json").write_text(json.dumps(note))
    for seed, ago in ((0, 10), (1, 5), (2, 1), (3, 70)):
        entry = trial(16, seed, 16.0, ago=90)
        entry.trial["measured_at"] = before_now(ago)
        write_record(folder, entry)
    progress = read_progress(folder)
    assert (progress.ended, progress.planned, progress.is_finished) == (9, 14, False)
    assert progress.counts == {"completed": 6, "diverged": 3, "failed": 0}
    assert [(size.batch_size, size.ended) for size in progress.sizes] == [(16, 5), (64, 4)]


def test_trials_of_an_older_version_than_the_runs_do_not_count(folder: Path) -> None:
    note = {"planned": 14, "started_at": before_now(50), "numbers_version": 9}
    (folder / "sweep.json").write_text(json.dumps(note))
    assert read_progress(folder).ended == 0
    entry = trial(16, 0, 16.0, ago=1)
    entry.trial["numbers_version"] = 9
    write_record(folder, entry)
    assert read_progress(folder).ended == 1
