"""Importance of hyperparameters: sweeps made up so that each share is known."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up import failed, record, write

from analysis import importance as script
from analysis.data.load import Sweep, load_sweep
from analysis.questions.importance import Importances, importance, importance_sentence, importances
from trainables.records.tables import Record
from trainables.runtime.errors import UserError

SIZES, RATES, SEEDS = (16, 64, 256), (0.003, 0.01), (0, 1, 2)


def accuracy(size: int, rate: float, seed: int) -> float:
    """Batch size in steps of 0.01 (variance 2/3), learning rate +-0.01 (1), seed in steps of 0.01 (2/3)."""
    return 0.9 - 0.01 * SIZES.index(size) + (0.01 if rate == 0.01 else -0.01) + 0.01 * seed


def made(
    folder: Path,
    change: Callable[[dict[str, Any]], Record | None] | None = None,
    accuracy: Callable[[int, float, int], float] = accuracy,
) -> Sweep:
    records = []
    for size, rate, seed in itertools.product(SIZES, RATES, SEEDS):
        values: dict[str, Any] = {"batch_size": size, "learning_rate": rate, "seed": seed, "split_seed": seed}
        records.append((change and change(values)) or record(accuracy(size, rate, seed), **values))
    return load_sweep(write(folder, records))


def shares(found: Importances) -> dict[str, float]:
    return {row.hyperparameter: row.share for row in found.rows}


def test_shares_of_the_metric_are_those_of_the_variances(tmp_path: Path) -> None:
    sweep = made(tmp_path / "sweep")
    found = importance(sweep)
    third = (2 / 3) / (2 / 3 + 1 + 2 / 3)
    assert shares(found) == pytest.approx(
        {
            "learning rate": 3 / 2 * third,
            "batch size": third,
            "batch size x learning rate": 0,
            "replicate (seed, data split)": third,
            "noise": 0,
        },
        abs=1e-9,
    )
    assert (found.trials, found.attempted, found.replicates) == (18, 18, 3)
    assert importance_sentence(sweep, found) == (
        "Of the variance of the test accuracy, learning rate explains 43 % alone and 43 % with its interactions "
        "(complete grid of 18 plain trials, 3 replicates)."
    )


def test_the_gap_is_split_without_its_references(tmp_path: Path) -> None:
    """Gaps of 1 and 2 points at one rate, 3 and 6 at the other: effects +-1 (batch), +-1.5 (rate), +-0.5 (both)."""

    def with_gap(size: int, rate: float, seed: int) -> float:
        return 0.9 - 0.01 * SIZES.index(size) * (3 if rate == 0.01 else 1) + rate + 0.01 * seed

    found = importances(made(tmp_path / "sweep", accuracy=with_gap))[1]
    assert found.rows[0].target == "large_batch_gap"
    assert shares(found) == pytest.approx(
        {
            "learning rate": 2.25 / 3.5,
            "batch size": 1 / 3.5,
            "batch size x learning rate": 0.25 / 3.5,
            "replicate (seed, data split)": 0,
            "noise": 0,
        },
        abs=1e-9,
    )
    assert [row.with_interactions for row in found.rows[:2]] == pytest.approx([2.5 / 3.5, 1.25 / 3.5])


def test_values_without_all_their_trials_are_left_out(tmp_path: Path) -> None:
    def change(values: dict[str, Any]) -> Record | None:
        lost = values["batch_size"] == 256 and values["learning_rate"] == 0.01
        return failed("diverged", **values) if lost else None

    sweep = made(tmp_path / "sweep", change)
    found = importance(sweep)
    assert (found.trials, found.attempted) == (12, 18)
    assert shares(found)["learning rate"] == pytest.approx(1 / (1 + 1 / 4 + 2 / 3), abs=1e-9)
    assert "(complete grid of 12 of 18 plain trials, 3 replicates)" in importance_sentence(sweep, found)
    gaps = made(tmp_path / "gaps", change, lambda size, rate, seed: accuracy(size, rate, seed) - rate * (size > 16))
    of_gap = importance(gaps, "large_batch_gap")
    assert (of_gap.trials, of_gap.attempted) == (6, 12)  # batch 64 at both rates; without the references, batch 16


def test_an_axis_that_follows_from_another_is_counted_with_it(tmp_path: Path) -> None:
    records = [
        record(accuracy(size, 0.01, seed), batch_size=size, learning_rate=size / 1e4, seed=seed, split_seed=seed)
        for size, seed in itertools.product(SIZES, SEEDS)
    ]
    found = importance(load_sweep(write(tmp_path / "sweep", records)))
    assert next(iter(shares(found))) == "batch size (with learning rate)"
    assert shares(found)["batch size (with learning rate)"] == pytest.approx(0.5)


def test_one_replicate_says_that_noise_is_in_the_shares(tmp_path: Path) -> None:
    records = [
        record(accuracy(size, rate, 0), batch_size=size, learning_rate=rate) for size, rate in
        itertools.product(SIZES, RATES)
    ]  # fmt: skip
    sweep = load_sweep(write(tmp_path / "sweep", records))
    found = importance(sweep)
    assert shares(found) == pytest.approx({"learning rate": 0.6, "batch size": 0.4, "batch size x learning rate": 0})
    assert importance_sentence(sweep, found).endswith("One replicate: noise is part of these shares.")


def test_a_sweep_without_a_grid_is_an_error_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "sweep", [record(0.9), record(0.8, seed=1, split_seed=1)])
    assert script.main([str(folder)]) == 2
    assert "`results` must hold a grid of plain trials in which test_accuracy varies" in capsys.readouterr().err
    with pytest.raises(UserError, match="`target` must be a column"):
        importance(load_sweep(folder), "nothing")


def test_the_script_prints_both_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([str(made(tmp_path / "sweep").folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("Of the variance")][1].startswith(
        "Of the variance of the large-batch gap, batch size explains 100 % alone"
    )
    assert any(line.split() == ["learning", "rate", "43", "%", "43", "%", "<", "0.001"] for line in lines)
