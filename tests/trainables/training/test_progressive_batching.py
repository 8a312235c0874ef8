"""Trainings that choose their batch size: inner products and variances against autograd, counts, and resumed bits."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from weighted_tasks import Weighted

from trainables.check import check_trials
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.data.dataset import Dataset
from trainables.runtime.errors import UserError
from trainables.tasks.by_name import load_task
from trainables.tasks.task import Task
from trainables.training.optimizers.progressive_lbfgs import ProgressiveLBFGS, size_needed
from trainables.training.own_step import taking_whole_batches
from trainables.training.parallel import Workers
from trainables.training.parts import Parts
from trainables.training.per_example_norms import PerExampleNorms
from trainables.training.progressive_batching import ExampleLosses, GrowingBatch, ProgressiveTraining, Windows
from trainables.trial import Trial

Make = Callable[..., TrialConfig]
EXAMPLES, CLASSES = 12, 3
SEED = 5


class Named(nn.Sequential):
    """Its outputs as the weighted task takes them."""

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        for layer in self:
            inputs = layer(inputs)
        return {"value": inputs}


class OwnWeights(Weighted, Task):
    name = "weighted"
    weights = Weighted.weights


def losses_of(kind: str, micro_batch_size: int | None = None) -> tuple[ExampleLosses, nn.Module]:
    """Of a small network in float64: plain, with dropout, label smoothing, or weighted examples (some 0)."""
    torch.manual_seed(0)
    draws = torch.Generator().manual_seed(1)
    is_weighted = kind == "weighted"
    layers = [nn.Linear(5, 7), nn.Tanh(), nn.Dropout(0.5 if kind == "dropout" else 0.0)]
    model = (Named if is_weighted else nn.Sequential)(*layers, nn.LayerNorm(7), nn.Linear(7, 1 if is_weighted else 3))
    model = model.double()
    inputs = torch.randn(EXAMPLES, 5, generator=draws, dtype=torch.float64)
    labels = torch.randint(CLASSES, (EXAMPLES,), generator=draws)
    task: Task = load_task("classification")
    if is_weighted:
        labels = torch.stack([torch.randn(EXAMPLES, generator=draws), labels.float()], 1).double()
        task = OwnWeights()
    data = Dataset(inputs, labels, inputs, labels, CLASSES)
    norms = PerExampleNorms.covering(model, inputs, labels, task)
    assert len(norms.parameters) == 6
    parts = Parts(model, Workers(), micro_batch_size, None)
    model.train()
    return ExampleLosses(model, data, task, parts, norms, 0.1 if kind == "smoothing" else 0.0), model


def everything(losses: ExampleLosses) -> tuple[Tensor, Tensor]:
    return losses.data.batch(torch.arange(EXAMPLES))


def naive_gradients(losses: ExampleLosses, model: nn.Module) -> Tensor:
    """(n, p): of n w_i l_i / sum_j w_j, each example's alone, by autograd of a pass over all of them."""
    (inputs, labels), task = everything(losses), losses.task
    torch.manual_seed(SEED)
    own = task.example_losses(model(inputs), labels, losses.smoothing)
    weights = task.example_weights(labels)
    own = own if weights is None else own * len(labels) / weights.sum()
    rows = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in own]
    return torch.stack([torch.cat([gradient.flatten() for gradient in row]) for row in rows])


@pytest.mark.parametrize("kind", ["plain", "dropout", "smoothing", "weighted"])
@pytest.mark.parametrize("micro_batch_size", [None, 5])
def test_the_test_of_the_size_is_that_of_naive_gradients(kind: str, micro_batch_size: int | None) -> None:
    """Loss, gradient, inner products, the size that is needed and the relative variance; with all of them in parts."""
    losses, model = losses_of(kind, micro_batch_size)
    examples = everything(losses)
    own = naive_gradients(losses, model)
    mean = own.mean(0)
    torch.manual_seed(SEED)
    _, gradient = losses.loss_and_gradient(*examples, watched=True)
    torch.testing.assert_close(gradient, mean, rtol=1e-10, atol=1e-12)
    variance = float((own - mean).square().sum() / (EXAMPLES - 1) / mean.square().sum())
    assert losses.relative_variance(EXAMPLES) == pytest.approx(variance, rel=1e-10)
    vector = torch.randn(len(mean), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.manual_seed(SEED)
    products = losses.inner_products(*examples, vector)
    torch.testing.assert_close(products, own @ vector, rtol=1e-10, atol=1e-12)
    torch.manual_seed(SEED)
    products = losses.inner_products(*examples, mean)  # H = 1
    needed = float((own @ mean).var()) / float(mean @ mean) ** 2 / 0.3**2
    assert size_needed(products, mean, 0.3) == -int(-needed // 1) > 1


def progressive(make: Make, **changes: object) -> TrialConfig:
    fields: dict[str, object] = {
        "train_size": 60, "test_size": 20, "measure_examples": 10, "batch_size": 4, "budget": "12steps", "epochs": None,
        "measures": "", "optimizer": "progressive_lbfgs", "learning_rate": 1.0, "evaluate_every": "3steps",
        "optimizer_options": '{"theta": 0.9}', "model_options": '{"widths": [8]}',
    }  # fmt: skip
    return make(**fields | changes)


def test_examples_are_all_that_the_network_has_seen_in_training(make_config: Make, digits: Source) -> None:
    """Counted by a hook; and every step is 3 n, 2 n where the batch is whole, and more only by growth and trials."""
    trial = Trial(progressive(make_config), digits)
    seen = 0

    def count(model: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal seen
        seen += len(inputs[0]) if model.training else 0

    trial.training.model.register_forward_hook(count)
    trial.train()
    assert trial.training.examples == seen == trial.training.epochs[-1]["examples"]
    sizes = [row["batch_size"] for row in trial.training.epochs]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 4
    assert seen >= 3 * 4 * trial.training.step
    row = trial.record().trial
    assert (row["steps"], row["examples"], row["epochs_done"]) == (12, seen, pytest.approx(seen / 60))
    assert row["batch_size"] == 4  # at which it began


def test_a_budget_of_epochs_is_one_of_evaluated_examples(make_config: Make, digits: Source) -> None:
    config = progressive(make_config, budget=None, epochs=5, evaluate_every=None)
    trial = Trial(config, digits)
    trial.train()
    rows = trial.training.epochs
    assert 5 * 60 <= trial.training.examples < 5 * 60 + 22 * 60  # the last step is completed
    assert all(row["epoch"] == row["examples"] / 60 for row in rows)
    passed = [int(row["epoch"]) for row in rows]
    assert passed == sorted(set(passed))  # one row for each end of an epoch that a step passes


@pytest.mark.parametrize("changes", [{}, {"average": "ema", "average_decay": 0.5}, {"warmup_steps": 4}])
def test_a_resumed_trial_has_the_same_bits(
    make_config: Make, digits: Source, tmp_path: Path, changes: dict[str, object]
) -> None:
    """Stored after the batch has grown, in the middle of a permutation."""
    config = progressive(make_config, **changes)
    straight, first, second = (Trial(config, digits) for _ in range(3))
    straight.train()
    for _ in range(2):
        first.training.train_epoch()
    first.save(tmp_path / "trial.pt")
    assert first.training.epochs[-1]["batch_size"] > 4
    assert second.resume(tmp_path / "trial.pt")
    second.train()
    for one, other in zip(straight.training.model.parameters(), second.training.model.parameters(), strict=True):
        assert torch.equal(one, other)
    timeless = [
        [{name: value for name, value in row.items() if name != "seconds"} for row in trial.training.epochs]
        for trial in (straight, second)
    ]
    assert timeless[0] == timeless[1]


def test_it_trains(make_config: Make, digits: Source) -> None:
    """Below a tenth of the loss of guessing, log 10, in fewer steps than full-batch L-BFGS is given elsewhere."""
    config = progressive(make_config, train_size=300, batch_size=32, budget="60steps", evaluate_every="60steps")
    trial = Trial(config, digits)
    trial.train()
    assert trial.training.epochs[-1]["train_loss"] < 0.23


def test_batches_are_windows_of_permutations(make_config: Make) -> None:
    windows = Windows(progressive(make_config, train_size=10, measure_examples=10, batch_size=4))
    cpu = torch.device("cpu")
    first = windows.take(0, 4, cpu)
    grown = torch.cat([first, windows.take(4, 7, cpu)])
    assert len(grown.unique()) == 7
    windows.end(7)
    last = windows.take(0, 10, cpu)  # past the end: the permutation goes on at its beginning
    assert last.tolist() == [*windows.take(0, 3, cpu).tolist(), *grown.tolist()]
    assert len(last.unique()) == 10
    assert windows.state_dict() == {"number": 0, "start": 7}
    windows.end(5)
    assert windows.state_dict() == {"number": 1, "start": 0}
    assert windows.take(0, 10, cpu).tolist() != [*grown.tolist(), *last[:3].tolist()]


def test_a_batch_has_two_examples_at_least_and_all_at_most(make_config: Make) -> None:
    losses, _ = losses_of("plain")
    windows = Windows(progressive(make_config, train_size=EXAMPLES, measure_examples=10))
    batch = GrowingBatch(losses, windows, 1, lambda: None)
    assert (batch.size, batch.is_whole) == (2, False)
    batch.loss_and_gradient()
    batch.grow(1000)
    assert (batch.size, batch.is_whole) == (EXAMPLES, True)
    batch.loss_and_gradient()
    assert batch.evaluated == 2 + EXAMPLES


def test_micro_batches_change_rounding_alone(make_config: Make, digits: Source) -> None:
    config = progressive(make_config, budget="4steps")
    whole, cut = Trial(config, digits), Trial(config, digits, micro_batch_size=3)
    for trial in (whole, cut):
        trial.train()
    assert whole.training.examples == cut.training.examples
    for one, other in zip(whole.training.model.parameters(), cut.training.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert taking_whole_batches(config) is None


def test_a_network_with_attention_trains(make_config: Make, digits: Source) -> None:
    """Whose fused kernels have no second derivatives."""
    options = '{"patch_size": 4, "width": 8, "depth": 1, "heads": 2}'
    trial = Trial(progressive(make_config, model="vit", model_options=options, budget="2steps"), digits)
    trial.train()
    assert trial.training.step == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"switch_epoch": 1, "switch_batch_size": 20}, "`switch_epoch` cannot be used with progressive_lbfgs, which"),
        ({"batch_schedule": "1:20"}, "`batch_schedule` cannot be used with progressive_lbfgs, which changes the"),
        ({"ghost_batch_size": 4}, "`ghost_batch_size` cannot be used with progressive_lbfgs, which needs gradients"),
        ({"noise_scale": "all"}, "`noise_scale` cannot be used with progressive_lbfgs, which takes gradients"),
        ({"decay": "cosine", "budget": None, "epochs": 4}, "`decay` cannot be used with progressive_lbfgs, whose"),
        ({"sam_radius": 0.1}, "`sam_radius` cannot be used with progressive_lbfgs, whose line search needs"),
        ({"weight_decay": 0.1}, "`weight_decay` must be 0 for progressive_lbfgs"),
        ({"precision": "bfloat16"}, "`precision` must be float32 for progressive_lbfgs"),
        ({"model_options": '{"widths": [8], "batch_norm": true}'}, "`optimizer` progressive_lbfgs cannot be used"),
        ({"optimizer_options": '{"thet": 1}'}, "progressive_lbfgs has no option thet; did you mean theta?"),
        ({"optimizer_options": '{"theta": -1}'}, "progressive_lbfgs cannot be built: theta must be a number above 0"),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    make_config: Make, digits: Source, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError) as refusal:
        Trial(progressive(make_config, **changes), digits)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


class Once(torch.autograd.Function):
    """The identity, whose gradient has no derivative."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class OnceOf(nn.Module):
    """Two layers, of whose outputs the first, or both, cannot be differentiated twice."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers, self.count = nn.ModuleList([nn.Linear(64, 10) for _ in range(2)]), count

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = [layer(inputs.flatten(1)) for layer in self.layers]
        return torch.stack([Once.apply(one) if k < self.count else one for k, one in enumerate(outputs)]).sum(0)


@pytest.mark.parametrize(("count", "message"), [(0, None), (1, "and mlp lacks some"), (2, "and mlp has none: ")])
def test_a_network_without_second_derivatives_is_found_before_the_sweep(
    make_config: Make, digits: Source, count: int, message: str | None
) -> None:
    data = digits.split(60, 20, 0, 0).to(torch.device("cpu"))
    training = ProgressiveTraining(progressive(make_config), OnceOf(count), data)
    if message is None:
        training.check()
        return
    with pytest.raises(UserError) as refusal:
        training.check()
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_workers_are_refused_before_the_first_trial(make_config: Make, digits: Source) -> None:
    with pytest.raises(UserError, match="`optimizer` progressive_lbfgs must train on one worker, got 2"):
        check_trials([progressive(make_config)], digits, None, None, 2)


def test_its_options_are_part_of_the_trial(make_config: Make, digits: Source) -> None:
    config = progressive(make_config)
    assert config.trial_id != dataclasses.replace(config, optimizer_options='{"theta": 2.0}').trial_id
    training = Trial(dataclasses.replace(config, optimizer_options='{"memory": 3, "theta": 2}'), digits).training
    assert isinstance(training, ProgressiveTraining)
    assert isinstance(training.optimizer, ProgressiveLBFGS)
    assert {name: training.optimizer.param_groups[0][name] for name in ("memory", "theta", "eps")} == {
        "memory": 3, "theta": 2, "eps": 0.01,
    }  # fmt: skip
