"""A stream trains on the examples that it gives, in its order, resumes exactly, and is refused where it could not."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sweeps.execution.preflight import check
from sweeps.session.placement import Placement
from trainables.config import TrialConfig
from trainables.data import load_source
from trainables.data.rows import tensor_of
from trainables.data.streams import StreamSource
from trainables.runtime.errors import UserError
from trainables.trial import Trial

STREAM = "stream_code:stream"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def config(make_config: Callable[..., TrialConfig]) -> Callable[..., TrialConfig]:
    def make(**changes: Any) -> TrialConfig:
        sizes = {"train_size": 60, "test_size": 20, "measure_examples": 50, "batch_size": 16, "split_seed": None}
        return make_config(dataset=STREAM, **sizes | changes)

    return make


def source(**options: Any) -> StreamSource:
    found = load_source(STREAM, options=options)
    assert isinstance(found, StreamSource)
    return found


def whole_epoch(number: int, examples: int = 60) -> tuple[Any, Any]:
    pairs = list(source(examples=examples).stream.epoch(number))
    inputs, labels = (torch.from_numpy(np.stack([pair[which] for pair in pairs])) for which in (0, 1))
    return inputs, labels


def test_examples_are_those_of_the_stream() -> None:
    inputs, labels = whole_epoch(0)
    inputs = inputs.float()
    data = source().split(60, 20, None)
    assert (len(data.train_inputs), data.train_inputs.shape, data.train_labels.shape) == (60, (60, 3), (60,))
    for rows, right in ((data.train_inputs, inputs), (data.train_labels, labels)):
        assert torch.equal(tensor_of(rows), right)
        assert torch.equal(torch.cat(list(rows.split(7))), right)
        assert torch.equal(torch.cat(list(rows[10:50].split([3, 37]))), right[10:50])
        assert torch.equal(rows.index_select(0, torch.tensor([59, 0, 7, 0])), right[[59, 0, 7, 0]])
        assert torch.equal(rows[20:30].index_select(0, torch.tensor([9, 1])), right[[29, 21]])
        assert torch.equal(rows[3], right[3])
    for epoch in (0, 2, 1):
        inputs, labels = whole_epoch(epoch)
        data.begin(epoch, 0)
        first, second = data.batch(torch.arange(16)), data.batch(torch.arange(44))
        assert torch.equal(torch.cat([first[0], second[0]]), inputs.float())
        assert torch.equal(torch.cat([first[1], second[1]]), labels)
    data.begin(1, 25)
    assert torch.equal(data.batch(torch.arange(5))[0], inputs[25:30].float())
    sample = data.sample(9, torch.Generator())
    assert torch.equal(tensor_of(sample[0]), whole_epoch(0)[0][:9].float())
    part = source().split(40, 5, None)
    assert (len(part.train_labels), len(part.test_labels)) == (40, 5)


@pytest.mark.parametrize("every", [None, "3steps"])
def test_a_resumed_stream_is_bit_identical(
    config: Callable[..., TrialConfig], tmp_path: Path, every: str | None
) -> None:
    """Also in the middle of an epoch, of which the beginning is skipped."""
    setting = config(evaluate_every=every)
    trial = Trial(setting, source())
    assert trial.train()
    path = tmp_path / "trial.pt"
    first = Trial(setting, source())
    for _ in range(2):
        first.training.train_epoch()
    first.save(path)
    second = Trial(setting, source())
    assert second.resume(path)
    second.train()
    assert len(second.training.epochs) == len(trial.training.epochs) > 3
    for one, other in zip(trial.training.epochs, second.training.epochs, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    weights = second.training.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in trial.training.model.state_dict().items())


def test_it_learns_and_is_measured(config: Callable[..., TrialConfig]) -> None:
    trial = Trial(config(epochs=8), source())
    trial.train()
    trial.measure()
    row = trial.record().trial
    assert row["test_accuracy"] > 0.9  # the means are 3.5 standard deviations apart: 96 % at best
    assert row["box_sharpness"] is not None


def test_a_step_of_ones_own_takes_the_examples_of_the_stream(config: Callable[..., TrialConfig]) -> None:
    """In its order, of every epoch: batches of 16, 16, 16 and 12."""
    trial = Trial(config(epochs=2, trial="stream_code:Notes", optimizer="sgd", measures=""), source())
    trial.train()
    seen = trial.training.own.seen  # type: ignore[attr-defined]
    assert [len(one) for one in seen] == [16, 16, 16, 12] * 2
    assert torch.equal(torch.cat(seen), torch.cat([whole_epoch(epoch)[0].float() for epoch in (0, 1)]))


def test_another_process_makes_the_stream_again() -> None:
    found = pickle.loads(pickle.dumps(source(examples=70)))
    assert found.examples == 70
    assert found.fingerprint == source(examples=70).fingerprint != source(examples=71).fingerprint


@pytest.mark.slow
def test_a_sweep_checks_it_before(config: Callable[..., TrialConfig]) -> None:
    assert check([config()], source(), Placement()) == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unnumbered", {}, "a stream with .* so that trials can be resumed exactly, got generator without examples"),
        ("without_test", {}, "got Stream without test"),
        ("stream", {"seeded": False}, "same examples each time epoch.0. is called, .* seed its generator"),
        ("stream", {"examples": 0}, "must state the examples of an epoch, got 0"),
        (
            "ragged",
            {},
            "must be a stream of .input, label. .* got ValueError: all input arrays must have the same shape",
        ),
    ],
)
def test_what_cannot_be_resumed_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        load_source(f"stream_code:{name}", options=options)
    assert "\n" not in str(told.value)


def test_an_epoch_that_ends_too_soon(config: Callable[..., TrialConfig]) -> None:
    short = source(examples=60, given=50)
    with pytest.raises(UserError, match="an epoch that it states, 60, got 50 in epoch 0"):
        Trial(config(), short).train()
    with pytest.raises(UserError, match="`validation_size` must be 0 for the stream"):
        short.sizes(None, None, 5)
    with pytest.raises(UserError, match="`train_size` must be between 1 and 60, got 61"):
        short.sizes(61, None)
