"""Momentum and betas in the search: how they are drawn, where they are set, what is found. No test runs Ray."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
from searches import run_search

from analysis.questions.tuned_steps import load_tuned_steps
from analysis.stats.noisy_quadratic import NoisyQuadratic, Rule, losses
from sweeps.cli.ladder_options import parse as parse_ladder
from sweeps.cli.steps_options import parse
from sweeps.optimizer_ladder import main as ladder
from sweeps.steps_to_result import main
from sweeps.tuned_gap import main as tuned_gap
from sweeps.tuning.campaign import Campaign, Plan, with_test_set
from sweeps.tuning.optimizer_ladder import plan_of_ladder
from sweeps.tuning.optuna_study import Outcome, Rules, open_storage
from sweeps.tuning.run import begin
from sweeps.tuning.search_space import Space
from sweeps.tuning.steps_to_result import GoalCampaign, plan_of_goals
from trainables.config import TrialConfig
from trainables.data import Source, load_source
from trainables.runtime.errors import UserError

KEPT = Path(__file__).parents[3] / "docs" / "kept" / "steps_to_result_digits"
FIXED: dict[str, Any] = {"warmup_epochs": (0.0, 0.0), "weight_decay": (0.0, 0.0)}
SMALL = "--batch-sizes 30 300 --train-size 300 --model-options widths=8 --seeds 0 1".split()  # noqa: SIM905


def test_momentum_is_log_uniform_in_what_it_lacks_to_one() -> None:
    space = Space(learning_rate=(0.1, 0.1), **FIXED, momentum=(0.0, 0.99), beta2=(0.9, 0.9999))
    assert space.distributions.keys() == {"1 - momentum", "1 - beta2"}
    distribution = space.distributions["1 - momentum"]
    assert (distribution.low, distribution.high) == pytest.approx((0.01, 1.0))
    assert distribution.log
    points = [space.whole(point) for point in space.startup_points(3)]
    for name, first, decades in (("momentum", 1.0, 2), ("beta2", 0.1, 3)):  # every eighth of the range has one point
        places = sorted(int(-8 * math.log10((1 - point[name]) / first) / decades) for point in points)
        assert places == list(range(8))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = []
    for _ in range(400):
        trial = study.ask()
        rest = trial.suggest_float("1 - momentum", distribution.low, distribution.high, log=distribution.log)
        drawn.append(-math.log10(1 - space.whole({"1 - momentum": rest})["momentum"]) / 2)
    assert np.mean(drawn) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 400))  # uniform in [0, 1]
    assert np.mean(np.square(drawn)) == pytest.approx(1 / 3, abs=4 * math.sqrt(4 / 45 / 400))


def test_values_stay_in_their_range() -> None:
    """1 - (1 - x) differs from x in the last bit."""
    for low, high in ((0.0, 0.1), (0.3, 0.7), (0.9, 0.999999)):
        space = Space(learning_rate=(0.1, 1.0), **FIXED, momentum=(low, high))
        ends = space.distributions["1 - momentum"]
        found = [space.whole({"learning_rate": 0.1, "1 - momentum": end})["momentum"] for end in (ends.high, ends.low)]
        assert found == pytest.approx([low, high], rel=1e-9)
        assert low <= found[0] < found[1] <= high
    fixed = Space(learning_rate=(0.1, 1.0), **FIXED, momentum=(0.7, 0.7))
    assert fixed.whole({"learning_rate": 0.1})["momentum"] == 0.7
    assert fixed.distributions.keys() == {"learning_rate"}


def test_ends_of_a_range_of_momenta() -> None:
    """5 % of the way from 1 to 0.01 on a logarithmic axis is at 1 - 10^-0.1 = 0.206, and 95 % at 1 - 10^-1.9."""
    space = Space(learning_rate=(0.1, 1.0), **FIXED, momentum=(0.0, 0.99), beta1=(0.9, 0.99))
    inside = {"learning_rate": 0.3, "momentum": 0.9, "beta1": 0.95}
    assert space.edges(inside) == []
    assert space.edges(inside | {"momentum": 1 - 10**-1.89}) == []
    assert space.edges(inside | {"momentum": 1 - 10**-1.91}) == ["momentum"]
    assert space.edges(inside | {"momentum": 0.0}) == []  # no momentum is an end by nature
    assert space.edges(inside | {"beta1": 0.901}) == ["beta1"]


def test_a_search_without_momentum_is_what_it_was() -> None:
    """So earlier studies go on: what they declare, and the points that the kept search has begun with."""
    space = Space(learning_rate=(0.0003, 0.1), **FIXED)
    declared = Rules(space=space, objective="cost", seed=1000, round_size=4, grace_epochs=2, goals=(0.5,)).declared()
    assert declared == {
        "space": {"learning_rate": [0.0003, 0.1], "warmup_epochs": [0.0, 0.0], "weight_decay": [0.0, 0.0]},
        "objective": "cost",
        "seed": 1000,
        "round_size": 4,
        "grace_epochs": 2,
        "goals": [0.5],
    }
    kept = [row for row in pq.read_table(KEPT / "tuning.parquet").to_pylist() if row["batch_size"] == 8]
    first = [point["learning_rate"] for point in space.startup_points(1000)]
    assert [row["learning_rate"] for row in sorted(kept, key=lambda row: row["number"])[:8]] == pytest.approx(
        first, rel=1e-12
    )


@pytest.mark.parametrize(
    ("words", "momentum", "options"),
    [
        ("sgd --momentum-range 0.5 0.9", [0.5, 0.9], [{}, {}]),
        ("rmsprop --momentum-range 0.5 0.9", [None, None], [{"momentum": 0.5}, {"momentum": 0.9}]),
        ("adam --beta1-range 0.5 0.8", [None, None], [{"betas": [0.5, 0.999]}, {"betas": [0.8, 0.999]}]),
        ("adamw eps=1e-6 --beta2-range 0.99 0.99", [None] * 2, [{"betas": [0.9, 0.99], "eps": 1e-6}] * 2),
        (
            "nadam --beta1-range 0.5 0.8 --beta2-range 0.9 0.99",
            [None, None],
            [{"betas": [0.5, 0.9]}, {"betas": [0.8, 0.99]}],
        ),
    ],
)
def test_where_they_are_set(words: str, momentum: list[Any], options: list[Any], digits: Source) -> None:
    """The trials at the two ends of every range."""
    plan = plan_of_goals(parse([*SMALL, "--optimizer", *words.split()]), with_test_set(digits, None))
    space = plan.rules.space
    ends = [plan.tuned(plan.cells[0], {name: range_[k] for name, range_ in space.ranges.items()}) for k in (0, 1)]
    assert [config.momentum for config in ends] == momentum
    assert [json.loads(config.optimizer_options) for config in ends] == options


def test_entries_of_the_ladder_with_ranges_of_their_own(digits: Source) -> None:
    words = "--trials 5 --optimizer sgd momentum=0,0.99 sgd momentum=0.5 adamw beta1=0.5,0.9 beta2=0.9,0.99 adamw"
    plan = plan_of_ladder(parse_ladder([*SMALL, *words.split()]), with_test_set(digits, None))
    spaces = {cell.rung: plan.rules_of(cell).space for cell in plan.cells}
    assert list(spaces) == ["sgd momentum=0,0.99", "sgd momentum=0.5", "adamw beta1=0.5,0.9 beta2=0.9,0.99", "adamw"]
    first, second, third, fourth = spaces.values()
    assert (first.momentum, second.momentum, third.momentum, fourth.beta1) == ((0.0, 0.99), None, None, None)
    assert (third.beta1, third.beta2) == ((0.5, 0.9), (0.9, 0.99))
    assert first.learning_rate == second.learning_rate == pytest.approx((0.003, 1.0))


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        (main, "--momentum-range 0.5 0.9", "`momentum` cannot be searched for adam, which has no momentum; it has"),
        (
            main,
            "--optimizer lbfgs --momentum-range 0.5 0.9",
            "`momentum` cannot be searched for lbfgs, which has no momentum",
        ),
        (
            main,
            "--optimizer sgd --beta1-range 0.5 0.9",
            "`beta1` cannot be searched for sgd, which has no beta1; it has",
        ),
        (main, "--optimizer sgd --momentum-range 0.9 0.5", "`momentum` must be LOW HIGH with 0 <= LOW <= HIGH < 1"),
        (main, "--optimizer sgd --momentum-range 0.9 1", "--momentum-range: must be a number of 0 or more and below 1"),
        (main, "--optimizer sgd --momentum-range -0.1 0.9", "must be a number of 0 or more and below 1, got -0.1"),
        (
            main,
            "--optimizer sgd --momentum 0.9 --momentum-range 0.5 0.9",
            "`momentum` has a range and momentum; leave out one of them",
        ),
        (
            main,
            "--optimizer adamw betas=0.9,0.95 --beta1-range 0.5 0.9",
            "`beta1` has a range and betas; leave out one of them (a range of one value fixes it too)",
        ),
        (tuned_gap, "--momentum-range 0.5 0.9", "`momentum` cannot be searched for adam"),
        (ladder, "--momentum-range 0.5 0.9", "--momentum-range: cannot be used: it follows the name of an optimizer"),
        (ladder, "--optimizer sgd adamw momentum=0,0.9", "`momentum` cannot be searched for adamw"),
        (ladder, "--optimizer adamw sgd momentum=0,1", "momentum must be a range LOW,HIGH with 0 <= LOW <= HIGH < 1"),
        (ladder, "--optimizer sgd adamw beta1=0.9,0.8,0.7", "beta1 must be a range LOW,HIGH with 0 <= LOW <= HIGH < 1"),
    ],
)
def test_mistakes_get_one_line(
    tmp_path: Path, refusal: Callable[..., str], command: Any, options: str, message: str
) -> None:
    assert message in refusal(command, ["--results", str(tmp_path), "--no-dashboard", *options.split()])
    assert list(tmp_path.iterdir()) == []


def made_up(plan: Plan, config: TrialConfig) -> Outcome:
    """The fewest steps are at a momentum of 0.9."""
    assert plan.goals is not None
    assert config.momentum is not None
    steps = round(100 * (1 + abs(math.log((1 - config.momentum) / 0.1))))
    done = Outcome(config.trial_id, "completed", 1, steps, 0.1)
    return plan.goals.noted(done, [{"step": 1, "test_loss": 9.0}, {"step": steps, "test_loss": 0.1}])


@pytest.mark.slow
def test_a_study_that_is_resumed_is_the_same(tmp_path: Path, digits: Source) -> None:
    words = "--optimizer sgd --momentum-range 0 0.99 --trials 12 --goal 0.5"
    plan = plan_of_goals(parse([*SMALL, *words.split()]), with_test_set(digits, None))

    def drive(campaign: Campaign, ends: int) -> list[tuple[str, float]]:
        while ends and (config := campaign.next()) is not None:
            campaign.end(made_up(plan, config))
            ends -= 1
        return [(row["trial_id"], row["momentum"]) for study in campaign.studies.values() for row in study.rows()]

    whole = drive(begin(plan, open_storage("sqlite://"), "x", {}, False, GoalCampaign), 100)
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    drive(begin(plan, open_storage(url), "x", {}, False, GoalCampaign), 10)
    assert drive(begin(plan, open_storage(url), "x", {}, True, GoalCampaign), 100) == whole
    assert len(whole) == 24
    wider = plan_of_goals(
        parse([*SMALL, *words.replace("0.99", "0.999").split()]), with_test_set(digits, None)
    )  # another search
    with pytest.raises(UserError, match=r"begun with other options \(space"):
        begin(wider, open_storage(url), "x", {}, True, GoalCampaign)


def exact_steps(problem: NoisyQuadratic, batch_size: int, goal: float, momenta: list[float]) -> float:
    """The fewest steps to `goal` of a grid of rates and these momenta, on a line between the steps around it."""
    found = math.inf
    for momentum in momenta:
        for rate in np.geomspace(0.02, 1.9, 30):
            curve = losses(problem, Rule(rate, momentum=momentum), batch_size, 100)
            below = np.flatnonzero(curve <= goal)
            if len(below):
                step = int(below[0])
                found = min(found, step - 1 + (curve[step - 1] - goal) / (curve[step - 1] - curve[step]))
    return found


@pytest.mark.slow
def test_it_finds_the_momentum_of_the_noisy_quadratic(tmp_path: Path) -> None:
    """At a large batch the best momentum saves almost half of the steps, and the search must find some of it: fewer
    steps than any learning rate alone, and no fewer than the best of both.

    h_i = c_i = i^-1/2, 200 weights, so that the loss of a run is within about 15 % of its exact mean.
    """
    weights, goal = 200, 0.35
    source = load_source("noisy_quadratic", options={"coordinates": weights, "examples": 4000, "power": 0.5})
    words = (
        f"--batch-sizes 256 1024 --goal {goal} --optimizer sgd --momentum-range 0 0.98 --learning-rate-range 0.02 1.9 "
        "--seeds 0 1 2 --trials 24 --budget 40steps --evaluate-every 1step --model noisy_quadratic --model-options "
        "power=0.5 --train-size 2000 --validation-size 2000"
    )
    plan = plan_of_goals(parse(words.split()), source)
    run_search(plan, source, tmp_path)
    (one,) = load_tuned_steps(tmp_path)
    assert one.found is not None
    spectrum = np.arange(1.0, weights + 1) ** -0.5
    problem = NoisyQuadratic(spectrum, spectrum)
    for row in one.found.rows:
        plain = exact_steps(problem, row.batch_size, goal, [0.0])
        best = exact_steps(problem, row.batch_size, goal, [0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9])
        assert row.steps is not None
        assert 0.85 * best < row.steps.value < plain
        assert best < 0.6 * plain
        assert ", momentum 0." in row.setting
