"""The search for the fewest steps to goals: what it minimizes, what it chooses, and what it finds where that is known.

All but the last test drive a campaign in this process, without Ray.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from searches import run_search

from analysis.questions.tuned_steps import is_search, load_tuned_steps
from analysis.reporting.tuned_steps import tuned_steps_lines
from analysis.stats.noisy_quadratic import NoisyQuadratic, Rule, fewest_steps, losses
from analysis.steps_to_result import main as analysis_main
from sweeps.cli.steps_options import parse
from sweeps.steps_to_result import main
from sweeps.tuning.campaign import Campaign, Plan, with_test_set
from sweeps.tuning.goals import Goals
from sweeps.tuning.optuna_study import Outcome, open_storage
from sweeps.tuning.run import begin, known_trials
from sweeps.tuning.steps_to_result import GoalCampaign, plan_of_goals
from trainables.config import TrialConfig
from trainables.data import Source, load_source
from trainables.runtime.errors import UserError

SCRIPT = Path(__file__).parents[3] / "sweeps" / "steps_to_result.py"
QUICK = (  # noqa: SIM905
    "--batch-sizes 30 300 --goal 1.5 1 --seeds 0 1 --trials 4 --epochs 20 --train-size 300 --model-options widths=8"
).split()
DONE = Outcome("x", "completed", steps=30, validation_loss=0.5)


def losses_at(*values: float | None) -> list[dict[str, Any]]:
    """Rows of epochs.parquet, 10 steps apart."""
    return [{"step": 10 * (place + 1), "test_loss": value} for place, value in enumerate(values)]


def test_the_cost_is_the_mean_logarithm_of_the_steps() -> None:
    """1.0 is reached at 10 + 10 (1.2 - 1.0) / (1.2 - 0.7) = 14; 0.5 is not, and the best, 0.6, is 20 % above it."""
    found = Goals("test_loss", "lower", (1.0, 0.5)).noted(DONE, losses_at(1.2, 0.7, 0.6))
    assert found.steps_to_goals == [pytest.approx(14.0), None]
    assert found.cost == pytest.approx((math.log(14) + math.log(30) + 0.2) / 2)
    higher = Goals("test_loss", "higher", (0.65, 0.9)).noted(DONE, losses_at(0.4, 0.5, 0.9))
    assert higher.steps_to_goals == pytest.approx([20 + 10 * 0.15 / 0.4, 30.0])
    assert Goals("test_loss", "lower", (1.0,)).noted(DONE, losses_at(None, math.nan)).cost is None
    assert Goals("test_loss", "lower", (2.0, 0.5, 1.0)).hardest == 0.5
    assert Goals("test_loss", "higher", (2.0, 0.5, 1.0)).hardest == 2.0


def made_up(config: TrialConfig, goals: Goals) -> Outcome:
    """The small batch is the fastest at a rate of 0.003; the large one reaches the easy goal only, above 0.01."""
    if config.batch_size == 30:
        distance = abs(math.log(config.learning_rate / 0.003))
        return goals.noted(Outcome(config.trial_id, "completed", 1, 20, 1.0), losses_at(1.9, 1.2 + distance, 0.9))
    loss = 1.4 if config.learning_rate > 0.01 else 1.6
    return goals.noted(Outcome(config.trial_id, "completed", 1, 20, loss), losses_at(2.0, loss))


def search(plan: Plan, run: Callable[[TrialConfig], Outcome]) -> Campaign:
    campaign = begin(plan, open_storage("sqlite://"), "x", {}, False, GoalCampaign)
    while (config := campaign.next()) is not None:
        campaign.end(run(config))
    return campaign


def test_the_fastest_setting_to_each_goal_is_trained_again(digits: Source) -> None:
    plan = plan_of_goals(parse([*QUICK, "--trials", "8"]), with_test_set(digits, None))
    goals = Goals("test_loss", "lower", (1.5, 1.0))
    assert plan.goals == goals
    campaign = search(plan, lambda config: made_up(config, goals))
    small, large = campaign.studies
    tuning = campaign.studies[small].rows()
    nearest = min(tuning, key=lambda row: abs(math.log(row["learning_rate"] / 0.003)))
    again = [config for configs in campaign.retraining(small).values() for config in configs.values()]
    assert {config.learning_rate for config in again} == {nearest["learning_rate"]}
    assert {(config.seed, config.split_seed, config.validation_size) for config in again} == {
        (0, 0, None),
        (1, 1, None),
    }
    assert {config.target_test_loss for config in again} == {1.0}
    assert {config.seed for config in campaign.begun.values() if config.validation_size == 500} == {1000}
    assert list(campaign.retraining(large)) == ["1.5"]  # no setting of it comes to the other
    assert sum(campaign.missing().values()) == 0
    assert campaign.planned() == len(campaign.begun) == 2 * 8 + 2 + 2
    assert campaign.described(large)["chosen"].keys() == {"1.5"}


def test_the_noise_scale_is_of_the_trials_that_judge(digits: Source) -> None:
    """The search needs none, and a trial's identity does not change."""
    goals = Goals("test_loss", "lower", (1.5, 1.0))
    found = []
    for more in ([], ["--noise-scale", "all"]):
        plan = plan_of_goals(parse([*QUICK, *more]), with_test_set(digits, None))
        found.append(search(plan, lambda config: made_up(config, goals)).begun)
    plain, watched = found
    assert {(config.validation_size is None, config.noise_scale) for config in watched.values()} == {
        (True, "all"),
        (False, None),
    }
    assert watched.keys() == plain.keys()


@pytest.mark.slow
def test_it_finds_the_exact_steps_of_the_noisy_quadratic(tmp_path: Path) -> None:
    """With h_i = c_i = i^-1/2 and 200 weights the loss of a run stays within about 15 % of its exact mean.

    At these goals log f falls about as log t does, so steps differ by as much, and the rate chosen from eight is not
    the best one: 25 % in all. The steps span a factor of ten, from perfect scaling to the floor.
    """
    weights, goal, sizes = 200, 1.35, (2, 8, 64)
    options = {"coordinates": weights, "examples": 2000, "power": 0.5}
    source = load_source("noisy_quadratic", options=options)
    words = (
        f"--batch-sizes {' '.join(map(str, sizes))} --goal {goal} --optimizer sgd --momentum 0 --seeds 0 1 2 "
        "--trials 8 --learning-rate-range 0.1 1.9 --budget 100steps --evaluate-every 1step --model noisy_quadratic "
        "--model-options power=0.5 --train-size 1000 --validation-size 1000"
    )
    plan = plan_of_goals(parse(words.split()), source)
    campaign = run_search(plan, source, tmp_path)
    (one,) = load_tuned_steps(tmp_path)
    assert one.found is not None
    assert is_search(tmp_path)
    spectrum = np.arange(1.0, weights + 1) ** -0.5
    problem, expected = NoisyQuadratic(spectrum, spectrum), []
    for row in one.found.rows:
        exact = fewest_steps(problem, row.batch_size, goal, np.geomspace(0.1, 1.9, 60))
        assert exact is not None
        curve = losses(problem, Rule(exact[1]), row.batch_size, exact[0])
        expected.append(exact[0] - 1 + (curve[-2] - goal) / (curve[-2] - curve[-1]))  # where it crosses the goal
        assert row.judged == (3, 3)
    assert [row.steps.value for row in one.found.rows if row.steps] == pytest.approx(expected, rel=0.25)
    assert expected[0] > 9 * expected[-1]
    text = "\n".join(tuned_steps_lines(tmp_path, margin=0.1))
    assert "Within 0.1 of the smallest batch: " in text
    assert "of 9 runs:\n  batch 2:" in text
    assert f"({one.found.rows[0].reached} of 8 settings reach it)" in text
    assert "3 other seeds" in text
    assert (tmp_path / "figures" / "steps_to_result.png").exists()
    known = known_trials(tmp_path, plan)
    assert {key: one.outcome.steps_to_goals for key, one in known.items()}.keys() == campaign.begun.keys()
    tuning = pq.read_table(tmp_path / "tuning.parquet").to_pylist()
    assert all(known[row["trial_id"]].outcome.steps_to_goals == row["steps_to_goals"] for row in tuning)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-sizes", "16"], "--batch-sizes: must be two or more to compare, got 16"),
        (["--target-loss", "0.1"], "--target-loss: cannot be used: a trial ends at the hardest --goal"),
        (["--goal", "nan"], "--goal: must be a finite number, got nan"),
        (
            ["--metric", "auc"],
            "`--metric` must be metric (accuracy, the primary one of classification) or loss, got auc",
        ),
        (["--seeds", "1000"], "`--tuning-seed` must not be one of the --seeds"),
        (["--seeds", "0", "1", "0"], "--seeds: must be different values, got 0 twice"),
        (
            ["--metric", "accuracy", "--goal", "0.9", "90"],
            "`goal` must be between 0 and 1 for accuracy, got 90; 90 %",
        ),
        (["--metric", "metric", "--goal", "-0.5", "0.9"], "`goal` must be between 0 and 1 for accuracy, got -0.5"),
        (["--goal", "0"], "`goal` must be above 0 for the loss of classification, got 0"),
    ],
)
def test_mistakes_get_one_line(tmp_path: Path, refusal: Callable[..., str], options: list[str], message: str) -> None:
    assert message in refusal(main, ["--results", str(tmp_path), "--no-dashboard", *options])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_real_run_that_is_widened(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A goal that nothing reaches has one line, the other its answer; a wider run trains nothing again.

    Momentum is searched too, and is that of the trials.
    """
    command = [
        sys.executable,
        str(SCRIPT),
        "--results",
        str(tmp_path),
        "--name",
        "x",
        "--no-dashboard",
        "--plain",
        *QUICK,
    ]
    command += ["--metric", "accuracy", "--goal", "0.4", "0.999"]
    command += "--optimizer sgd --learning-rate-range 0.1 1 --momentum-range 0.5 0.9".split()  # noqa: SIM905
    planned = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, timeout=300, check=False)
    assert planned.returncode == 0, planned.stderr
    assert "batch 30: 4 trials of tuning" in planned.stdout
    assert not (tmp_path / "x").exists()
    first = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Steps to test_accuracy >= 0.4, of 4 runs:" in first.stdout
    assert "0 of 8 settings reach test_accuracy >= 0.999, so its steps are not known" in first.stdout
    kept = {row["trial_id"]: row for row in pq.read_table(tmp_path / "x" / "trials.parquet").to_pylist()}
    assert {row["target_metric"] for row in kept.values()} == {0.999}
    assert ", momentum 0." in first.stdout
    tuning = pq.read_table(tmp_path / "x" / "tuning.parquet").to_pylist()
    assert [kept[row["trial_id"]]["momentum"] for row in tuning] == [row["momentum"] for row in tuning]
    assert all(0.5 <= row["momentum"] <= 0.9 for row in tuning)
    wider = [*command, "--resume", "--trials", "5", "--batch-sizes", "30", "100", "300"]
    second = subprocess.run(wider, capture_output=True, text=True, timeout=600, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    rows = {row["trial_id"]: row for row in pq.read_table(tmp_path / "x" / "trials.parquet").to_pylist()}
    assert all(rows[key]["finished_at"] == row["finished_at"] for key, row in kept.items())
    assert "  batch 100: " in second.stdout
    about = json.loads((tmp_path / "x" / "tuning.json").read_text())
    assert about["space"]["momentum"] == [0.5, 0.9]
    assert about["goals"] == {"column": "test_accuracy", "direction": "higher", "values": [0.4, 0.999]}
    assert analysis_main([str(tmp_path / "x")]) == 0
    assert "0 of 15 settings reach test_accuracy >= 0.999" in capfd.readouterr().out


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    assert not is_search(tmp_path)
    (tmp_path / "tuning.json").write_text('{"cells": []}')
    assert not is_search(tmp_path)
    for damaged in ("", '{"goals": {', "null", "\xff"):
        (tmp_path / "tuning.json").write_text(damaged, encoding="latin-1")
        with pytest.raises(UserError, match=r"must hold a whole tuning\.json"):
            is_search(tmp_path)
        assert analysis_main([str(tmp_path)]) == 2
    (tmp_path / "tuning.json").write_text('{"cells": []}')
    with pytest.raises(UserError, match="that sweeps/steps_to_result"):
        load_tuned_steps(tmp_path)
