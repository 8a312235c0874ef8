"""Recorded updates: the same bits as without, here by lists of operations."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.runtime.process import prepare_process
from trainables.training import recording
from trainables.training.cuda_graph import cuda_graph
from trainables.training.operation_list import operation_list
from trainables.training.optimizers import built
from trainables.training.recording import Recorder, Work, is_recordable
from trainables.trial import Trial

Make = Callable[..., TrialConfig]
RATE = 2**-7  # a number of float32


class Recordings:
    """Makes lists of operations, and counts how often each is replayed."""

    def __init__(self) -> None:
        self.replays: list[int] = []

    def __call__(self, work: Work) -> Work:
        repeat, number = operation_list(work), len(self.replays)
        self.replays.append(0)

        def replay() -> None:
            self.replays[number] += 1
            repeat()

        return replay


@pytest.fixture
def make(make_config: Make) -> Make:
    return lambda **changes: make_config(**{"learning_rate": RATE, "batch_size": 16, "measure_examples": 100} | changes)


@pytest.fixture
def recordings() -> Recordings:
    return Recordings()


def epochs(
    config: TrialConfig, source: Source, record: Recorder | None, device: torch.device | None = None
) -> list[dict[str, Any]]:
    trial = Trial(config, source, device, record=record)
    trial.train()
    return [{**row, "seconds": 0} for row in trial.training.epochs]


UPDATES: list[dict[str, Any]] = [
    {},
    {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 2**-10, "warmup_epochs": 2},
    {"optimizer": "sgd", "momentum": 0.9, "momentum_correction": False, "warmup_epochs": 2},
    {"optimizer": "adagrad", "clip_norm": 0.5},
    {"optimizer": "adamw", "weight_decay": 2**-10, "parameter_groups": "*.bias:lr=2x"},
    {"label_smoothing": 0.1, "model_options": '{"widths": [16], "dropout": 0.2}'},
    {"precision": "bfloat16"},
    {"model": "f1", "model_options": '{"width": 16, "depth": 2}'},
    {"model": "f1", "model_options": '{"width": 16, "depth": 2}', "ghost_batch_size": 8},
]


@pytest.mark.parametrize("changes", UPDATES)
def test_the_same_numbers(make: Make, digits: Source, recordings: Recordings, changes: dict[str, Any]) -> None:
    """Over epochs of 16 batches of 16 and a last one of 12."""
    config = make(train_size=268, epochs=2, **changes)
    assert epochs(config, digits, recordings) == epochs(config, digits, None)
    assert recordings.replays == [1 + 2 * 16 - recording.UPDATES_BEFORE]  # one to see whether it is right


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("changes", UPDATES)
def test_the_same_numbers_by_a_cuda_graph(make: Make, digits: Source, changes: dict[str, Any]) -> None:
    prepare_process(1)
    config, device = make(train_size=268, epochs=4, **changes), torch.device("cuda")
    trial = Trial(config, digits, device, record=cuda_graph)
    trial.train()
    assert trial.training.recorded == [16]
    assert [{**row, "seconds": 0} for row in trial.training.epochs] == epochs(config, digits, None, device)


@pytest.mark.parametrize("state", ["keep", "reset"])
def test_recorded_anew_for_another_batch_size_and_optimizer(
    make: Make, digits: Source, recordings: Recordings, state: str
) -> None:
    config = make(
        train_size=256,
        batch_size=8,
        switch_batch_size=16,
        switch_epoch=1,
        switch_learning_rate="linear",
        switch_optimizer_state=state,
        epochs=4,
    )
    assert epochs(config, digits, recordings) == epochs(config, digits, None)
    assert recordings.replays == [1 + 32 - 20, 1 + 48 - 20]


def test_not_recorded_without_a_fused_kernel(
    make: Make, digits: Source, recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Adagrad's on a GPU in PyTorch 2.11: its step would read the rate in Python."""
    monkeypatch.setattr(built, "_has_fused_kernel", lambda own, device: False)
    config = make(train_size=256, epochs=3, optimizer="adagrad")
    assert epochs(config, digits, recordings) == epochs(config, digits, None)
    assert recordings.replays == []


def test_a_trial_is_resumed(make: Make, digits: Source, recordings: Recordings, tmp_path: Any) -> None:
    config = make(train_size=256, epochs=5)
    first, second = (Trial(config, digits, record=recordings) for _ in range(2))
    for trial, count in ((first, 2), (second, 3)):
        for _ in range(count):
            trial.training.train_epoch()
    first.save(tmp_path / "trial.pt")
    assert second.resume(tmp_path / "trial.pt")  # whose moments lie elsewhere than those recorded
    second.train()
    assert [{**row, "seconds": 0} for row in second.training.epochs] == epochs(config, digits, None)


def forgetting(work: Work) -> Work:
    """A recording that leaves everything as it is."""
    return lambda: None


def hasty(work: Work) -> Work:
    """A recording that does the update twice."""

    def twice() -> None:
        work()
        work()

    return twice


def impossible(work: Work) -> Work:
    work()
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize("record", [forgetting, hasty, impossible])
def test_a_recording_that_is_none_is_not_used(make: Make, digits: Source, record: Recorder) -> None:
    options = '{"widths": [16], "dropout": 0.2}'
    config = make(train_size=256, model_options=options)
    assert epochs(config, digits, record) == epochs(config, digits, None)


def test_large_batches_are_not_recorded(
    make: Make, digits: Source, recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "LARGEST_BATCH", 15)
    epochs(make(train_size=256), digits, recordings)
    assert recordings.replays == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"clip_norm": 1.0, "label_smoothing": 0.1, "ghost_batch_size": 4}, True),
        ({"augmentation": "paper"}, False),
        ({"noise_batch_size": 4}, False),
        ({"input_adversary": 0.1}, False),
        ({"weight_adversary": 0.1}, False),
        ({"sam_radius": 0.1}, False),
        ({"proximal": 0.1}, False),
        ({"model": "my.nets:build"}, False),
        ({"model": "lstm"}, False),
        ({"layer_adaptation": True}, False),
        ({"optimizer": "adamw"}, True),
        ({"optimizer": "muon"}, False),
        ({"optimizer": "nadam"}, False),
        ({"optimizer": "torch.optim:AdamW"}, False),
        ({"optimizer": "lbfgs", "batch_size": 300}, False),
    ],
)
def test_what_is_recordable(make: Make, changes: dict[str, Any], expected: bool) -> None:
    assert is_recordable(make(**changes)) == expected


def test_large_networks_are_not_tried_on_a_processor(
    make: Make, digits: Source, recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a recording is compared with would take memory, for nothing."""
    config = make(train_size=256, epochs=3)
    weights = sum(parameter.nbytes for parameter in Trial(config, digits).training.model.parameters())
    for memory, expected in ((weights - 1, 0), (weights, 1)):
        monkeypatch.setattr(recording, "MEMORY", memory)
        epochs(config, digits, recordings)
        assert len(recordings.replays) == expected


def test_few_recordings_are_kept(
    make: Make, digits: Source, recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest is dropped, and made anew where its batch size comes back."""
    monkeypatch.setattr(recording, "MOST_RECORDINGS", 1)
    monkeypatch.setattr(recording, "UPDATES_BEFORE", 2)
    config = make(train_size=268, epochs=3)  # 16 batches of 16 and one of 12
    assert epochs(config, digits, recordings) == epochs(config, digits, None)
    assert recordings.replays == [1 + 14 + 16, 1, 1 + 14]


def test_a_training_that_is_over_holds_no_recording(make: Make, digits: Source) -> None:
    """It is freed without a collection of cycles, since a recording's memory is no one else's."""
    recordings = []

    def record(work: Work) -> Work:
        replay = operation_list(work)
        recordings.append(weakref.ref(replay))
        return replay

    trial = Trial(make(train_size=256, epochs=3), digits, record=record)
    trial.train()
    assert trial.training.recorded == [16]
    training = weakref.ref(trial.training)
    gc.disable()
    try:
        assert [recording() for recording in recordings] == [None]
        del trial
        assert training() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("rate", [0.1, 1e-3, 0.003])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "adagrad"])
def test_any_rate_on_a_processor(
    make: Make, digits: Source, recordings: Recordings, optimizer: str, rate: float
) -> None:
    """Its kernels read numbers of float64 from memory."""
    config = make(train_size=256, epochs=3, optimizer=optimizer, learning_rate=rate, warmup_epochs=2)
    assert epochs(config, digits, recordings) == epochs(config, digits, None)
    assert recordings.replays == [1 + 48 - recording.UPDATES_BEFORE]
