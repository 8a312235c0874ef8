"""A trial end to end without Ray: same configuration, same numbers, also when it is interrupted."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.measures.by_name import MEASURES
from trainables.records import tables
from trainables.records.schemas import TRIALS
from trainables.records.tables import Record
from trainables.trial import Trial, run_trial

Make = Callable[..., TrialConfig]
CLOCKS = ("train_seconds", "sharpness_seconds", "finished_at")


def numbers(record: Record) -> tuple[object, ...]:
    """Everything in a record but the time it took."""
    rows = [
        [{k: v for k, v in row.items() if k not in ("seconds", *CLOCKS)} for row in part]
        for part in (record.epochs, record.measures)
    ]
    return {k: v for k, v in record.trial.items() if k not in CLOCKS}, *rows


def test_the_record(make_config: Make, digits: Source) -> None:
    record = run_trial(make_config(epochs=60, target_loss=0.05), digits)
    row = record.trial
    assert set(row) <= set(TRIALS.names)
    assert all(set(measure) <= set(tables.MEASURES.names) for measure in record.measures)
    assert (row["status"], row["reached_target"], row["epochs_done"]) == (
        "completed",
        True,
        len(record.epochs),
    )
    assert row["train_loss"] == record.epochs[-1]["train_loss"] <= 0.05
    assert row["generalization_gap"] == pytest.approx(row["train_accuracy"] - row["test_accuracy"])
    assert 0 < row["box_sharpness_paper"] <= row["box_sharpness"]
    assert row["hessian_max_eig"] > 0
    settings = {(m["measure"], m.get("epsilon"), m["method"]) for m in record.measures}
    assert settings == {
        *(("box_sharpness", epsilon, method) for epsilon in (1e-3, 5e-4) for method in ("paper", "strong")),
        ("hessian_max_eig", None, "lanczos"),
    }
    for measure in record.measures:
        assert (measure["split"], measure["examples"], measure["dtype"]) == ("train", 300, "float64")
        if measure["measure"] == "box_sharpness":
            assert measure["loss_center"] == pytest.approx(row["train_loss"], rel=1e-4)


def test_the_docs_have_every_measure() -> None:
    page = (Path(__file__).parents[2] / "docs" / "measures.md").read_text()
    assert [name for name in MEASURES if f"**`{name}`**" not in page] == []


def test_the_same_configuration_gives_the_same_numbers(make_config: Make, digits: Source) -> None:
    torch.manual_seed(123)  # the caller's random state plays no part
    one = run_trial(make_config(measure_examples=50), digits)
    torch.manual_seed(456)
    assert numbers(one) == numbers(run_trial(make_config(measure_examples=50), digits))
    assert numbers(one) != numbers(run_trial(make_config(measure_examples=50, seed=1), digits))


@pytest.mark.parametrize(("stop_after", "optimizer"), [(1, "sgd"), (2, "adam"), (2, "sgd"), (3, "adam")])
def test_a_resumed_trial_is_bit_identical(
    make_config: Make, digits: Source, tmp_path: Path, stop_after: int, optimizer: str
) -> None:
    """Dropout, batch norm, warmup, a switch with and without its optimizer's state: all go on where they were."""
    config = make_config(
        model="c1",
        model_options="{}",
        train_size=40,
        test_size=30,
        measure_examples=25,
        batch_size=16,
        warmup_epochs=1.5,
        switch_epoch=2,
        switch_batch_size=40,
        switch_optimizer_state="keep" if optimizer == "sgd" else "reset",
        optimizer=optimizer,
    )
    images = Source("images", digits.inputs.reshape(-1, 1, 8, 8), digits.labels, None, None, 10)
    whole = Trial(config, images)
    assert whole.train()
    path = tmp_path / "trial.pt"
    first = Trial(config, images)
    for _ in range(stop_after):
        first.training.train_epoch()
    first.save(path)
    second = Trial(config, images)
    assert second.resume(path)
    assert second.training.epochs_done == stop_after
    second.train()
    for one, other in zip(whole.training.epochs, second.training.epochs, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    weights = second.training.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in whole.training.model.state_dict().items())


def test_a_spoilt_checkpoint_is_no_checkpoint(make_config: Make, digits: Source, tmp_path: Path) -> None:
    path = tmp_path / "trial.pt"
    trial = Trial(make_config(), digits)
    assert not trial.resume(path)
    trial.training.train_epoch()
    trial.save(path)
    path.write_bytes(path.read_bytes()[:200])
    fresh = Trial(make_config(), digits)
    assert not fresh.resume(path)
    assert fresh.training.epochs_done == 0


@pytest.mark.parametrize("rate", [1e3, 1e9, 1e30])
def test_divergence_is_a_result(make_config: Make, digits: Source, rate: float) -> None:
    record = run_trial(make_config(optimizer="sgd", learning_rate=rate, momentum=0.0, epochs=50), digits)
    assert record.trial["status"] == "diverged"
    assert record.trial["flags"] == ["diverged"]
    assert record.trial["box_sharpness"] is None
    assert record.measures == []
    assert len(record.epochs) < 50


LOW = "train accuracy below 99.9 %"
MISSED = "missed target loss"


@pytest.mark.parametrize(
    ("target_loss", "expected"),
    [(None, {LOW}), (1e-6, {MISSED}), (5.0, set())],
    ids=["no target", "missed", "reached"],
)
def test_off_target(make_config: Make, digits: Source, target_loss: float | None, expected: set[str]) -> None:
    """After one epoch, at some 80 % accuracy: a target loss decides by itself, also where it was reached."""
    trial = Trial(make_config(epochs=1, target_loss=target_loss), digits)
    trial.train()
    record = trial.record()
    assert record.trial["train_accuracy"] < 0.999
    assert set(record.trial["flags"]) & {LOW, MISSED} == expected


@pytest.mark.parametrize(("target_loss", "expected"), [(None, set()), (1e-6, {MISSED}), (5.0, set())])
def test_no_accuracy_is_asked_of_language_models(
    make_config: Make, target_loss: float | None, expected: set[str]
) -> None:
    tokens = np.random.default_rng(0).integers(0, 5, (40, 9))
    text = Source("text", tokens[:, :-1], tokens[:, 1:], None, None, 5)
    config = make_config(
        model="lstm",
        model_options='{"width": 4}',
        epochs=1,
        batch_size=10,
        train_size=30,
        test_size=10,
        measure_examples=30,
        target_loss=target_loss,
    )
    trial = Trial(config, text)
    trial.train()
    record = trial.record()
    assert record.trial["train_accuracy"] < 0.999
    assert set(record.trial["flags"]) & {LOW, MISSED} == expected


def test_a_switch_that_never_came(make_config: Make, digits: Source) -> None:
    early = run_trial(make_config(epochs=50, target_loss=2.0, switch_epoch=40, switch_batch_size=300), digits)
    assert "ended before its switch" in early.trial["flags"]


def test_weights_load_without_pickle(make_config: Make, digits: Source, tmp_path: Path) -> None:
    trial = Trial(make_config(), digits)
    trial.train()
    trial.save_weights(tmp_path / "weights.pt")
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert all(torch.equal(weights[name], value) for name, value in trial.training.model.state_dict().items())


OWN_NETWORK = """
import math
from torch import nn

class Net(nn.Module):
    def __init__(self, n, classes):
        super().__init__()
        self.last = nn.Linear(n, classes)
    def forward(self, x):
        return self.last((x.flatten(1) > 0.5).float())

def build(shape, classes, widths):
    return Net(math.prod(shape), classes)
"""


def test_float32_in_place_of_float64_is_flagged(
    make_config: Make, digits: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "float32_network.py").write_text(OWN_NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    flag = "measured in float32, as the model cannot compute in float64"
    for model, dtype, expected, is_flagged in (
        ("float32_network:build", "float64", "float32", True),
        ("float32_network:build", "float32", "float32", False),
        ("mlp", "float64", "float64", False),
    ):
        record = run_trial(make_config(model=model, measure_dtype=dtype, measures="hessian_max_eig"), digits)
        assert [row["dtype"] for row in record.measures] == [expected]
        assert record.measures[0]["value"] > 0
        assert (flag in record.trial["flags"]) == is_flagged
