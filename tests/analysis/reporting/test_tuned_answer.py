"""The answer of a tuned comparison: gaps by hand, and words that follow the intervals."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_up import copied, record
from scipy import stats

from analysis.charts.tuned_gap import tuned_gap_figure
from analysis.data.load import load_sweep
from analysis.questions.tuned_cells import load_tuned_gap
from analysis.reporting.report import write_report
from analysis.reporting.tuned_gap import answer, tuned_gap_lines
from analysis.tuned_gap import main
from trainables.runtime.errors import UserError
from trainables.storage.folders import place

SPACE = {"learning_rate": [1e-4, 1e-1], "warmup_epochs": [0.0, 5.0], "weight_decay": [0.0, 0.0]}
SMALL = (0.950, 0.942, 0.955, 0.947)  # four replicates
WORSE = (0.930, 0.921, 0.936, 0.929)
Write = Callable[..., Path]


def cell(
    size: int, tuned: Sequence[float], untuned: Sequence[float] | None, rate: float, remedy: str = "none", **entry: Any
) -> tuple[dict[str, Any], list[Any], list[dict[str, Any]]]:
    """An entry of tuning.json, its records and its rows of tuning.parquet."""
    fields: dict[str, Any] = {} if remedy == "none" else {"sam_radius": 0.05}
    settings = {"tuned": (tuned, rate), "untuned": (untuned or tuned, 0.003 if untuned else rate)}
    records = {
        name: [
            record(accuracy, batch_size=size, learning_rate=at, seed=seed, split_seed=seed, **fields)
            for seed, accuracy in enumerate(accuracies)
        ]
        for name, (accuracies, at) in settings.items()
    }
    about = {
        "batch_size": size,
        "remedy": remedy,
        "study": f"x: batch {size}, {remedy}",
        "best": {"number": 1, "learning_rate": rate, "warmup_epochs": 1.0, "weight_decay": 0.0},
        "edges": [],
        "trials": {name: [one.trial["trial_id"] for one in found] for name, found in records.items()},
    }
    common = {"batch_size": size, "remedy": remedy, "warmup_epochs": 1.0, "weight_decay": 0.0, "train_seconds": 1.0}
    rows = [
        common | {"number": 0, "status": "stopped", "learning_rate": 0.05, "validation_accuracy": 0.5, "steps": 40},
        common | {"number": 1, "status": "completed", "learning_rate": rate, "validation_accuracy": 0.96, "steps": 100},
    ]
    rows = [row | {"validation_loss": 0.2, "epochs_done": 10, "trial_id": f"{size}-{row['number']}"} for row in rows]
    return about | entry, [*records["tuned"], *records["untuned"]], rows


@pytest.fixture
def write_tuned(write_sweep: Write) -> Write:
    def write_cells(*cells: Any) -> Path:
        records = {one.trial["trial_id"]: one for _, found, _ in cells for one in found}
        folder = write_sweep(records.values())
        about = {
            "objective": "validation_accuracy",
            "space": SPACE,
            "budget": {"trials": 2, "steps": None},
            "cells": [entry for entry, _, _ in cells],
        }
        (folder / "tuning.json").write_text(json.dumps(about))
        pd.DataFrame([row for _, _, rows in cells for row in rows]).to_parquet(folder / "tuning.parquet")
        return folder

    return write_cells


def test_gaps_and_intervals_by_hand(write_tuned: Write) -> None:
    better = tuple(value - shift for value, shift in zip(SMALL, (0.002, 0.001, 0.003, 0.002), strict=True))
    found = load_tuned_gap(write_tuned(cell(16, SMALL, None, 0.003), cell(300, better, WORSE, 0.02)))
    small, large = found.cells
    assert small.tuned_gap is None
    assert small.untuned is None
    for gap, expected in (
        (large.tuned_gap, [0.002, 0.001, 0.003, 0.002]),
        (large.untuned_gap, [0.020, 0.021, 0.019, 0.018]),
        (large.gained, [0.018, 0.020, 0.016, 0.016]),
    ):
        assert gap is not None
        assert gap.interval is not None
        series = pd.Series(expected)
        half = stats.t.ppf(0.975, 3) * series.std() / 2
        assert gap.value == pytest.approx(series.mean())
        assert (gap.interval.low, gap.interval.high) == pytest.approx((series.mean() - half, series.mean() + half))
    assert (large.steps, large.counts) == (140, {"stopped": 1, "completed": 1})
    assert large.validation_metric == 0.96
    assert (large.unfinished, large.off_target) == (0, 0)


@pytest.mark.parametrize(
    ("tuned", "untuned", "words"),
    [
        ((0.951, 0.940, 0.957, 0.945), WORSE, "With each tuned, no significant gap remains"),
        (WORSE, tuple(value - 0.01 for value in WORSE), "Tuning does not remove the gap"),
        (
            tuple(value + 0.02 + 0.001 * (value > 0.95) for value in SMALL),
            WORSE,
            "With each tuned, the gap is reversed",
        ),
        (WORSE, (0.951, 0.940, 0.957, 0.945), "The gap is significant only when both are tuned"),
        ((0.951, 0.940, 0.957, 0.945), (0.949, 0.944, 0.953, 0.948), "There is no significant gap to remove"),
    ],
)
def test_the_verdict_follows_the_intervals(
    write_tuned: Write, tuned: Sequence[float], untuned: Sequence[float], words: str
) -> None:
    cells = cell(16, SMALL, None, 0.003), cell(300, tuned, untuned, 0.02)
    sentence, *others = answer(load_tuned_gap(write_tuned(*cells)))
    assert sentence.startswith("Tuned separately, batch 300 ")
    badly = "Not settled: for batch 300 the search chose a setting that is significantly worse than that of batch 16; "
    advice = "give it more --trials, or a later --grace-epochs."
    assert others == ([badly + advice] if tuned == WORSE and untuned[0] > WORSE[0] else [])
    assert words in sentence
    assert ("shows no significant difference in test accuracy against batch 16" in sentence) == (
        "no significant gap" in words
    )


def test_retrained_trials_that_diverged_are_told(write_tuned: Write) -> None:
    entry, records, rows = cell(300, SMALL, WORSE, 0.02)
    lost = {"status": "diverged", "flags": ["diverged"]}
    records[:2] = [dataclasses.replace(one, trial=one.trial | lost) for one in records[:2]]
    found = load_tuned_gap(write_tuned(cell(16, SMALL, None, 0.003), (entry, records, rows)))
    assert (found.cells[1].retrained, found.cells[1].diverged) == (4, 2)
    (sentence,) = answer(found)
    assert sentence.startswith("Tuned separately in 2 of 4 replicates, batch 300 ")
    assert "It diverged in 2 of 4 retrained trials where batch 16 completed, so it is not free" in sentence
    assert "no significant gap remains" not in sentence


def test_an_edge_of_the_space_makes_it_unsettled(write_tuned: Write) -> None:
    cells = cell(16, SMALL, None, 0.003), cell(300, WORSE, WORSE, 0.099, edges=["learning_rate", "warmup_epochs"])
    folder = write_tuned(*cells)
    _, unsettled, others = answer(load_tuned_gap(folder))
    assert "Not settled: the learning rate chosen for batch 300 lies at an end" in unsettled
    assert others == "At an end of its range too: warmup_epochs of batch 300."
    assert any("0.099*" in line for line in tuned_gap_lines(folder))


def test_the_momentum_that_was_chosen_is_shown(write_tuned: Write) -> None:
    small, large = cell(16, SMALL, None, 0.003), cell(300, WORSE, WORSE, 0.01, edges=["momentum"])
    small[0]["best"]["momentum"], large[0]["best"]["momentum"] = 0.52345, 0.989
    folder = write_tuned(small, large)
    assert "Chosen momentum: batch 16 0.523, batch 300 0.989*." in tuned_gap_lines(folder)
    assert "At an end of its range too: momentum of batch 300." in answer(load_tuned_gap(folder))
    assert "*: at an end of its range." in " ".join(tuned_gap_lines(folder))


def test_remedies_are_tuned_too(write_tuned: Write) -> None:
    helped = cell(300, (0.951, 0.940, 0.957, 0.945), WORSE, 0.01, remedy="sam_radius=0.05")
    folder = write_tuned(cell(16, SMALL, None, 0.003), cell(300, WORSE, WORSE, 0.02), helped)
    found = load_tuned_gap(folder)
    assert answer(found)[1].startswith("Tuned with sam_radius=0.05, batch 300 shows no significant difference")
    lines = tuned_gap_lines(folder)
    assert "with sam_radius=0.05:" in lines
    assert all(len(line) <= 88 for line in lines)


def test_one_replicate_gives_no_interval_and_no_claim(write_tuned: Write) -> None:
    folder = write_tuned(cell(16, SMALL[:1], None, 0.003), cell(300, WORSE[:1], WORSE[:1], 0.02))
    (sentence,) = answer(load_tuned_gap(folder))
    assert "too few replicates for an interval" in sentence
    assert "significant gap remains" not in sentence


def test_what_is_missing_is_said(write_tuned: Write) -> None:
    entry, records, rows = cell(300, WORSE, WORSE, 0.02)
    nothing = entry | {"best": None, "trials": {}}
    (verdict, without) = answer(load_tuned_gap(write_tuned(cell(16, SMALL, None, 0.003), (nothing, records, rows))))
    assert "has not been retrained" in verdict
    assert without == "No tuning trial had a finite result for batch 300."


def test_an_unfinished_run_can_be_looked_at(write_tuned: Write) -> None:
    entry, records, rows = cell(16, SMALL, None, 0.003)
    folder = write_tuned((entry | {"best": None, "trials": {}}, records, rows))
    found = load_tuned_gap(folder)
    assert answer(found) == [
        "No tuning trial of batch 16 has come to a result yet, so there is nothing to compare with."
    ]
    with pytest.raises(UserError, match="must hold retrained trials that completed"):
        tuned_gap_figure(found)


@pytest.mark.usefixtures("undrawn")
def test_files_and_command(write_tuned: Write, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tuned(cell(16, SMALL, None, 0.003), cell(300, WORSE, WORSE, 0.02))
    assert main([str(folder)]) == 0
    assert "Tuning does not remove the gap" in " ".join(capsys.readouterr().out.split())
    assert (folder / "figures" / "tuned_gap.svg").exists()
    assert write_report(load_sweep(folder)).exists()  # the report of any sweep reads it too


@pytest.mark.usefixtures("undrawn")
def test_remote_results_are_answered_too(write_tuned: Write, tmp_path: Path) -> None:
    local = write_tuned(cell(16, SMALL, None, 0.003), cell(300, WORSE, WORSE, 0.02))
    folder = copied(local, place(f"mock://{tmp_path}/there"))
    assert "figures/tuned_gap.png" in " ".join(tuned_gap_lines(folder))
    assert (folder / "figures" / "tuned_gap.png").exists()


def test_other_folders_get_one_line(write_sweep: Write) -> None:
    folder = write_sweep([record()])
    script = Path(__file__).parents[3] / "analysis" / "tuned_gap.py"
    result = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "must be a folder that sweeps/tuned_gap.py has written" in result.stderr
    assert result.stderr.count("\n") == 1
