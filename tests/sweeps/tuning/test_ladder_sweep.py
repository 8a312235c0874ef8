"""The ladder of optimizers: what it tunes, and what it finds where the truth is known. All but one run without Ray."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from searches import run_search

from analysis.optimizer_ladder import main as analysis_main
from analysis.questions.optimizer_ladder import load_ladder
from analysis.questions.tuned_steps import load_tuned_steps
from analysis.reporting.optimizer_ladder import ladder_lines
from analysis.stats.noisy_quadratic import NoisyQuadratic, Rule, losses
from sweeps.cli.ladder_options import parse
from sweeps.optimizer_ladder import main
from sweeps.tuning.campaign import with_test_set
from sweeps.tuning.optimizer_ladder import plan_of_ladder
from sweeps.tuning.optuna_study import open_storage
from sweeps.tuning.run import begin
from sweeps.tuning.steps_to_result import GoalCampaign
from trainables.config import DEFAULT_MOMENTUM
from trainables.data import Source, load_source
from trainables.runtime.errors import UserError

SCRIPT = Path(__file__).parents[3] / "sweeps" / "optimizer_ladder.py"

QUICK = (  # noqa: SIM905
    "--batch-sizes 30 300 --goal 0.3 0.999 --metric accuracy --seeds 0 1 --trials 2 --epochs 4 --train-size 300 "
    "--model-options widths=8 --optimizer sgd"
).split()


def test_every_optimizer_has_the_same_budget_and_a_range_of_its_own(digits: Source) -> None:
    words = (
        "--batch-sizes 30 100 --trials 5 --optimizer sgd adamw betas=0.9,0.95 lr=0.01,0.05 adamw sam_radius=0.1 muon"
    )
    plan = plan_of_ladder(parse(words.split()), with_test_set(digits, None))
    campaign = begin(plan, open_storage("sqlite://"), "x", {}, False, GoalCampaign)
    assert [cell.name for cell in campaign.studies] == [
        f"{name}, batch {size}"
        for name in ("sgd", "adamw betas=0.9,0.95", "adamw sam_radius=0.1", "muon")
        for size in (30, 100)
    ]
    assert {study.planned for study in campaign.studies.values()} == {5}
    ranges = {cell.rung: study.rules.space.learning_rate for cell, study in campaign.studies.items()}
    assert list(ranges.values()) == [
        pytest.approx((0.003, 1.0)), (0.01, 0.05), pytest.approx((0.0003, 0.1)), pytest.approx((0.003, 1.0))
    ]  # fmt: skip
    configs = [plan.tuned(cell, study.rules.space.whole({})) for cell, study in campaign.studies.items()][::2]
    assert [config.optimizer for config in configs] == ["sgd", "adamw", "adamw", "muon"]
    assert [config.momentum for config in configs] == [DEFAULT_MOMENTUM, None, None, None]
    assert [config.sam_radius for config in configs] == [None, None, 0.1, None]
    assert configs[1].optimizer_options == '{"betas": [0.9, 0.95]}'


def exact_steps(problem: NoisyQuadratic, momentum: float, batch_size: int, goal: float, highest: float) -> float:
    """The fewest steps of a grid of rates, on a line between the steps around the goal."""
    found = math.inf
    for rate in np.geomspace(highest / 20, highest, 40):
        curve = losses(problem, Rule(rate, momentum=momentum), batch_size, 60)
        if (at_goal := curve <= goal).any():
            step = int(at_goal.argmax())
            found = min(found, step - (goal - curve[step]) / (curve[step - 1] - curve[step]))
    return found


@pytest.mark.slow
def test_it_finds_the_better_optimizer_of_the_noisy_quadratic(tmp_path: Path) -> None:
    """At batch 64 heavy-ball momentum of 0.9 takes about twice as many steps as none; tolerances as in the test of
    test_search_for_goals.py on this problem."""
    weights, goal, sizes, momenta = 200, 1.35, (8, 64), {"sgd momentum=0.9": 0.9, "sgd momentum=0": 0.0}
    highest = {"sgd momentum=0.9": 0.2, "sgd momentum=0": 1.9}
    source = load_source("noisy_quadratic", options={"coordinates": weights, "examples": 2000, "power": 0.5})
    words = (
        f"--batch-sizes 8 64 --goal {goal} 0.001 --seeds 0 1 2 --trials 8 --budget 60steps --evaluate-every 1step "
        "--optimizer sgd momentum=0.9 lr=0.01,0.2 sgd momentum=0 lr=0.095,1.9 --model noisy_quadratic "
        "--model-options power=0.5 --train-size 1000 --validation-size 1000"
    )
    plan = plan_of_ladder(parse(words.split()), source)
    run_search(plan, source, tmp_path)
    easy, hard = load_ladder(tmp_path)
    spectrum = np.arange(1.0, weights + 1) ** -0.5
    problem = NoisyQuadratic(spectrum, spectrum)
    expected = {
        (name, size): exact_steps(problem, momenta[name], size, goal, highest[name])
        for name in momenta
        for size in sizes
    }
    found = {
        (rung.name, row.batch_size): row.steps.value
        for rung in easy.rungs
        if rung.tuned.found is not None
        for row in rung.tuned.found.rows
        if row.steps is not None
    }
    assert found == pytest.approx(expected, rel=0.25)
    assert easy.fewest is not None
    assert (easy.fewest.batch_size, easy.fewest.name) == (64, "sgd momentum=0")
    ((name, ratio),) = easy.fewest.ratios
    assert name == "sgd momentum=0.9"
    assert ratio.value == pytest.approx(found[name, 64] / found["sgd momentum=0", 64])
    assert ratio.interval is not None
    assert ratio.interval.low > 1
    for rung in easy.rungs:
        assert set(rung.settings) == set(sizes)
        of_trials = {size: seconds_to_goal(tmp_path, rung.name, size, goal) for size in sizes}
        assert {size: mean.value for size, mean in rung.seconds.items()} == pytest.approx(of_trials)
        assert easy.examples is not None
        after = {size: loss_after(tmp_path, rung.name, size, goal, easy.examples) for size in sizes}
        assert {size: mean.value for size, mean in rung.losses.items()} == pytest.approx(after)
    assert hard.fewest is None
    assert all(rung.tuned.found is None for rung in hard.rungs)

    said = "\n".join(ladder_lines(tmp_path))
    assert "At batch 64, sgd momentum=0 needs the fewest steps to test_loss <= 1.35: " in said
    assert ". sgd momentum=0.9 takes " in said
    assert ": significant)" in said
    assert "0 of 16 settings reach test_loss <= 0.001; try an easier goal" in said
    assert (tmp_path / "figures" / "optimizer_ladder.png").exists()
    kept = json.loads((tmp_path / "optimizer_ladder.json").read_text())
    assert kept[0]["fewest_steps"]["optimizer"] == "sgd momentum=0"
    assert kept[0]["optimizers"]["sgd momentum=0"]["critical_batch"] is None  # of two batch sizes
    assert kept[1]["optimizers"]["sgd momentum=0"]["batch_sizes"] == {}
    with pytest.raises(UserError, match="a ladder of several"):
        load_tuned_steps(tmp_path)


def judging(folder: Path, rung: str, size: int, goal: float) -> Iterator[list[dict[str, Any]]]:
    """The rows of epochs.parquet, by step, of each run that judges."""
    about = json.loads((folder / "tuning.json").read_text())
    (cell,) = [one for one in about["cells"] if (one["optimizer"], one["batch_size"]) == (rung, size)]
    assert len(cell["trials"][repr(goal)]) == 3
    for trial in cell["trials"][repr(goal)]:
        rows = [row for row in pq.read_table(folder / "epochs.parquet").to_pylist() if row["trial_id"] == trial]
        yield sorted(rows, key=lambda one: one["step"])


def seconds_to_goal(folder: Path, rung: str, size: int, goal: float) -> float:
    """The geometric mean over the runs that judge, by a loop over their rows."""
    logs = []
    for rows in judging(folder, rung, size, goal):
        before, seconds = math.nan, 0.0
        for row in rows:
            if row["test_loss"] <= goal:
                share = (before - goal) / (before - row["test_loss"])
                logs.append(math.log(seconds + share * row["seconds"]))
                break
            before, seconds = row["test_loss"], seconds + row["seconds"]
    assert len(logs) == 3
    return math.exp(math.fsum(logs) / 3)


def loss_after(folder: Path, rung: str, size: int, goal: float, examples: float) -> float:
    """The mean over the runs that judge, on a line between the steps around so many examples."""
    values = []
    for rows in judging(folder, rung, size, goal):
        step, part = divmod(examples / size, 1)
        first, second = (next(row["test_loss"] for row in rows if row["step"] == step + more) for more in (0, part > 0))
        values.append(first + part * (second - first))
    return math.fsum(values) / 3


def test_batches_that_grow_are_an_entry_with_a_range_around_one() -> None:
    given = ["--optimizer", "adamw", "progressive_lbfgs", "memory=5", "theta=0.5"]
    adamw, progressive = parse([*given, "--learning-rate-range", "0.001", "0.1"]).rungs
    assert progressive.words == "progressive_lbfgs memory=5 theta=0.5"
    assert dict(progressive.options) == {"memory": 5, "theta": 0.5}
    assert progressive.ranges == {"learning_rate": (0.03, 3.0)}
    assert adamw.ranges == {"learning_rate": (0.001, 0.1)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optimizer", "adamw"], "--optimizer: must be two or more to compare, got adamw"),
        (["--optimizer", "sgd", "sgd", "lr=0.1,1"], "--optimizer: must be different entries, got sgd twice"),
        (["--optimizer", "sgd", "lr=0.1"], "--optimizer: lr must be a range LOW,HIGH of learning rates"),
        (["--optimizer", "sgd", "lr=1,0.1", "adamw"], "lr must be LOW,HIGH with 0 < LOW <= HIGH, got 1,0.1"),
        (["--optimizer", "sgd", "momentum=much"], "--optimizer: momentum of sgd must be a number, got much"),
        (["--optimizer", "lbfgs", "sgd"], "--optimizer: lbfgs takes the whole training set"),
        (["--optimizer", "sgd", "progressive_lbfgs", "clip_norm=1"], "`clip_norm` cannot be used with progress"),
        (["--optimizer", "adamw", "sgd", "sam_radius=wide"], "`sam_radius` must be a number, got wide"),
        (["--optimizer", "sgd", "adamw", "beta=1"], "`optimizer`: adamw has no option beta; did you mean betas?"),
        (["--momentum", "0.5"], "--momentum: cannot be used: it follows the name of an optimizer"),
        (["--batch-sizes", "16"], "--batch-sizes: must be two or more to compare, got 16"),
        (["--target-loss", "0.1"], "--target-loss: cannot be used: a trial ends at the hardest --goal"),
    ],
)  # fmt: skip
def test_mistakes_get_one_line(tmp_path: Path, refusal: Callable[..., str], options: list[str], message: str) -> None:
    assert message in refusal(main, ["--results", str(tmp_path), "--no-dashboard", *options])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_kind_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / "tuning.json").write_text('{"cells": []}')
    assert "that sweeps/optimizer_ladder.py has written" in refusal(analysis_main, [str(tmp_path)])


@pytest.mark.slow
def test_a_real_run_that_is_resumed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A goal that no optimizer reaches has one line for each; a further optimizer trains nothing again."""
    command = [sys.executable, str(SCRIPT), "--results", str(tmp_path), "--name", "x", "--no-dashboard", "--plain"]
    command += QUICK
    first = subprocess.run([*command, "adamw"], capture_output=True, text=True, timeout=900, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "adamw: 0 of 4 settings reach test_accuracy >= 0.999; try an easier goal or a wider range." in first.stdout
    kept = {row["trial_id"]: row for row in pq.read_table(tmp_path / "x" / "trials.parquet").to_pylist()}
    wider = [*command, "adamw", "muon", "--resume"]
    second = subprocess.run(wider, capture_output=True, text=True, timeout=900, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    rows = {row["trial_id"]: row for row in pq.read_table(tmp_path / "x" / "trials.parquet").to_pylist()}
    assert all(rows[key]["finished_at"] == row["finished_at"] for key, row in kept.items())
    assert {row["optimizer"] for row in rows.values()} == {"sgd", "adamw", "muon"}
    assert analysis_main([str(tmp_path / "x")]) == 0
    assert "muon: 0 of 4 settings reach test_accuracy >= 0.999" in capfd.readouterr().out
