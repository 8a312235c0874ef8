"""Measuring examples a second: what is timed, how batch sizes take turns, and mistakes of the command."""

from pathlib import Path

import pytest
import torch
from made_up import law, write

from sweeps.cli.throughput_options import parse
from sweeps.plan import throughput
from sweeps.plan.grid import Grid, expand
from sweeps.plan.throughput import REPEATS, measure_throughput
from sweeps.throughput import main
from trainables.config import TrialConfig
from trainables.data import Source


def configs(source: Source) -> list[TrialConfig]:
    grid = Grid(
        batch_sizes=(50, 100, 300), learning_rates=(0.01,), model_options={"widths": [8]}, epochs=1, train_size=300,
        measures=(),
    )  # fmt: skip
    return expand(grid, source)


def test_examples_by_seconds(digits: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """With passes of 0.2 s each, 1 s for REPEATS repeats is a pass of all whole batches a repeat."""
    turns: list[int] = []

    def of_a_fifth(self: throughput.Passes) -> float:
        turns.append(self.batch_size)
        return 0.2

    monkeypatch.setattr(throughput.Passes, "run_once", of_a_fifth)
    found = measure_throughput(configs(digits), digits, torch.device("cpu"), 1.0).passes
    assert found["throughput"].tolist() == pytest.approx([50 / 0.2, 100 / 0.2, 300 / 0.2] * REPEATS)
    assert turns[6:] == [50, 100, 300] * REPEATS  # after two passes of each, of which the first warms up


def test_short_passes_are_made_longer(digits: Source) -> None:
    found = measure_throughput(configs(digits)[:1], digits, torch.device("cpu"), 0.1).passes
    assert len(found) == REPEATS
    assert (found["throughput"] > 0).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--batch-sizes 5000", "`--batch-sizes`: 5000 is larger than the training set (300 examples)"),
        ("--batch-sizes 0", "--batch-sizes: must be a whole number of 1 or more, got 0"),
        ("--goal 1", "`--goal` has no effect without --sweep"),
        ("--price-per-hour 0", "--price-per-hour: must be a number above 0, got 0"),
        ("--sweep {empty} --seconds 1", "`--seconds` has no effect with --sweep unless --measure is given"),
        (
            "--sweep {empty} --measure-workers 2",
            "`--measure-workers` has no effect with --sweep unless --measure is given",
        ),
        ("--devices 1 2", "`--devices` needs --bandwidth (or --measure-workers to measure it here)"),
        ("--devices 1 2 --bandwidth 10GB/s", "`--devices` needs --latency (or --measure-workers to measure it here)"),
        ("--devices 2 --bandwidth 1e308GB/s", "--bandwidth: must be a number with GB/s or MB/s"),
        ("--devices 2 --latency 1e-323ns", "--latency: must be a number with us or"),
        ("--goal inf", "--goal: must be a finite number, got inf"),
        ("--devices 2 --bandwidth 10", "--bandwidth: must be a number with GB/s or MB/s, Gbit/s, Mbit/s, got 10"),
        ("--devices 2 --latency 0us", "--latency: must be a number above 0, got 0"),
        ("--latency 20us", "`--latency` has no effect without --devices"),
        ("--overhead 2ms", "`--overhead` has no effect without --devices"),
        ("--measure-workers 2 --overhead 2ms", "`--overhead` has no effect with --measure-workers, which measures it"),
        ("--optimizer sgd adamw", "`--optimizer` must be one, whose throughput is measured, got sgd adamw"),
        (
            "--measure-workers 2 --bandwidth 1GB/s",
            "`--bandwidth` has no effect with --measure-workers, which measures it",
        ),
        ("--measure-workers 1", "--measure-workers: must be a whole number of 2 or more, got 1"),
        (
            "--batch-sizes 2 --measure-workers 4",
            "`--measure-workers` must be no more than the smallest batch (2), got 4",
        ),
        ("--sweep {empty}", "must be a folder that a sweep has written"),
    ],
)
def test_mistakes(arguments: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: object = main(arguments.format(empty=tmp_path).split())
    except SystemExit as ended:
        status = ended.code
    said = capsys.readouterr()
    assert status == 2
    assert says in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_units_of_a_link() -> None:
    read = parse(["--devices", "2", "--bandwidth", "10Gbit/s", "--latency", "20us"])
    assert read.bandwidth == pytest.approx(1.25e9)
    assert read.latency == pytest.approx(2e-5)
    assert parse(["--bandwidth", "2.5MB/s"]).bandwidth == pytest.approx(2.5e6)
    assert parse(["--latency", "3ms"]).latency == pytest.approx(3e-3)


def test_on_several_devices(capsys: pytest.CaptureFixture[str]) -> None:
    """The MLP with 8 hidden units has 64 * 8 + 8 + 8 * 10 + 10 = 610 parameters, 2440 bytes."""
    options = "--batch-sizes 4 50 --seconds 0.1 --model-options widths=8 --devices 1 8 --bandwidth 1GB/s --latency 1ms "
    options += "--overhead 2ms"
    assert main(options.split()) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[3].startswith(
        "Data parallel: 0.00244 MB of gradient, ring all-reduce at 1 GB/s and 1000 µs per message, "
        "2 ms of overhead per step;"
    )
    assert [line.split(":")[0] for line in said[4:]] == [
        "  batch 4 on 1 device", "  batch 50 on 1 device", "  batch 50 on 8 devices",
        "  batch 4 on 8 devices", "Model error",
    ]  # fmt: skip
    assert said[7] == "  batch 4 on 8 devices: left out, fewer examples than devices"


def test_a_goal_out_of_reach_costs_its_own_answer_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "sweep", law(factors=(0.9, 1.0, 1.1)))
    command = ["--sweep", str(folder), "--metric", "train_loss", "--goal"]
    assert main([*command, "1e-30", "0.001"]) == 0
    said = capsys.readouterr().out
    assert said.count("Fastest") == 1
    assert "1e-30: no batch size reaches it in every replicate." in said
    assert main([*command, "1e-30"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
