"""Batches, schedule, optimizer, evaluation and the loop: against hand-computed steps and plain PyTorch."""

import copy
import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from narrow import as_a
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.config import TrialConfig
from trainables.data import Dataset, Source
from trainables.models import build_model
from trainables.runtime.seeds import generator
from trainables.training import loop
from trainables.training.batches import epoch_batches
from trainables.training.evaluate import evaluate
from trainables.training.looks import is_look
from trainables.training.loop import Training
from trainables.training.schedule import batch_size_at, learning_rate_at

Make = Callable[..., TrialConfig]


@pytest.mark.parametrize(
    ("examples", "batch_size"), [(10, 3), (10, 5), (10, 10), (11, 5), (7, 1), (300, 299), (1, 1), (3, 2)]
)
def test_batches_hold_every_example_once(examples: int, batch_size: int) -> None:
    batches = epoch_batches(examples, batch_size, seed=0, epoch=0)
    assert sorted(torch.cat(batches).tolist()) == list(range(examples))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert len(batches[-1]) <= batch_size + (batch_size > 1)
    assert batch_size == 1 or examples == 1 or min(map(len, batches)) > 1  # batch norm has no variance of one
    again, next_epoch, other = (
        epoch_batches(examples, batch_size, seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0))
    )
    assert all(torch.equal(one, two) for one, two in zip(batches, again, strict=True))
    if examples > 5:
        assert not torch.equal(torch.cat(batches), torch.cat(next_epoch))
        assert not torch.equal(torch.cat(batches), torch.cat(other))


def test_warmup_is_linear_and_never_zero(make_config: Make) -> None:
    config = make_config(warmup_epochs=2.0, learning_rate=0.1)
    rates = [learning_rate_at(config, done, 32) for done in (0.1, 1.0, 1.5, 2.0, 3.0)]
    assert rates == pytest.approx([0.005, 0.05, 0.075, 0.1, 0.1])


def test_switch_policies(make_config: Make) -> None:
    for policy, factor in (("keep", 1.0), ("linear", 300 / 32), ("sqrt", math.sqrt(300 / 32))):
        config = make_config(switch_epoch=2, switch_batch_size=300, switch_learning_rate=policy)
        assert [batch_size_at(config, done) for done in range(4)] == [32, 32, 300, 300]
        assert learning_rate_at(config, 2.5, 300) == pytest.approx(0.01 * factor)
        assert learning_rate_at(config, 0.5, 32) == pytest.approx(0.01)


def small(digits: Source) -> tuple[nn.Module, Dataset]:
    torch.manual_seed(0)
    return build_model("mlp", (64,), 10, widths=[16], batch_norm=True), digits.split(300, 1497, 0)


def in_float64(model: nn.Module, data: Dataset) -> tuple[nn.Module, Dataset]:
    return model.double(), dataclasses.replace(
        data, train_inputs=as_a(Tensor, data.train_inputs).double(), test_inputs=as_a(Tensor, data.test_inputs).double()
    )


def test_evaluation_against_plain_torch(digits: Source) -> None:
    model, data = small(digits)
    model(data.train_inputs)
    modes = [module.training for module in model.modules()]
    result = evaluate(model, data.test_inputs, data.test_labels)
    assert modes == [module.training for module in model.modules()]
    model.eval()
    logits = model(data.test_inputs)
    assert result.loss == pytest.approx(cross_entropy(logits, as_a(Tensor, data.test_labels)).item(), rel=1e-6)
    assert result.accuracy == (logits.argmax(1) == data.test_labels).double().mean().item()


def test_chunks_do_not_change_an_evaluation(digits: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = small(digits)
    whole = evaluate(model, data.test_inputs, data.test_labels)
    monkeypatch.setattr("trainables.training.evaluate.CHUNK_NUMBERS", 64 * 7)
    parts = evaluate(model, data.test_inputs, data.test_labels)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.accuracy == whole.accuracy


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_epoch_against_a_hand_written_loop(make_config: Make, digits: Source, optimizer: str) -> None:
    """Uneven batches, warmup and weight decay, each update written out from its definition.

    In float64, because Adam divides each gradient by its own size. The bias before batch norm has a gradient of 0 from
    the loss, a sum of up to 128 terms that cancel, so only the weight decay is left, 0.01 |p| > 1e-5. Rounding the
    terms (each below 1) moves that by 128 * 2^-53 / 1e-5 = 1.4e-9 of a step at most, and a step by at most 0.005.
    """
    config = make_config(
        optimizer=optimizer, batch_size=128, warmup_epochs=2.0, weight_decay=0.01, momentum=0.8, epochs=3
    )
    model, data = in_float64(*small(digits))
    reference = copy.deepcopy(model)
    training = Training(config, model, data)
    training.train_epoch()
    first = {id(p): torch.zeros_like(p) for p in reference.parameters()}
    second = {id(p): torch.zeros_like(p) for p in reference.parameters()}
    seen = 0
    for step, batch in enumerate(epoch_batches(300, 128, seed=0, epoch=0), start=1):
        seen += len(batch)
        rate = 0.01 * (seen / 300) / 2
        reference.zero_grad()
        cross_entropy(reference(data.train_inputs[batch]), data.train_labels[batch]).backward()
        with torch.no_grad():
            for p in reference.parameters():
                assert p.grad is not None
                gradient = p.grad + 0.01 * p
                m, v = first[id(p)], second[id(p)]
                if optimizer == "sgd":
                    m.mul_(0.8).add_(gradient)
                    p.sub_(rate * m)
                else:
                    m.mul_(0.9).add_(gradient, alpha=0.1)
                    v.mul_(0.999).add_(gradient**2, alpha=0.001)
                    p.sub_(rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8))
    for own, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-12, atol=3 * 0.005 * 1.4e-9)
    row = training.epochs[0]
    assert (row["epoch"], row["step"], row["batch_size"]) == (1, 3, 128)
    assert row["lr"] == pytest.approx(0.005)


@pytest.mark.parametrize("state", ["reset", "keep"])
def test_the_optimizer_at_a_switch(make_config: Make, digits: Source, state: str) -> None:
    config = make_config(switch_epoch=2, switch_batch_size=300, switch_optimizer_state=state)
    model, data = small(digits)
    training = Training(config, model, data)
    for _ in range(3):
        training.train_epoch()
    steps = {int(entry["step"]) for entry in training.optimizer.state.values()}
    assert steps == ({1} if state == "reset" else {21})
    assert [row["batch_size"] for row in training.epochs] == [32, 32, 300]
    assert [row["step"] for row in training.epochs] == [10, 20, 21]


def test_target_loss_ends_training(make_config: Make, digits: Source) -> None:
    model, data = small(digits)
    training = Training(make_config(epochs=100, target_loss=0.2), model, data)
    while not training.finished:
        training.train_epoch()
    assert training.reached_target
    assert training.epochs[-1]["train_loss"] <= 0.2 < training.epochs[-2]["train_loss"]


def test_looks_are_a_factor_of_the_root_of_two_apart() -> None:
    steps = [step for step in range(1, 100) if is_look(step)]
    assert steps == [1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_looks_within_an_epoch_change_nothing(
    make_config: Make, digits: Source, monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    """Weights are the same to the last bit without them; each is the loss of all 300 examples at that step."""

    def trained(looked_epochs: int) -> Training:
        monkeypatch.setattr(loop, "LOOKED_EPOCHS", looked_epochs)
        model, data = small(digits)
        training = Training(make_config(batch_size=16), nn.Sequential(model, nn.Dropout(dropout)), data)
        for _ in range(2):
            training.train_epoch()
        return training

    looked, plain = trained(3), trained(0)
    for one, other in zip(looked.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [row["within"] for row in plain.epochs] == [None, None]
    steps = [[look["step"] for look in row["within"]] for row in looked.epochs]
    assert steps == [[1, 2, 3, 4, 6, 8, 11, 16], [23, 32]]  # epochs of 19 steps, whose last ones are in their rows
    assert looked.epochs[0]["within"][4]["epoch"] == pytest.approx(6 * 16 / 300)
    first = Training(make_config(batch_size=300, warmup_epochs=0.0), *small(digits))
    first.train_epoch()
    assert first.epochs[0]["within"] is None  # an epoch of one step


def test_many_examples_are_looked_at_in_part(
    make_config: Make, digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOOKED_EXAMPLES", 100)
    model, data = small(digits)
    training = Training(make_config(batch_size=150), model, data)
    before = copy.deepcopy(model)
    training.train_epoch()
    (look,) = training.epochs[0]["within"]
    assert look["step"] == 1
    batch = epoch_batches(300, 150, seed=0, epoch=0)[0]
    single = Training(make_config(batch_size=150), before, data)
    single._set_learning_rate(0.01)
    single._update(single.optimizer, batch)
    chosen = torch.randperm(300, generator=generator(0, "looks"))[:100]
    expected = evaluate(before, data.train_inputs[chosen], data.train_labels[chosen]).loss
    assert look["train_loss"] == pytest.approx(expected, rel=1e-6)
