"""The exported setting: who wins, and a script with the loss, the optimizer and the schedule of the trial."""

import json
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from made_up import judged_by, record
from torch import Tensor, nn

from analysis import export as command
from analysis.data.load import load_sweep
from analysis.reporting.export import knots, winner, write_best
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.records.tables import Record
from trainables.tasks.by_name import load_task
from trainables.training.optimizers.by_name import build_optimizer
from trainables.trial import Trial


def trials(results: Mapping[float, Sequence[float]], **config: Any) -> list[Record]:
    """A record for each {learning rate: results of seed 0, 1, ...}."""
    return [
        record(value, learning_rate=rate, seed=seed, split_seed=seed, **config)
        for rate, values in results.items()
        for seed, value in enumerate(values)
    ]


RESULTS = {0.1: [0.9, 0.92, 0.94], 0.01: [0.93, 0.94, 0.95], 0.001: [0.99]}  # the last in one replicate alone


def test_the_winner_has_the_best_mean_in_all_replicates(write_sweep: Callable[..., Path]) -> None:
    folder = write_sweep(trials(RESULTS))
    found = winner(load_sweep(folder))
    assert (found.config.learning_rate, found.chosen_on) == (0.01, "test")
    assert found.result.value == pytest.approx(0.94)
    assert len(found.trial_ids) == 3
    judged_by(folder, "nats", "nats per token", 2.0, 1.0)
    assert winner(load_sweep(folder)).config.learning_rate == 0.01
    other = judged_by(write_sweep(trials(RESULTS), "other"), "nats", "nats per token", 2.0, -1.0)
    assert winner(load_sweep(other)).config.learning_rate == 0.01
    assert winner(load_sweep(other)).result.value == pytest.approx(1.06)


def test_less_is_better(write_sweep: Callable[..., Path]) -> None:
    lower = judged_by(write_sweep(trials({0.1: [0.1, 0.2], 0.01: [0.3, 0.2]})), "mse", "", 0.0, 1.0)
    assert winner(load_sweep(lower)).config.learning_rate == 0.01
    flipped = judged_by(write_sweep(trials({0.1: [-0.1, -0.2], 0.01: [-0.3, -0.2]}), "flipped"), "mse", "", 0.0, -1.0)
    assert winner(load_sweep(flipped)).config.learning_rate == 0.1  # mse 0.15 against 0.25


def test_validation_examples_choose_where_there_are_some(write_sweep: Callable[..., Path]) -> None:
    held_out = trials({0.1: [0.95], 0.01: [0.9]}, validation_size=100)
    sweep = load_sweep(write_sweep([*trials(RESULTS), *held_out]))
    found = winner(sweep)
    assert (found.config.learning_rate, found.chosen_on) == (0.1, "validation")
    result = json.loads(write_best(sweep)[0].read_bytes())["result"]
    assert result["mean_validation_metric"] == 0.95
    assert not [name for name in result if "interval" in name]  # of the best of several none holds as often as it says


def test_the_files_agree(write_sweep: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sweep(trials(RESULTS, label_smoothing=0.1, sam_radius=0.05))
    assert command.main([str(folder), "--best"]) == 0
    assert capsys.readouterr().out.split() == [
        str(folder / "export" / f"best.{kind}") for kind in ("json", "yaml", "py")
    ]
    content = json.loads((folder / "export" / "best.json").read_text())
    assert yaml.safe_load((folder / "export" / "best.yaml").read_text()) == content
    assert content["setting"]["learning_rate"] == 0.01
    assert "seed" not in content["setting"]
    assert "Not in this script: sam_radius=0.05" in (folder / "export" / "best.py").read_text()
    with pytest.raises(SystemExit):
        command.main([str(folder)])


@pytest.mark.parametrize("optimizer", ["gradient_descent", "progressive_lbfgs"])
def test_an_optimizer_with_a_line_search_has_no_script(write_sweep: Callable[..., Path], optimizer: str) -> None:
    """Nor one that is left of another winner."""
    folder = write_sweep(trials(RESULTS, optimizer=optimizer, batch_size=512, train_size=512))
    (folder / "export").mkdir()
    (folder / "export" / "best.py").write_text("")
    written = write_best(load_sweep(folder))
    assert [path.name for path in written] == ["best.json", "best.yaml"]
    assert sorted(path.name for path in (folder / "export").iterdir()) == ["best.json", "best.yaml"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"warmup_epochs": 1.5, "decay": "cosine", "epochs": 6},
        {"decay": "step", "decay_epochs": "2,4", "decay_factor": 0.1, "epochs": 5},
        {"switch_epoch": 2, "switch_batch_size": 90, "switch_learning_rate": "sqrt", "switch_optimizer_state": "keep"},
        {"batch_schedule": "1:64,3:256", "optimizer": "sgd", "momentum": 0.8, "weight_decay": 1e-4},
        {"learning_rate_scaling": "linear", "base_batch_size": 8, "clip_norm": 0.5, "label_smoothing": 0.1},
        {"optimizer": "adagrad", "weight_decay": 1e-3},
        {"optimizer": "adamw"},
        {"optimizer": "adamw", "optimizer_options": '{"betas": [0.8, 0.95]}', "weight_decay": 0.1},
        {"optimizer_options": '{"decoupled_weight_decay": true}', "weight_decay": 0.1},
        {"optimizer": "nadam", "parameter_groups": "*.bias:lr=2x"},
        {"epochs": None, "budget": "25steps", "warmup_steps": 7, "decay": "wsd", "decay_share": 0.3},
        {"layer_adaptation": True, "optimizer": "sgd"},
        {"batch_size": 23},  # 300 = 13 * 23 + 1: the example that is left over joins the last batch
    ],
)
def test_the_script_trains_as_the_trial(
    changes: dict[str, Any], write_sweep: Callable[..., Path], make_config: Callable[..., TrialConfig], digits: Source
) -> None:
    config: TrialConfig = make_config(**{"batch_size": 32, "epochs": 4, "target_loss": None} | changes)
    folder = write_sweep([record_of(config)])
    source = write_best(load_sweep(folder))[2].read_bytes().decode()
    module: Any = types.ModuleType("best")
    exec(compile(source, "best.py", "exec"), module.__dict__)

    trial = Trial(config, digits)
    expected: list[tuple[int, float]] = []

    class Noted:
        """In the place of an update: batch size and learning rate are noted, nothing is trained."""

        def begin_epoch(self, epoch: int) -> None:
            pass

        def random_state(self) -> None:
            return None

        def restore_random_state(self, state: None) -> None:
            pass

        def __call__(self, optimizer: Any, batch: Any) -> None:
            expected.append((len(batch), optimizer.param_groups[0]["lr"]))

    vars(trial.training)["_update"] = Noted()
    while not trial.training._is_at_end:
        trial.training.pass_over_data()

    seen: list[tuple[int, float]] = []
    build = module.build_optimizer

    def built(model: nn.Module) -> Any:
        optimizer = build(model)
        optimizers.append(optimizer)
        return optimizer

    module.build_optimizer = built
    optimizers: list[Any] = []
    network = nn.Sequential(nn.Linear(4, 10))
    network.register_forward_pre_hook(
        lambda _, inputs: seen.append((len(inputs[0]), optimizers[0].param_groups[0]["lr"]))
    )
    data = torch.randn(config.train_size, 4), torch.randint(10, (config.train_size,))
    module.train(network, *data)
    assert [size for size, _ in seen] == [size for size, _ in expected]
    peak = max(rate for _, rate in expected)
    assert [rate for _, rate in seen] == pytest.approx([rate for _, rate in expected], abs=1.01e-4 * peak)

    theirs, ours = build(network), build_optimizer(config, network)
    for parameter in network.parameters():
        their, own = (
            next(group for group in found.param_groups if any(one is parameter for one in group["params"]))
            for found in (theirs, ours)
        )
        for key, value in own.items():
            if key not in ("params", "fused", "capturable"):  # how it is computed
                assert their[key] == value


def record_of(config: TrialConfig) -> Record:
    """The record of a completed trial of `config`."""
    entry = record()
    return Record(entry.trial | vars(config.canonical()) | {"trial_id": config.trial_id}, [], [])


@pytest.mark.parametrize(
    ("task", "outputs", "labels"),
    [
        ("classification", torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])),
        ("language", torch.randn(2, 3, 4), torch.tensor([[0, 1, -100], [3, -100, -100]])),
        ("regression", torch.randn(4, 2), torch.randn(4, 2)),
        ("multilabel", torch.randn(4, 3), torch.randint(2, (4, 3))),
        ("binary", torch.randn(4, 1), torch.tensor([0, 1, 1, 0])),
        ("classification", torch.randn(2, 3, 4), torch.tensor([[0, 1, 2], [3, 3, 1]])),
    ],
)
def test_the_loss_of_the_script_is_that_of_the_task(
    task: str, outputs: Tensor, labels: Tensor, write_sweep: Callable[..., Path]
) -> None:
    about = {"metric": "mine", "metric_unit": "", "metric_direction": "lower", "test_metric": 1.0}
    entry = record(row={"task": task, "dataset_task": task, **about})
    source = write_best(load_sweep(write_sweep([entry])))[2].read_bytes().decode()
    (line,) = [line for line in source.splitlines() if line.strip().startswith("loss = ")]
    names = {"F": nn.functional, "outputs": outputs, "targets": labels}
    found = eval(line.strip().removeprefix("loss = "), names)
    own = load_task(task, [labels])
    losses, weights = own.loss(outputs, labels), own.weights(labels)
    weights = torch.ones_like(losses) if weights is None else weights
    assert found.item() == pytest.approx(((losses * weights).sum() / weights.sum()).item(), rel=1e-5)


class Weighted:
    """A task of one's own: absolute errors, of which large labels weigh more, and images that are halved."""

    metric, unit, direction = "error", "", "lower"

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        errors: Tensor = (outputs["answer"][:, 0] - labels).abs()
        return errors

    def weights(self, labels: Tensor) -> Tensor:
        return labels.abs()

    def augment(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return inputs / 2, labels

    def set_mode(self, model: nn.Module, training: bool) -> None:
        model.train(False)


class Answering(nn.Module):
    """Notes its inputs and modes; returns the sum of an input, as `kind` has it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.scale = kind, nn.Parameter(torch.ones(()))
        self.seen: list[tuple[Tensor, bool]] = []

    def forward(self, inputs: Tensor) -> Any:
        self.seen.append((inputs, self.training))
        answer = self.scale * inputs
        return {"dictionary": {"answer": answer}, "logits": {"logits": answer}, "tuple": (answer, 1)}[self.kind]


def trained(source: str, model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    module: Any = types.ModuleType("best")
    exec(compile(source, "best.py", "exec"), module.__dict__)
    module.train(model, inputs, labels)


def test_the_script_uses_all_of_a_task_of_ones_own(write_sweep: Callable[..., Path]) -> None:
    about = {"metric": "error", "metric_unit": "", "metric_direction": "lower", "test_metric": 1.0}
    shape: dict[str, Any] = {
        "optimizer": "sgd",
        "momentum": 0.0,
        "batch_size": 4,
        "train_size": 4,
        "test_size": 4,
        "epochs": 1,
    }
    rate: dict[str, Any] = {"learning_rate": 0.5, "target_loss": None, "measure_examples": 4}
    entry = record(row={"task": f"{__name__}:Weighted", **about}, task=f"{__name__}:Weighted", **shape, **rate)
    model, labels = Answering("dictionary"), torch.tensor([0.0, 1.0, 2.0, 5.0])
    inputs = torch.arange(4.0)[:, None]
    trained(write_best(load_sweep(write_sweep([entry])))[2].read_bytes().decode(), model, inputs, labels)
    ((given, training),) = model.seen
    assert sorted(given.flatten().tolist()) == [0.0, 0.5, 1.0, 1.5]
    assert not training
    # Errors are |s x / 2 - y| with weights y, here all with y above: the slope in s is -sum(y x / 2) / sum(y).
    slope = -(1 * 0.5 + 2 * 1.0 + 5 * 1.5) / 8
    assert model.scale.item() == pytest.approx(1 - 0.5 * slope)


@pytest.mark.parametrize("kind", ["logits", "tuple"])
def test_the_script_takes_what_a_network_of_ones_own_returns(kind: str, write_sweep: Callable[..., Path]) -> None:
    model = Answering(kind)
    source = write_best(load_sweep(write_sweep([record(model="package.module:build")])))[2].read_bytes().decode()
    trained(source, model, torch.randn(300, 3), torch.randint(3, (300,)))
    assert model.scale.item() != 1


def test_a_step_of_ones_own_has_no_script(write_sweep: Callable[..., Path]) -> None:
    written = write_best(load_sweep(write_sweep([record(trial="package.module:Step")])))
    assert [path.name for path in written] == ["best.json", "best.yaml"]


def test_knots_by_hand() -> None:
    assert knots(torch.tensor([0.0, 1, 2, 3, 3, 3, 0.3, 0.3]).numpy(), 1e-6) == [0, 3, 5, 6, 7]
    assert knots(torch.ones(5).numpy(), 1e-6) == [0, 4]
    assert knots(torch.ones(1).numpy(), 1e-6) == [0]
