"""Post-local SGD: against plain training, against workers that are written out, and over a resumption."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainables.check import check_trials
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.runtime.errors import UserError
from trainables.training.batches import epoch_batches
from trainables.training.local_sgd import LocalUpdate
from trainables.training.loop import Training
from trainables.training.optimizers.by_name import build_optimizer
from trainables.trial import Trial

Make = Callable[..., TrialConfig]
LOCAL = {"local_workers": 4, "local_steps": 3, "local_from": 1.0}
SGD = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.1, "measures": ""}


def weights(training: Training) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in training.model.state_dict().values()]


class LeastSquares:
    """An update of a linear model in float64 by the mean gradient over a batch."""

    def __init__(self, inputs: Tensor, labels: Tensor, model: nn.Linear) -> None:
        self.inputs, self.labels, self.model = inputs, labels, model

    def begin_epoch(self, epoch: int) -> None: ...

    def random_state(self) -> list[Tensor]:
        return []

    def restore_random_state(self, states: list[Tensor]) -> None: ...

    def __call__(self, optimizer: Any, batch: Tensor) -> None:
        optimizer.zero_grad()
        ((self.model(self.inputs[batch]).squeeze(1) - self.labels[batch]) ** 2 / 2).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("batch", [24, 23])  # parts of 6, or of 6, 6, 6 and 5
def test_one_local_step_is_the_large_batch(make_config: Make, momentum: float, batch: int) -> None:
    """In float64 to rounding: 40 steps, each with a few roundings of numbers of the order of one."""
    changes = SGD | {"momentum": momentum, "batch_size": batch, "train_size": batch, "measure_examples": batch}
    config = make_config(**changes, local_workers=4, local_steps=1)
    torch.manual_seed(0)
    inputs, labels = torch.randn(batch, 3, dtype=torch.float64), torch.randn(batch, dtype=torch.float64)
    plain = nn.Linear(3, 1).double()
    local = copy.deepcopy(plain)
    updates = (
        (LeastSquares(inputs, labels, plain), build_optimizer(config, plain)),
        (LocalUpdate(config, LeastSquares(inputs, labels, local), local), build_optimizer(config, local)),
    )
    start = plain.weight.detach().clone()
    for step in range(40):
        for update, optimizer in updates:
            update(optimizer, torch.randperm(batch, generator=torch.Generator().manual_seed(step)))
    assert not torch.allclose(plain.weight, start, atol=1e-2)
    torch.testing.assert_close(local.weight, plain.weight, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(local.bias, plain.bias, rtol=1e-13, atol=1e-14)


def test_one_local_step_of_a_trial(make_config: Make, digits: Source) -> None:
    """The same in a whole trial, in float32: 30 steps at rounding errors of 1e-7 each."""
    changes = SGD | {"batch_size": 32, "epochs": 3}
    plain, local = (
        Trial(make_config(**changes, **more), digits).training for more in ({}, {"local_workers": 4, "local_steps": 1})
    )
    while not plain.finished:
        plain.train_epoch()
        local.train_epoch()
    assert [row["step"] for row in local.epochs] == [row["step"] for row in plain.epochs]
    for one, two in zip(weights(plain), weights(local), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_one_worker_is_plain_training(make_config: Make, digits: Source, optimizer: str) -> None:
    plain = make_config(optimizer=optimizer, measures="", epochs=3)
    single = dataclasses.replace(plain, local_workers=1, local_steps=3, local_from=1.0)
    assert single.trial_id == plain.trial_id
    trained = Trial(plain, digits).training
    update = LocalUpdate(single, (local := Trial(plain, digits).training)._update, local.model)
    local._update = update
    for training in (trained, local):
        while not training.finished:
            training.train_epoch()
    assert all(map(torch.equal, weights(trained), weights(local)))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_against_workers_written_out(make_config: Make, digits: Source, momentum: float) -> None:
    """Four models with optimizers of PyTorch's; batches of 32 leave one of 12, of which every worker has three."""
    config = make_config(**SGD | {"momentum": momentum, "epochs": 4}, **LOCAL)
    training = Trial(config, digits).training
    model, data = copy.deepcopy(training.model), training.data
    training.train_epoch()
    torch_sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)

    def step(network: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor) -> None:
        optimizer.zero_grad()
        inputs, labels = data.batch(rows)
        nn.functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()

    for batch in epoch_batches(300, 32, seed=0, epoch=0):
        step(model, torch_sgd, batch)
    for one, two in zip(model.parameters(), training.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)

    networks = [copy.deepcopy(model) for _ in range(4)]
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1, momentum=momentum) for one in networks]
    for optimizer in optimizers:
        optimizer.load_state_dict(copy.deepcopy(torch_sgd.state_dict()))
    used, steps = [0] * 4, 0
    for epoch in (1, 2, 3):
        training.train_epoch()
        for batch in epoch_batches(300, 32, seed=0, epoch=epoch):
            for worker, part in enumerate(batch.tensor_split(4)):
                step(networks[worker], optimizers[worker], part)
                used[worker] += len(part)
            steps += 1
            shares = torch.tensor(used) / sum(used)
            mean = [
                sum(share * p.detach() for share, p in zip(shares, same, strict=True))
                for same in zip(*(one.parameters() for one in networks), strict=True)
            ]
            if steps % 3 == 0:
                used = [0] * 4
                for network in networks:
                    for parameter, value in zip(network.parameters(), mean, strict=True):
                        parameter.data.copy_(value)
        for parameter, value in zip(training.model.parameters(), mean, strict=True):
            torch.testing.assert_close(parameter.detach(), value, rtol=1e-4, atol=1e-5)


BATCH_NORM = {"model_options": '{"widths": [8], "batch_norm": true}'}


@pytest.mark.parametrize("more", [{"optimizer": "adam"}, {"optimizer": "adam", **BATCH_NORM}, {"optimizer": "muon"}])
def test_resumed_to_the_same_bits(make_config: Make, digits: Source, tmp_path: Path, more: dict[str, Any]) -> None:
    """Saved after 14 steps, in the middle of an epoch and of a round of local steps."""
    config = make_config(
        **{"model_options": '{"widths": [8, 8]}', **more}, measures="", evaluate_every="7steps", **LOCAL
    )
    whole, first, resumed = (Trial(config, digits) for _ in range(3))
    whole.train()
    first.training.train_epoch()
    first.training.train_epoch()
    first.save(tmp_path / "checkpoint.pt")
    assert resumed.resume(tmp_path / "checkpoint.pt")
    resumed.train()
    assert all(map(torch.equal, weights(whole.training), weights(resumed.training)))
    assert [row["train_loss"] for row in whole.training.epochs] == [
        row["train_loss"] for row in resumed.training.epochs
    ]


def test_evaluating_more_often_changes_nothing(make_config: Make, digits: Source) -> None:
    seldom, often = (
        Trial(make_config(measures="", evaluate_every=every, **LOCAL), digits).training for every in (None, "1steps")
    )
    for training in (seldom, often):
        while not training.finished:
            training.train_epoch()
    assert all(map(torch.equal, weights(seldom), weights(often)))


def test_running_statistics_are_averaged(make_config: Make, digits: Source) -> None:
    config = make_config(measures="", epochs=2, **BATCH_NORM, local_workers=3, local_steps=100)
    training = Trial(config, digits).training
    while not training.finished:
        training.train_epoch()
    workers = training.state_dict()["local"]["workers"]
    shares = [worker["examples"] / 600 for worker in workers]
    assert sum(shares) == pytest.approx(1, rel=1e-15)
    statistics = [
        index for index, t in enumerate(workers[0]["tensors"]) if not torch.equal(t, workers[1]["tensors"][index])
    ]
    held = [*training.model.parameters(), *training.model.buffers()]
    names = [name for name, _ in (*training.model.named_parameters(), *training.model.named_buffers())]
    assert {names[index].rpartition(".")[2] for index in statistics} >= {"running_mean", "running_var", "weight"}
    for index in statistics:
        mean = sum(share * worker["tensors"][index].double() for share, worker in zip(shares, workers, strict=True))
        torch.testing.assert_close(held[index].detach().double(), mean, rtol=1e-6, atol=1e-7)


def test_a_switch_resets_the_state_of_all_workers(make_config: Make, digits: Source) -> None:
    switch = {"switch_epoch": 2, "switch_batch_size": 100, "switch_optimizer_state": "reset"}
    training = Trial(make_config(measures="", **switch, **LOCAL | {"local_from": 0.0}), digits).training
    while not training.finished:
        training.train_epoch()
    for worker in training.state_dict()["local"]["workers"]:
        assert {float(state["step"]) for state in worker["optimizer"]["state"].values()} == {6}  # of 100, in two epochs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"local_steps": 4}, "`local_workers` must be given with local_steps"),
        ({"local_from": 1.0}, "`local_workers` must be given with local_from"),
        ({"local_workers": 4}, "`local_steps` must be given with local_workers"),
        (LOCAL | {"local_workers": 0}, "`local_workers` must be 1 or more, got 0"),
        (LOCAL | {"local_steps": 0}, "`local_steps` must be 1 or more, got 0"),
        (LOCAL | {"local_from": -1.0}, "`local_from` must be a number of epochs, 0 or more, got -1.0"),
        (LOCAL | {"batch_size": 3}, r"`local_workers` must be at most the batch size \(3\), got 4"),
        (LOCAL | {"batch_schedule": "1:2,2:64"}, r"`local_workers` must be at most the batch size \(2\), got 4"),
        (LOCAL | {"noise_scale": "all"}, "`noise_scale` cannot be used with `local_workers`"),
        (LOCAL | {"optimizer": "lbfgs", "batch_size": 300}, "`local_workers` cannot be used with lbfgs"),
        (LOCAL | {"trial": "a:B"}, "`local_workers` cannot be used with --trial"),
        (
            LOCAL | {"optimizer": "sgd", "momentum_correction": False},
            "`momentum_correction` cannot be used with local_workers",
        ),
    ],
)
def test_bad_values(make_config: Make, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_config(**change)


def test_parts_of_one_example_do_not_go_with_batch_norm(make_config: Make, digits: Source) -> None:
    """Said before the first trial, as at batch size 1."""
    config = make_config(**BATCH_NORM, batch_size=4, **LOCAL)
    with pytest.raises(UserError, match="cannot train at batch size 1"):
        check_trials([config], digits, None, None, 1)
    check_trials([dataclasses.replace(config, batch_size=8)], digits, None, None, 1)


def test_local_steps_that_never_come_are_none(make_config: Make) -> None:
    plain = make_config(epochs=4).trial_id
    assert make_config(epochs=4, **LOCAL | {"local_from": 4.0}).trial_id == plain
    assert make_config(epochs=4, **LOCAL | {"local_from": 3.5}).trial_id != plain
    without_start = {name: value for name, value in LOCAL.items() if name != "local_from"}
    assert make_config(**without_start).trial_id == make_config(**LOCAL | {"local_from": 0.0}).trial_id != plain
