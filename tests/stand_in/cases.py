"""What tests/test_stand_in.py runs: on another device the CPU's numbers, nothing left behind, nothing waited for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from device import Crossings, crossings, stand_in
from torch import Tensor, nn
from updates import F1, LSTM, RESNET, SEARCHING, UPDATES, source_for

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.measures.by_name import MEASURES
from trainables.measures.command import main as sharpness
from trainables.records.tables import Row
from trainables.sharpness import ModelLoss, model_loss
from trainables.training.loop import Training
from trainables.trial import Trial

Make = Callable[..., TrialConfig]

DRAWN_FOR_EACH_BATCH = {"noisy": 1, "paper's augmentation": 1, "crops": 2}  # copies: drawn on the CPU


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> torch.device:
    return stand_in(tmp_path_factory.mktemp("stand_in"))


def trained(config: TrialConfig, digits: Source, device: torch.device, micro_batch_size: int | None = None) -> Trial:
    trial = Trial(config, source_for(config, digits), device, micro_batch_size=micro_batch_size)
    trial.train()
    return trial


@pytest.fixture
def make_small(make_config: Make) -> Make:
    def make(**changes: Any) -> TrialConfig:
        sizes = {"train_size": 40, "measure_examples": 40, "batch_size": 10, "epochs": 3}
        return make_config(**sizes | {"learning_rate": 2**-7} | changes)  # a number of float32, which a GPU rounds to

    return make


@pytest.mark.parametrize("update", UPDATES)
def test_training_is_the_cpus_and_waits_for_nothing(
    make_small: Make, digits: Source, device: torch.device, update: str
) -> None:
    config = make_small(**UPDATES[update])
    micro = 4 if update == "micro-batches" else None
    expected = trained(config, digits, torch.device("cpu"), micro).training.epochs
    trial = Trial(config, source_for(config, digits), device, micro_batch_size=micro)
    trial.training.pass_over_data()  # what is made once is made
    first = crossings()
    trial.training.pass_over_data()
    found, batches = crossings(), 40 // config.batch_size
    if update not in SEARCHING:
        waits, copies = (now - before for now, before in zip(found, first, strict=True))
        drawn = DRAWN_FOR_EACH_BATCH.get(update, 0) * batches
        assert Crossings(waits, copies) == Crossings(0, 1 + drawn)  # the order of the examples
    epochs = trained(config, digits, device, micro).training.epochs
    for one, other in zip(expected, epochs, strict=True):
        assert flat(other) == pytest.approx(flat(one), rel=1e-6)  # an LSTM's kernels differ


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """The row of an epoch without its seconds, and with the losses within it as columns."""
    looks = {f"train_loss at {look['step']}": look["train_loss"] for look in row["within"] or []}
    others = json.loads(row["metrics"] or "{}")
    left_out = ("seconds", "within", "metrics")
    return {name: value for name, value in (row | looks | others).items() if name not in left_out and value is not None}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("measure", MEASURES)
def test_measures_are_the_cpus(
    make_small: Make,
    digits: Source,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    measure: str,
    dtype: str,
) -> None:
    monkeypatch.setattr(model_loss, "LARGE", 0)  # searches in float32 too
    trial = trained(make_small(epochs=20, measures=measure, measure_dtype=dtype), digits, torch.device("cpu"))
    compare(trial, device)


@pytest.mark.parametrize("batch_norm", ["running", "batch", "recalibrated"])
@pytest.mark.parametrize("chunk_size", [None, 15])
def test_measures_of_batch_norm_are_the_cpus(
    make_small: Make,
    digits: Source,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    batch_norm: str,
    chunk_size: int | None,
) -> None:
    if chunk_size is not None:
        monkeypatch.setattr(ModelLoss, "_examples_that_fit", lambda _: chunk_size)
    names = "box_sharpness,hessian_max_eig,gauss_newton_max_eig,filter_normalized_sharpness,adaptive_l2_ball_sharpness"
    size = 20 if batch_norm == "batch" else None
    changes = {**F1, "measures": names, "measure_batch_norm": batch_norm, "measure_batch_size": size}
    compare(trained(make_small(**changes), digits, torch.device("cpu")), device)


@pytest.mark.parametrize("network", [RESNET, LSTM])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_measures_of_other_networks_are_the_cpus(
    make_small: Make, digits: Source, device: torch.device, network: dict[str, Any], dtype: str
) -> None:
    changes = {**network, "measures": "box_sharpness,hessian_max_eig", "measure_dtype": dtype}
    compare(trained(make_small(**changes), digits, torch.device("cpu")), device)


def move(training: Training, device: torch.device) -> None:
    """Moves the model, whose parameters become others there, and with it what the optimizer knows of them."""
    before = list(training.model.parameters())
    training.model = training.model.to(device)
    now = dict(zip(before, training.model.parameters(), strict=True))
    for group in training.optimizer.param_groups:
        group["params"] = [now[parameter] for parameter in group["params"]]
    states = {now[parameter]: state for parameter, state in training.optimizer.state.items()}
    training.optimizer.state.clear()
    for parameter, state in states.items():
        training.optimizer.state[parameter] = {
            name: value.to(device) if isinstance(value, Tensor) else value for name, value in state.items()
        }


def compare(trial: Trial, device: torch.device) -> None:
    """The measures of `trial` on the CPU and on `device`."""

    def values(device: torch.device) -> list[Row]:
        training = trial.training
        move(training, device)
        training.data, trial.measures = training.data.to(device), []
        trial.measure()
        return trial.measures

    expected = values(torch.device("cpu"))
    assert expected
    before = crossings()
    found = values(device)
    assert crossings() != before
    for one, other in zip(expected, found, strict=True):
        assert one["method"] == other["method"]
        assert other["value"] == pytest.approx(one["value"], rel=1e-4, nan_ok=True)


def test_a_trial_is_resumed_and_its_weights_are_measured(
    make_small: Make, digits: Source, device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, path = make_small(**F1), tmp_path / "trial.pt"
    whole, first, second = (Trial(config, digits, device) for _ in range(3))
    whole.train()
    first.training.train_epoch()
    first.save(path)
    assert second.resume(path)
    second.train()
    assert second.training.epochs[-1]["train_loss"] == whole.training.epochs[-1]["train_loss"]
    second.measure()
    assert second.record().trial["box_sharpness"] > 0
    whole.save_weights(tmp_path / "weights.pt")
    network = ["--model", "f1", "--model-options", config.model_options, "--dataset", "digits", "--examples", "40"]
    said = []
    for name in ("cpu", str(device)):
        assert sharpness([str(tmp_path / "weights.pt"), *network, "--device", name]) == 0
        said.append([line.split()[:5] for line in capsys.readouterr().out.splitlines()])
    assert said[0] == said[1]


def test_what_it_is_for(device: torch.device) -> None:
    """Tensors of both devices do not mix, and what the host asks for is counted."""
    layer, inputs = nn.Linear(3, 2).to(device), torch.ones(4, 3)
    with pytest.raises(RuntimeError, match="same device"):
        layer(inputs)
    before = crossings()
    loss = layer(inputs.to(device)).sum()
    assert crossings() == (before.waits, before.copies + 1)
    assert loss.item() == pytest.approx(layer.cpu()(inputs).sum().item())
    assert crossings().waits > before.waits
