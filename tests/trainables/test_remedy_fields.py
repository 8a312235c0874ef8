"""Remedies: how they are read and named, which trials they make, and what they change in a run."""

import copy
import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeps.plan.grid import Grid, expand
from trainables.check import check_trial
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.models import build_model
from trainables.records.tables import large_batch_gaps, remedies
from trainables.remedies import GIVEN, REMEDIES, base_remedies, read_remedy, remedy_of
from trainables.runtime.errors import UserError
from trainables.tasks.classification import cross_entropy
from trainables.training.batches import epoch_batches
from trainables.training.loop import Training
from trainables.training.schedule import batch_size_at, learning_rate_at
from trainables.trial import run_trial
from trainables.units import steps_per_epoch

Make = Callable[..., TrialConfig]


def test_reading() -> None:
    assert read_remedy("none") == {}
    assert read_remedy("decay=step,decay_epochs=10,20,sam_radius=0.1,sam_adaptive=true,batch_schedule=5:64,10:256") == {
        "decay": "step",
        "decay_epochs": "10,20",
        "sam_radius": 0.1,
        "sam_adaptive": True,
        "batch_schedule": "5:64,10:256",
    }


def test_the_manual_lists_every_field() -> None:
    _, _, part = (Path(__file__).parents[2] / "docs" / "remedies.md").read_text().partition("## All remedies")
    assert tuple(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) == GIVEN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("decay_fingerprint=1", "the fields are learning_rate_scaling, "),
        ("sam_raduis=0.1", "did you mean sam_radius=0.1?"),
        ("sam_radius", "must be none or FIELD=VALUE"),
        ("sam_radius=big", "`sam_radius` must be a number, got big"),
        ("same_steps=maybe", "`same_steps` must be true or false, got maybe"),
        ("ghost_batch_size=1.5", "`ghost_batch_size` must be a whole number, got 1.5"),
    ],
)
def test_misread(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        read_remedy(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sam_radius": 0.0}, "`sam_radius` must be a number above 0"),
        ({"sam_adaptive": True}, "`sam_adaptive` must have sam_radius"),
        ({"sam_radius": 0.1, "proximal": 0.1}, "must take the gradient in one way, got sam_radius with proximal"),
        ({"decay": "step"}, "`decay=step` needs decay_epochs"),
        ({"decay": "cosine", "decay_factor": 0.5}, "`decay_factor` and `decay_by` need decay=step"),
        ({"decay": "cosine", "decay_epochs": "2,3"}, "`decay_epochs` of decay=cosine must be one number"),
        ({"decay": "cosine", "decay_epochs": "5"}, "at most `epochs` \\(4\\), got 5"),
        ({"decay": "cosine", "decay_epochs": "1", "warmup_epochs": 1.0}, "longer than the warmup"),
        ({"decay": "cosine", "target_loss": 0.1}, "`decay` cosine needs its length with a target loss"),
        ({"decay_epochs": "5"}, "`decay_epochs` needs a decay"),
        ({"same_steps": True, "base_batch_size": 16, "target_loss": 0.1}, "`same_steps` has no effect with a target"),
        ({"same_steps": True, "base_batch_size": 16, "batch_schedule": "1:64"}, "where the batch size changes"),
        ({"decay": "step", "decay_epochs": "20,10"}, "`decay_epochs` must be rising whole numbers"),
        ({"decay": "step", "decay_epochs": "ten"}, "`decay_epochs` must be rising whole numbers"),
        ({"batch_schedule": "5"}, "`batch_schedule` must be EPOCH:BATCH"),
        ({"batch_schedule": "5:301"}, "`batch_schedule` must stay within the 300 training examples"),
        ({"batch_schedule": "1:64", "switch_epoch": 2, "switch_batch_size": 300}, "only change of the batch size"),
        ({"learning_rate_scaling": "linear"}, "`base_batch_size` must be given"),
        ({"label_smoothing": 1.0}, "`label_smoothing` must be in"),
        ({"ghost_batch_size": 1}, "`ghost_batch_size` must be 2 or more"),
        ({"layer_adaptation": True, "optimizer": "adagrad"}, "`layer_adaptation` needs the optimizer sgd"),
        ({"momentum_correction": False}, "`momentum_correction` cannot be used with adam"),
        ({"optimizer": "lbfgs"}, "`batch_size` must be all 300 training examples for lbfgs, got 32"),
        ({"optimizer": "lbfgs", "batch_size": 300, "sam_radius": 0.1}, "`sam_radius` cannot be used with lbfgs"),
        ({"measure_every": 2, "measure_share": 0.1}, "`measure_every` cannot be used with `measure_share`"),
    ],
)
def test_bad_combinations(make_config: Make, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_config(**change)


def test_what_means_nothing_leaves_no_trace(make_config: Make) -> None:
    plain = make_config().trial_id
    for change in (
        {"learning_rate_scaling": "linear", "base_batch_size": 32},
        {"same_steps": True, "base_batch_size": 32},
        {"base_batch_size": 16},
        {"ghost_batch_size": 32},
        {"noise_batch_size": 64},
    ):
        assert make_config(**change).trial_id == plain
    assert make_config(ghost_batch_size=16).trial_id != plain


def test_the_name_of_a_remedy_is_relative_to_its_study(make_config: Make) -> None:
    def row(**changes: Any) -> dict[str, Any]:
        return vars(make_config(**changes))

    plain, sam = row(), row(sam_radius=0.05)
    base = base_remedies([plain, sam])
    assert (remedy_of(plain, base), remedy_of(sam, base)) == ("none", "sam_radius=0.05")
    cosine, both = row(decay="cosine"), row(decay="cosine", sam_radius=0.05, sam_adaptive=True)
    base = base_remedies([cosine, both])  # every trial decays: that is this study's plain training
    assert (remedy_of(cosine, base), remedy_of(both, base)) == ("none", "sam_radius=0.05 sam_adaptive=true")
    assert set(base) == set(REMEDIES)


def test_the_gap_is_measured_from_plain_training(make_config: Make) -> None:
    def row(accuracy: float, **changes: Any) -> dict[str, Any]:
        return {
            **vars(make_config(**changes).canonical()),
            "status": "completed",
            "test_metric": accuracy,
            "metric_direction": "higher",
            "test_loss": 1 - accuracy,
            "numbers_version": 9,
        }

    rows = [
        row(0.95, batch_size=32),
        row(0.97, batch_size=32, sam_radius=0.05),
        row(0.90, batch_size=300),
        row(0.94, batch_size=300, sam_radius=0.05),
        row(0.93, batch_size=300, learning_rate_scaling="sqrt", base_batch_size=32),
    ]
    for one, remedy in zip(rows, remedies(rows), strict=True):
        one["remedy"] = remedy
    assert [one["remedy"] for one in rows] == [
        "none",
        "sam_radius=0.05",
        "none",
        "sam_radius=0.05",
        "learning_rate_scaling=sqrt",
    ]
    assert large_batch_gaps(rows) == pytest.approx([0.0, -0.02, 0.05, 0.01, 0.02])
    assert large_batch_gaps(rows, "test_loss") == pytest.approx([0.0, 0.02, -0.05, -0.01, -0.02])


def test_an_axis_of_the_grid(digits: Source) -> None:
    trials = expand(
        Grid(
            batch_sizes=[16, 300],
            learning_rates=[0.01],
            model_options={},
            epochs=10,
            remedies=[{}, {"learning_rate_scaling": "linear"}, {"ghost_batch_size": 16}],
        ),
        digits,
    )
    found = [(trial.batch_size, trial.learning_rate_scaling, trial.ghost_batch_size) for trial in trials]
    assert found == [(16, None, None), (300, None, None), (300, "linear", None), (300, None, 16)]
    assert trials[2].base_batch_size == 16
    with pytest.raises(UserError, match="`remedies` must be made of"):
        Grid(batch_sizes=[16], learning_rates=[0.1], model_options={}, epochs=1, remedies=[{"momentum": 0.5}])


def test_scaling_and_decay(make_config: Make) -> None:
    for rule, factor in (("linear", 4.0), ("sqrt", 2.0)):
        config = make_config(learning_rate_scaling=rule, base_batch_size=8)
        assert learning_rate_at(config, 1.0, 32) == pytest.approx(0.01 * factor)
    step = make_config(decay="step", decay_epochs="2,3", decay_factor=0.5)
    rates = [learning_rate_at(step, done, 32) for done in (2.0, 2.0 + 32 / 300, 3.0 + 32 / 300, 4.0)]
    assert rates == pytest.approx([0.01, 0.005, 0.0025, 0.0025])  # the update that ends epoch 2 is still before it
    cosine = make_config(decay="cosine", warmup_epochs=1.0, batch_size=300)
    rates = [learning_rate_at(cosine, done, 300) for done in (1.0, 2.0, 3.0, 4.0)]
    assert rates == pytest.approx([0.01, 0.01, 0.01 * 0.75, 0.01 * 0.25])  # 3 epochs of decay, none at rate 0


def test_growing_the_batch_instead_of_decaying(make_config: Make) -> None:
    config = make_config(decay="step", decay_epochs="1,2,3", decay_factor=0.25, decay_by="batch_size", batch_size=16)
    sizes = [batch_size_at(config, done) for done in range(4)]
    assert sizes == [16, 64, 256, 300]
    rates = [learning_rate_at(config, done + 1, size) for done, size in enumerate(sizes)]
    # 16 / 0.25^3 would be 1024: the rate takes over what the 300 examples cannot.
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.01 * 300 / 1024])


def test_seesaw_divides_the_rate_by_the_root_of_what_the_batch_is_multiplied_by(make_config: Make) -> None:
    """Where the schedule halves the rate: rate / sqrt(2), twice the batch. At 300 examples the rate takes the rest."""
    config = make_config(decay="step", decay_epochs="1,2,3,4", decay_factor=0.5, decay_by="seesaw", batch_size=64)
    sizes = [batch_size_at(config, done) for done in range(5)]
    assert sizes == [64, 128, 256, 300, 300]
    rates = [learning_rate_at(config, done + 1, size) for done, size in enumerate(sizes)]
    rest = math.sqrt(300 / 64)
    assert rates == pytest.approx([0.01, 0.01 / math.sqrt(2), 0.01 / 2, 0.01 / 8 * rest, 0.01 / 16 * rest])
    with pytest.raises(UserError, match="decay_by=seesaw"):
        make_config(decay="step", decay_epochs="1", decay_by="seesaw", batch_schedule="2:64")


def test_a_schedule_of_batches(make_config: Make) -> None:
    config = make_config(batch_schedule="1:64,3:300", switch_learning_rate="linear")
    sizes = [batch_size_at(config, done) for done in range(4)]
    assert sizes == [32, 64, 64, 300]
    assert learning_rate_at(config, 2.0, 64) == pytest.approx(0.02)


def test_as_many_steps_as_the_small_batch(make_config: Make, digits: Source) -> None:
    config = make_config(same_steps=True, base_batch_size=30, batch_size=300, warmup_epochs=1.0)
    record = run_trial(config, digits)
    assert (record.trial["epochs_done"], record.trial["steps"]) == (40, 40)  # 4 epochs of 10 steps at batch 30
    assert learning_rate_at(config, 5.0, 300) == pytest.approx(0.005)  # the warmup is stretched too


@pytest.mark.parametrize("base", [16, 299, 7])
@pytest.mark.parametrize("size", [32, 128, 150, 299, 300])
def test_same_steps_counts_short_last_batches(make_config: Make, base: int, size: int) -> None:
    """The steps of the whole trial are those at the base batch size, and fewer than one epoch's more."""

    def steps(batch_size: int, epochs: float) -> int:
        assert epochs == int(epochs)
        return sum(len(epoch_batches(300, batch_size, seed=0, epoch=epoch)) for epoch in range(int(epochs)))

    config = make_config(same_steps=True, base_batch_size=base, batch_size=size, epochs=40)
    more = steps(size, config.total_epochs) - steps(base, 40)
    assert 0 <= more < steps(size, 1)


@pytest.mark.parametrize(("examples", "size"), [(300, 300), (300, 299), (301, 300), (301, 7), (301, 1), (1, 1)])
def test_steps_per_epoch_are_the_batches(examples: int, size: int) -> None:
    assert steps_per_epoch(examples, size) == len(epoch_batches(examples, size, seed=0, epoch=0))


def test_a_cosine_of_its_own_length_ends_the_trial(make_config: Make, digits: Source) -> None:
    options: dict[str, Any] = {"decay": "cosine", "batch_size": 300}
    config = make_config(**options, decay_epochs="3", target_loss=1e-9, epochs=40)
    whole = make_config(**options, epochs=3)
    record = run_trial(config, digits)
    assert record.trial["epochs_done"] == 3
    assert [row["lr"] for row in record.epochs] == [learning_rate_at(whole, done, 300) for done in (1.0, 2.0, 3.0)]
    assert learning_rate_at(config, 3.0, 300) == pytest.approx(0.01 / 4)  # (1 + cos(2 pi / 3)) / 2


CHANGES: list[dict[str, Any]] = [
    {"layer_adaptation": True},
    {"layer_adaptation": True, "optimizer": "sgd"},
    {"optimizer": "adagrad"},
    {"optimizer": "gradient_descent", "batch_size": 300},
    {"optimizer": "lbfgs", "batch_size": 300},
    {"ghost_batch_size": 8, "model_options": '{"widths": [16], "batch_norm": true}'},
    {"noise_batch_size": 8},
    {"sam_radius": 0.05},
    {"sam_radius": 0.5, "sam_adaptive": True},
    {"clip_norm": 0.1},
    {"label_smoothing": 0.1},
    {"augmentation": "crop_flip"},
    {"augmentation": "paper"},
    {"proximal": 1e-3},
    {"weight_adversary": 1e-3},
    {"input_adversary": 0.1},
    {"optimizer": "sgd", "momentum_correction": False, "warmup_epochs": 2.0},
]


QUICK: dict[str, Any] = {"epochs": 2, "measures": ""}
Losses = Callable[[int, str, float], list[float]]


@pytest.fixture(scope="module")
def plain_losses(make_config: Make, digits: Source) -> Losses:
    @functools.cache
    def losses(batch_size: int, model_options: str, warmup_epochs: float) -> list[float]:
        kept = {"batch_size": batch_size, "model_options": model_options, "warmup_epochs": warmup_epochs}
        return [row["train_loss"] for row in run_trial(make_config(**QUICK, **kept), digits).epochs]

    return losses


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: ",".join(change))
def test_each_trains_and_repeats(
    make_config: Make, digits: Source, plain_losses: Losses, change: dict[str, Any]
) -> None:
    """Every remedy lowers the loss, changes the numbers of plain training, and gives the same numbers again."""
    config = make_config(**QUICK, **change)
    record, again = run_trial(config, digits), run_trial(config, digits)
    losses = [row["train_loss"] for row in record.epochs]
    assert losses == [row["train_loss"] for row in again.epochs]
    assert losses[-1] < losses[0]
    assert losses != plain_losses(config.batch_size, config.model_options, config.warmup_epochs)
    assert record.trial["status"] == "completed"


def test_momentum_correction_is_the_recurrence_of_goyal(make_config: Make, digits: Source) -> None:
    """Without correction the velocity u = momentum * u + rate * gradient, each with the rate of its time."""
    config = make_config(optimizer="sgd", momentum=0.8, momentum_correction=False, warmup_epochs=2.0, batch_size=100)
    torch.manual_seed(0)
    model, data = build_model("mlp", digits.input_shape, 10, widths=[16]), digits.split(300, 1497, 0)
    reference = copy.deepcopy(model)
    training = Training(config, model, data)
    training.train_epoch()
    velocity = {id(p): torch.zeros_like(p) for p in reference.parameters()}
    for step, batch in enumerate(epoch_batches(300, 100, seed=0, epoch=0), start=1):
        reference.zero_grad()
        cross_entropy(reference(data.train_inputs[batch]), data.train_labels[batch]).backward()
        with torch.no_grad():
            for p in reference.parameters():
                assert p.grad is not None
                velocity[id(p)].mul_(0.8).add_(p.grad, alpha=0.01 * step / 6)
                p.sub_(velocity[id(p)])
    for own, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)


def test_measures_along_the_run(make_config: Make, digits: Source) -> None:
    plain = run_trial(make_config(epochs=5, measure_examples=50), digits)
    along = run_trial(make_config(epochs=5, measure_examples=50, measure_every=2), digits)
    assert sorted({row["epoch"] for row in along.measures}) == [2, 4, 5]
    end = [row for row in along.measures if row["epoch"] == 5]
    assert [{**row, "seconds": 0} for row in end] == [{**row, "seconds": 0} for row in plain.measures]
    assert along.trial["box_sharpness"] == plain.trial["box_sharpness"]
    assert [{**row, "seconds": 0} for row in along.epochs] == [{**row, "seconds": 0} for row in plain.epochs]
    share = run_trial(make_config(epochs=5, measure_examples=50, measure_share=1e-6), digits)
    assert sorted({row["epoch"] for row in share.measures}) == [1, 5]  # once, to learn what it costs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ghost_batch_size": 8}, "`ghost_batch_size`"),  # the network has no batch norm
        ({"augmentation": "crop_flip", "model": "mlp"}, "`augmentation`"),  # flat inputs
        ({"model": "c1", "model_options": "{}"}, "`model` c1"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_any_trial(
    make_config: Make, digits: Source, change: dict[str, Any], message: str
) -> None:
    flat = Source("flat", digits.inputs.reshape(-1, 64), digits.labels, None, None, 10)
    with pytest.raises(UserError, match=message):
        check_trial(make_config(**change), flat)
    check_trial(make_config(), flat)
