"""The experiment on sharpness, from made-up tables to its sentences: true shares of 0, 50 and 100 % are found."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import record, write
from narrow import not_none
from simulations.experiments import Truth, drawn

from analysis.charts.sharpness_intervention import intervention_figure
from analysis.data.load import Sweep, load_sweep
from analysis.questions.sharpness_intervention import (
    TEST,
    Explained,
    arms_of,
    explained,
    has_intervention,
    named,
    outcomes_of,
)
from analysis.reporting.answer import association_sentence
from analysis.reporting.headline import cards
from analysis.reporting.intervention import _share_text, card, lines
from analysis.sharpness_intervention import main
from analysis.stats.mediation import mediation
from trainables.records.tables import Record
from trainables.runtime.errors import UserError

ARMS: dict[str, tuple[dict[str, Any], float]] = {  # what it is, and what it does to log10 of the sharpness
    "plain": ({}, 0.0),
    "SAM 0.05": ({"sam_radius": 0.05}, -0.3),
    "SAM 0.1": ({"sam_radius": 0.1}, -0.6),
    "ASAM 0.5": ({"sam_radius": 0.5, "sam_adaptive": True}, -0.5),
    "learning rate 0.02": ({"learning_rate": 0.02}, -0.2),
    "weight decay 0.0001": ({"weight_decay": 1e-4}, 0.2),
}
PLACEBO = {"rescaling": 8.0}
SIZES = (16, 512)
NOISE = (0.0, 0.004, -0.003, 0.001, -0.002)  # of a replicate, at the large batch


def experiment(
    share: float,
    *,
    sign: float = 1.0,
    own: float = 0.0,
    change: Callable[[str, int, int], dict[str, Any] | None] = lambda arm, size, seed: {},
) -> list[Record]:
    """Trials whose large batch loses 0.02 and is 10 times as sharp; `own`: what learning rates do otherwise.

    The metric is `sign` times a score. `change` returns further columns of a trial, None for no trial.
    """
    records = []
    for seed, noise in enumerate(NOISE):
        for batch, size in enumerate(SIZES):
            for name, (config, effect) in {**ARMS, "placebo": (PLACEBO, 0.0)}.items():
                row = change(name, size, seed)
                if row is None:
                    continue
                lost = (1 - share) * 0.02 * batch + share * 0.02 * (batch + effect) + own * (name[:8] == "learning")
                score = 0.9 + 0.01 * seed - lost - noise * batch
                raw, invariant = 10.0 ** (batch + effect + 0.1 * seed), 10.0 ** (batch + effect)
                shifts = {f"test_accuracy_noise_{s}": score - 0.1 * s - 0.01 * batch for s in (1, 2)}
                shifts["test_accuracy_top_5"] = score  # a metric of the task, no shift
                columns = {"metrics": json.dumps(shifts), "test_metric": sign * score} | row
                if sign < 0:
                    columns |= {
                        "metric": "nats",
                        "metric_unit": "nats",
                        "metric_direction": "lower",
                        "task": "regression",
                    }
                    columns |= {"test_accuracy": None, "train_accuracy": None, "metrics": None}
                records.append(
                    record(
                        score,
                        raw * (8 if name == "placebo" else 1),
                        row=columns,
                        found=[
                            {"measure": "relative_flatness", "method": "deflated", "value": invariant, "space": "full"}
                        ],
                        batch_size=size,
                        seed=seed,
                        split_seed=seed,
                        **config,
                    )
                )
    return records


def only(*arms: str) -> Callable[[str, int, int], dict[str, Any] | None]:
    """A `change` that leaves these arms."""
    return lambda arm, size, seed: {} if arm in arms else None


def swept(tmp_path: Path, *arguments: Any, **options: Any) -> Sweep:
    return load_sweep(write(tmp_path / "sweep", experiment(*arguments, **options)))


def of(sweep: Sweep, measure: str, outcome: str = TEST) -> Explained:
    return next(one for one in explained(sweep) if (one.measure.measure, one.outcome) == (measure, outcome))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_true_share_is_found(tmp_path: Path, share: float, sign: float) -> None:
    sweep = swept(tmp_path, share, sign=sign)
    assert has_intervention(sweep)
    for measure in ("box_sharpness", "hessian_max_eig", "relative_flatness"):
        found = of(sweep, measure)
        assert found.is_log
        assert found.found.total.value == pytest.approx(0.02)
        assert not_none(found.found.mediated).value == pytest.approx(0.02 * share, abs=1e-12)
        assert found.found.share is not None
        assert found.found.share.value == pytest.approx(share, abs=1e-9)
        assert found.found.agreement == 1.0


def test_the_placebo_has_no_share_and_exposes_what_is_not_invariant(tmp_path: Path) -> None:
    sweep = swept(tmp_path, 0.5)
    raw, invariant = of(sweep, "box_sharpness"), of(sweep, "relative_flatness")
    assert (raw.is_invariant, invariant.is_invariant) == (False, True)
    assert raw.placebo == pytest.approx(8.0)
    assert raw.placebo_share is not None
    assert raw.placebo_share.value == 0.0
    assert invariant.placebo == pytest.approx(1.0)
    assert invariant.placebo_share is None
    assert named(explained(sweep)) == invariant


def test_a_shift_has_a_gap_and_shares_of_its_own(tmp_path: Path) -> None:
    sweep = swept(tmp_path, 0.5)
    assert list(outcomes_of(sweep)) == ["plain test set", "noise"]
    found = of(sweep, "relative_flatness", "noise")
    assert found.found.total.value == pytest.approx(0.03)
    assert not_none(found.found.mediated).value == pytest.approx(0.01)
    assert found.found.share is not None
    assert found.found.share.value == pytest.approx(1 / 3)


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", "7", '{"test_accuracy_noise_0.1": "high"}', '{"a": [1]}'])
def test_damaged_metrics_are_refused(tmp_path: Path, text: str) -> None:
    def change(arm: str, size: int, seed: int) -> dict[str, Any]:
        return {"metrics": text} if seed == 0 else {}

    with pytest.raises(
        UserError, match=r"must hold whole tables, got metrics of trial .* not a JSON object of numbers"
    ):
        outcomes_of(swept(tmp_path, 0.5, change=change))


def test_a_value_too_large_for_its_square_is_missing(tmp_path: Path) -> None:
    sweep = swept(tmp_path, 0.5, change=lambda arm, size, seed: {"box_sharpness": 1e308})
    assert {one.measure.measure for one in explained(sweep)} == {"hessian_max_eig", "relative_flatness"}


def test_an_arm_that_is_incomplete_is_left_out_whole(tmp_path: Path) -> None:
    def change(arm: str, size: int, seed: int) -> dict[str, Any] | None:
        if arm == "SAM 0.1" and size == 512 and seed == 1:
            return {"flags": ["missed target loss"], "test_accuracy": 0.0, "test_metric": 0.0}
        return None if arm == "plain" and seed == 4 and size == 16 else {}

    sweep = swept(tmp_path, 0.5, change=change)
    arms = arms_of(sweep)
    place = [arm.name for arm in arms.arms].index("SAM 0.1")
    assert arms.used[:, place].tolist() == [True, False]
    assert len(arms.trial_ids) == 4
    assert arms.left_out[0].startswith("1 of 5 replicates are left out")
    assert arms.left_out[1].startswith(
        "SAM 0.1 at batch 512 is left out: 1 of 4 trials diverged, missed the target loss"
    )
    found = of(sweep, "relative_flatness").found
    assert not_none(found.mediated).value == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("share", "own", "verdict"),
    [
        (0.5, 0.0, "Sharpness explains a part of the gap"),
        (1.0, 0.0, "Sharpness explains part or all of the gap"),
        (0.0, 0.0, "Not shown: sharpness explains at most 3 % of the gap"),  # half of one test example in 1000
        (0.5, 0.01, "Not by sharpness alone: interventions of equal sharpness differ in accuracy"),
    ],
)
def test_the_card_rests_on_it(tmp_path: Path, share: float, own: float, verdict: str) -> None:
    sweep = swept(tmp_path, share, own=own)
    found = cards(sweep)[1]
    assert found.question == "Is it sharpness?"
    assert (found.verdict, found.result, found.why) == card(sweep)
    assert found.verdict == verdict
    assert own or f"relative flatness mediates {100 * share:.0f} % of the gap" in found.result
    assert association_sentence(sweep).startswith(f"{verdict}. ")


@pytest.mark.parametrize(
    ("share", "flatter", "verdict"),
    [
        (0.5, True, "Flatness explains a part of the gap: the large batch is flatter, and flatter minima are worse"),
        (-0.5, False, "No: what flattens the minimum widens the gap"),
        (-0.5, True, "No: the large batch is flatter, and flatter minima are better"),
        (2.0, False, "Sharpness explains all of the gap"),
    ],
)
def test_the_verdict_follows_both_signs(tmp_path: Path, share: float, flatter: bool, verdict: str) -> None:
    """`flatter`: the measure is inverted, so that the large batch has less of it."""
    records = experiment(share, change=only("plain", "SAM 0.1", "placebo"))
    for entry in records if flatter else []:
        entry.measures[-1]["value"] = 1 / entry.measures[-1]["value"]
    sweep = load_sweep(write(tmp_path / "sweep", records))
    assert card(sweep)[0] == verdict
    assert f"mediates {'−' if share < 0 else ''}{100 * abs(share):.0f} % of the gap" in card(sweep)[1]


@pytest.mark.parametrize("arms", [("SAM 0.05",), ("learning rate 0.02",)])
def test_few_arms_leave_plain_training_plain(tmp_path: Path, arms: tuple[str, ...]) -> None:
    sweep = swept(tmp_path, 0.5, change=only("plain", *arms))
    assert [arm.name for arm in arms_of(sweep).arms] == ["plain training", *arms]
    assert not_none(of(sweep, "relative_flatness").found.mediated).value == pytest.approx(0.01)


def test_interventions_that_move_nothing_are_no_experiment(tmp_path: Path) -> None:
    """Equal measures of all arms differ by rounding alone, which has no slope. The answer goes on without them."""
    records = experiment(0.5, change=only("plain", "SAM 0.1", "ASAM 0.5", "placebo"))
    for entry in records:
        value = 0.1 * (1 + entry.trial["seed"])
        entry.trial.update(box_sharpness=value, hessian_max_eig=1.1 * value)
        for row in entry.measures:
            row["value"] = value
    sweep = load_sweep(write(tmp_path / "sweep", records))
    with pytest.raises(UserError, match="all plain trials that the interventions change, got none"):
        explained(sweep)
    assert not has_intervention(sweep)
    assert cards(sweep)[1].question == "Is it sharpness?"


def test_a_weak_experiment_on_a_clear_gap_is_said_to_be_weak(tmp_path: Path) -> None:
    """The interventions do 0.01 of what they did, against noise of the same size in each trial."""
    records, random = experiment(0.5, change=only("plain", "SAM 0.05", "SAM 0.1", "placebo")), np.random.default_rng(0)
    for entry in records:
        value = 10 ** (float(entry.trial["batch_size"] == 512) + 0.01 * random.normal())
        entry.trial.update(box_sharpness=value, hessian_max_eig=value)
        for row in entry.measures:
            row["value"] = value
    sweep = load_sweep(write(tmp_path / "sweep", records))
    said = "\n".join(lines(sweep, explained(sweep)))
    assert "No significant gap" not in said
    assert "no known share of the gap (too weak an experiment)" in said
    assert "effect on test accuracy not determined; the interventions hardly change it (F = " in said
    assert "disagree" not in said
    assert named(explained(sweep)).found.share is None
    assert card(sweep)[0].startswith("Unknown: the interventions hardly change ")
    intervention_figure(sweep)  # without lines


def test_an_unbounded_share_is_not_determined(tmp_path: Path) -> None:
    """The gap is significant and the interventions change the measure, but their product is not clearly above 0."""
    noisy = mediation(drawn(Truth(0.5, replicates=5, strength=0.5), 6), rhos=())
    assert not noisy.is_weak
    assert not_none(noisy.total.interval).low > 0
    assert not_none(noisy.share).interval is None
    one = replace(named(explained(swept(tmp_path, 0.5))), found=noisy)
    assert _share_text(one) == "no known share of the gap (the experiment is too noisy)"


def test_four_replicates_are_too_few_for_a_share(tmp_path: Path) -> None:
    few = only("plain", "SAM 0.1", "placebo")
    sweep = swept(tmp_path, 0.5, change=lambda arm, size, seed: None if seed == 4 else few(arm, size, seed))
    assert not_none(of(sweep, "relative_flatness").found.mediated).value == pytest.approx(0.01)
    verdict, result, _ = card(sweep)
    assert verdict == "Unknown: a share of the gap needs 5 replicates or more"
    assert "relative flatness mediates no known share of the gap" in result


def test_a_large_batch_that_is_better_leaves_no_gap_to_share(tmp_path: Path) -> None:
    sweep = swept(tmp_path, 0.5, change=only("plain", "SAM 0.1", "placebo"))
    sweep.trials["test_accuracy"] = 1.8 - sweep.trials["test_accuracy"]
    said = lines(sweep, explained(sweep))
    assert said[0] == "No gap to explain: the large batch is not significantly worse."
    assert "  No significant gap here, so no share of it." in said


def test_the_placebo_is_in_no_other_number(tmp_path: Path) -> None:
    from analysis.data.load import attempted, comparable

    sweep = swept(tmp_path, 0.5)
    assert comparable(sweep)["rescaling"].isna().all()
    assert attempted(sweep)["rescaling"].isna().all()


def test_the_script_says_it_and_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = swept(tmp_path, 0.5)
    assert main([str(sweep.folder)]) == 0
    said = capsys.readouterr().out
    assert (sweep.folder / "figures" / "sharpness_intervention.png").exists()
    for line in lines(sweep, explained(sweep)):
        assert line in said
    assert "through box sharpness: 50 % of the gap" in said
    assert "the placebo changes it times 8, and no prediction, share 0 %" in said


def test_an_experiment_without_the_placebo_says_so(tmp_path: Path) -> None:
    sweep = swept(tmp_path, 0.5, change=only("plain", "SAM 0.05", "SAM 0.1"))
    _, _, why = card(sweep)
    assert "; not checked by the placebo;" in why[0]


def test_what_is_no_experiment_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = [record(0.9, batch_size=size, seed=seed, split_seed=seed) for size in SIZES for seed in range(3)]
    sweep = load_sweep(write(tmp_path / "plain", plain))
    assert not has_intervention(sweep)
    with pytest.raises(UserError, match="must hold interventions on the sharpness"):
        arms_of(sweep)
    assert main([str(sweep.folder)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    few = [one for one in experiment(0.5) if one.trial["seed"] < 2]
    with pytest.raises(UserError, match=r"3 replicates or more .* got 2"):
        arms_of(load_sweep(write(tmp_path / "few", few)))
    single = [one for one in experiment(0.5) if one.trial["batch_size"] == 16]
    with pytest.raises(UserError, match="plain trials at two batch sizes or more, got 1"):
        arms_of(load_sweep(write(tmp_path / "single", single)))
