"""The main job as a user runs it: real Ray, real files, and `kill -9` where it hurts.

The numbers of a sweep are compared with the same trials run one after another in this process: equal to the last
bit, whatever ran beside them and whoever was killed.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.data.load import load_sweep
from analysis.data.progress import progress_of
from analysis.reporting.headline import headline_lines
from sweeps.batch_grid import main
from sweeps.plan.grid import Grid, expand
from trainables.data import Source
from trainables.records.schemas import SCHEMAS
from trainables.records.tables import Record
from trainables.trial import run_trial

Run = Callable[..., subprocess.CompletedProcess[str]]
SCRIPT = Path(__file__).parents[2] / "sweeps" / "batch_grid.py"
QUICK = {
    "batch_sizes": [30, 300],
    "learning_rates": [0.01],
    "switch_epochs": [None, 2],
    "seeds": [0, 1],
    "epochs": 6,
}
LONG = {
    "batch_sizes": [8],
    "learning_rates": [0.001],
    "switch_epochs": [None],
    "seeds": [0, 1, 2],
    "epochs": 1500,
}
NOT_COMPARED = (
    "seconds",
    "train_seconds",
    "sharpness_seconds",
    "finished_at",
    "ray_version",
    "resumed_epoch",
    "large_batch_gap",
    "large_batch_loss_gap",
    "remedy",
)


def arguments(results: Path, axes: dict[str, Any], *more: str) -> list[str]:
    options = [sys.executable, str(SCRIPT), "--results", str(results), "--name", "test", "--no-dashboard"]
    for name, values in axes.items():
        options += [
            f"--{name.replace('_', '-')}",
            *map(str, values if isinstance(values, list) else [values]),
        ]
    return [
        *(option.replace("None", "none") for option in options),
        "--warmup-epochs",
        "0",
        "--model-options",
        "widths=32",
        *more,
    ]


def run(results: Path, axes: dict[str, Any], *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments(results, axes, *more), capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture
def run_here(capsys: pytest.CaptureFixture[str]) -> Run:
    """The same as `run` in this process, which does not have to import everything again."""

    def run_main(results: Path, axes: dict[str, Any], *more: str) -> subprocess.CompletedProcess[str]:
        command = arguments(results, axes, *more)
        capsys.readouterr()
        return subprocess.CompletedProcess(command, main(command[2:]), *capsys.readouterr())

    return run_main


def start(results: Path, axes: dict[str, Any], *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments(results, axes, *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def table(results: Path, name: str) -> list[dict[str, Any]]:
    rows = pq.read_table(results / "test" / f"{name}.parquet").to_pylist()
    return [{key: value for key, value in row.items() if key not in NOT_COMPARED} for row in rows]


ALONE: dict[str, Record] = {}  # what `expected` has run, by trial_id


def expected(axes: dict[str, Any], source: Source) -> dict[str, list[dict[str, Any]]]:
    """The three tables by trials run in this process."""
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
    for config in expand(Grid(**axes, model_options={"widths": 32}), source):
        if config.trial_id not in ALONE:
            ALONE[config.trial_id] = run_trial(config, source)
        record = ALONE[config.trial_id]
        parts = (("trials", [record.trial]), ("epochs", record.epochs), ("measures", record.measures))
        for name, rows in parts:
            for row in rows:
                whole = {**dict.fromkeys(SCHEMAS[name].names), "trial_id": config.trial_id, **row}
                (read,) = pa.Table.from_pylist([whole], SCHEMAS[name]).to_pylist()  # in the types of the table
                tables[name].append({key: value for key, value in read.items() if key not in NOT_COMPARED})
    return tables


def assert_same_numbers(results: Path, axes: dict[str, Any], source: Source) -> None:
    def ordered(rows: list[dict[str, Any]]) -> list[str]:
        return sorted(json.dumps(row, sort_keys=True) for row in rows)

    for name, rows in expected(axes, source).items():
        assert ordered(table(results, name)) == ordered(rows)


def wait_for(condition: Any, driver: subprocess.Popen[str], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert driver.poll() is None, driver.stdout.read() if driver.stdout else ""
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_a_sweep_from_start_to_report(
    tmp_path: Path, digits: Source, run_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path, QUICK, "--keep-weights")
    assert first.returncode == 0, first.stderr
    assert_same_numbers(tmp_path, QUICK, digits)
    folder = tmp_path / "test"
    assert (folder / "report.html").exists()
    assert list((folder / "figures").glob("*.png"))
    assert list((folder / "figures").glob("*.svg"))
    assert len(list((folder / "weights").glob("*.pt"))) == 6
    assert list((folder / "trials").iterdir()) == []
    assert list((folder / "checkpoints").iterdir()) == []
    assert not (folder / "ray").exists()
    assert "rank correlation" in first.stdout
    assert "Trial status" not in first.stdout + first.stderr  # none of Tune's own output
    assert all(len(line) < 200 for line in first.stdout.splitlines())

    again = run_here(tmp_path, QUICK)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "--resume continues with them" in again.stderr

    monkeypatch.setattr("analysis.reporting.report.write_report", lambda sweep: print("figures are written now"))
    done = run_here(tmp_path, QUICK, "--resume")
    assert done.returncode == 0
    assert "Ray:" not in done.stdout  # nothing to do: Ray is not even started
    sweep = load_sweep(folder)
    answer = headline_lines(sweep, progress_of(sweep.trials, folder), 80)
    assert done.stdout.splitlines()[-len(answer) - 1 :] == [*answer, "figures are written now"]


@pytest.mark.slow
def test_a_sweep_that_is_widened(
    tmp_path: Path, digits: Source, run_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.reporting.report.write_report", lambda sweep: None)
    assert run_here(tmp_path, QUICK).returncode == 0
    before = pq.read_table(tmp_path / "test" / "trials.parquet")["finished_at"].to_pylist()
    wider = {**QUICK, "seeds": [0, 1, 2]}
    widened = run_here(tmp_path, wider, "--resume")
    assert widened.returncode == 0, widened.stderr
    assert "9 trials, 6 of them done already" in widened.stdout
    assert_same_numbers(tmp_path, wider, digits)
    after = pq.read_table(tmp_path / "test" / "trials.parquet")["finished_at"].to_pylist()
    assert after[:6] == before  # not run again


@pytest.mark.slow
def test_a_signal_keeps_what_ended(tmp_path: Path) -> None:
    """SIGINT; for SIGTERM see the next test, and tests/faults.py."""
    many = {**QUICK, "seeds": list(range(200))}
    driver = start(tmp_path, many)
    wait_for(lambda: len(list((tmp_path / "test" / "trials").glob("*.json"))) > 3, driver)
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, output
    kept = len(table(tmp_path, "trials"))
    assert f"Interrupted: {kept} of 600 trials are kept" in output
    assert kept > 3
    assert "Traceback" not in output
    assert not list((tmp_path / "test" / "trials").glob("*.json"))


@pytest.mark.slow
def test_a_signal_while_ray_starts(tmp_path: Path) -> None:
    """Ray would put a handler of its own there, and what a handler raises while Ray forks processes is lost."""
    driver = start(tmp_path, LONG)
    assert driver.stdout is not None
    while "trials" not in (line := driver.stdout.readline()):
        assert line, "the driver ended before its first line"
    time.sleep(0.5)  # of the second and a half that Ray takes
    driver.send_signal(signal.SIGTERM)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, output
    assert "Traceback" not in output


@pytest.mark.slow
def test_two_sweeps_cannot_share_a_folder(tmp_path: Path, run_here: Run) -> None:
    driver = start(tmp_path, LONG)
    try:
        wait_for(lambda: (tmp_path / "test" / "sweep.json").exists(), driver)
        second = run_here(tmp_path, LONG, "--resume")
        assert second.returncode == 2
        assert "`--name`: another sweep is using" in second.stderr
    finally:
        driver.send_signal(signal.SIGTERM)
        driver.communicate(timeout=60)


def test_dry_run_writes_nothing(tmp_path: Path, run_here: Run) -> None:
    result = run_here(tmp_path, QUICK, "--dry-run", "list")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "2 batch sizes x 2 switches x 2 seeds -> 6 distinct trials"
    assert "6 trials, 0 of them done already" in result.stdout
    assert len(re.findall(r"^[0-9a-f]{16}  b\d+ .* s$", result.stdout, re.MULTILINE)) == 6
    assert "about" in result.stdout
    assert "Measures of each trial: box_sharpness, hessian_max_eig on" in result.stdout
    assert "Measures take about" in result.stdout
    unlisted = run_here(tmp_path, QUICK, "--dry-run", "--measures", "none").stdout
    assert "easures" not in unlisted
    assert not re.search(r"^[0-9a-f]{16}  b", unlisted, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_foreign_folder_is_left_alone(tmp_path: Path, run_here: Run) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "thesis.tex").write_text("precious")
    result = run_here(tmp_path, QUICK, "--resume")
    assert result.returncode == 2
    assert "holds files that no sweep has written" in result.stderr
    assert [file.name for file in (tmp_path / "test").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "imagenet"], "`dataset` must be one of digits, mnist"),
        (["--dataset", "mnist", "--data-dir", "/nonexistent"], "--download fetches it"),
        (["--batch-sizes", "5000"], "`--batch-sizes`: 5000 is larger than the training set (300 examples)"),
        (["--learning-rates", "-0.1"], "argument --learning-rates: must be a number above 0, got -0.1"),
        (["--learning-rates", "nan"], "must be a number above 0, got nan"),
        (["--batch-size", "16"], "unknown option --batch-size; did you mean --batch-sizes?"),
        (["--switch-epochs", "soon"], "must be none or a whole number of 0 or more, got soon"),
        (["--optimizer", "lion"], "`optimizer` must be one of adam, sgd"),
        (["--model-options", "widths"], "must be KEY=VALUE, got widths; did you mean widths=VALUE?"),
        (["--model-options", "batch_norm", "true", "widths=8"], "got batch_norm; did you mean batch_norm=true?"),
        (["--remedies", "none", "sam_radius", "0.05"], "got sam_radius; did you mean sam_radius=0.05?"),
        (["--remedies", "clip_norm=1,sam_radus=0.1", "none"], "did you mean sam_radius=0.1?"),
        (["--optimizer", "adamw", "weight_decay", "0.1"], "did you mean weight_decay=0.1?"),
        (["--batch-sizes", "16", "500"], "`--batch-sizes`: 500 is larger than the training set (300 examples)"),
        (["--measures", "box_sharpnes"], "got 'box_sharpnes'; did you mean box_sharpness?"),
        pytest.param(["--model", "Resnet"], "got 'Resnet'; did you mean resnet?", marks=pytest.mark.slow),
        (["--dataset", "cifar_10"], "got 'cifar_10'; did you mean cifar10?"),
        (["--task", "clasification"], "got 'clasification'; did you mean classification?"),
        (["--model-options", "width=8"], "got 'width'; did you mean widths?"),
        (["--gpus-per-trial", "0.5"], "`--gpus-per-trial 0.5`: Ray finds no GPU on this machine"),
        (
            ["--gpus-per-trial", "0.5", "--dry-run"],
            "Ray finds no GPU on this machine; use 0",
        ),
        (["--momentum", "0.5"], "`--momentum 0.5` has no effect with --optimizer adam"),
        (["--name", "../up"], "must be a plain folder name"),
        (["--cpus-per-trial", "0"], "must be a whole number of 1 or more, got 0"),
        (["--results", "/proc/nowhere"], "`--results`: /proc/nowhere"),
        (["--warmup-epochs", "1000"], "`warmup_epochs` must be between 0 and `epochs`"),
    ],
)
def test_mistakes_get_one_line(tmp_path: Path, refusal: Callable[..., str], options: list[str], message: str) -> None:
    assert message in refusal(main, ["--results", str(tmp_path), "--no-dashboard", *options])
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.slow
def test_too_much_asked_of_ray(tmp_path: Path, run_here: Run) -> None:
    result = run_here(tmp_path, QUICK, "--cpus-per-trial", "4000")
    assert result.returncode == 2
    assert "must fit one node, got 4000 CPUs" in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr


def test_help_is_quick_and_names_everything() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", str(SCRIPT), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert " torch" not in result.stderr  # nothing heavy is imported for it
    assert result.stdout.count("python sweeps/batch_grid.py") == 3
    from trainables.data import DATASETS
    from trainables.models import MODELS

    assert all(re.search(rf"\b{name}\b", result.stdout) for name in [*DATASETS, *MODELS])


def test_help_shows_what_most_runs_need_and_help_all_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    def options(word: str) -> set[str]:
        with pytest.raises(SystemExit) as ended:
            main([word])
        assert ended.value.code == 0
        return set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))

    few, everything = options("--help"), options("--help-all")
    assert few == {
        "--help", "--help-all", "--batch-sizes", "--learning-rates", "--seeds", "--remedies", "--dataset", "--model",
        "--epochs", "--name", "--resume", "--dry-run", "--plan", "--until-decided",
    }  # fmt: skip
    assert few < everything
    assert len(everything) > 60
    assert options("--help") == few  # the whole help has not changed the short one
