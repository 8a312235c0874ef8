"""Measuring examples a second: what is timed, how batch sizes take turns, and mistakes of the command."""

from pathlib import Path

import pytest
import torch

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

    def of_a_fifth(self: throughput._Passes) -> float:
        turns.append(self.batch_size)
        return 0.2

    monkeypatch.setattr(throughput._Passes, "_pass", of_a_fifth)
    found = measure_throughput(configs(digits), digits, torch.device("cpu"), 1.0)
    assert found["throughput"].tolist() == pytest.approx([50 / 0.2, 100 / 0.2, 300 / 0.2] * REPEATS)
    assert turns[6:] == [50, 100, 300] * REPEATS  # after two passes of each, of which the first warms up


def test_short_passes_are_made_longer(digits: Source) -> None:
    found = measure_throughput(configs(digits)[:1], digits, torch.device("cpu"), 0.1)
    assert len(found) == REPEATS
    assert (found["throughput"] > 0).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--batch-sizes 5000", "`batch_size` must be between 1 and the 300 training examples, got 5000"),
        ("--batch-sizes 0", "--batch-sizes: must be a whole number of 1 or more, got 0"),
        ("--goal 1", "`--goal` has no effect without --sweep"),
        ("--price-per-hour 0", "--price-per-hour: must be a number above 0, got 0"),
        ("--sweep {empty} --seconds 1", "`--seconds` has no effect with --sweep unless --measure is given"),
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
