"""Examples that are stored as other numbers give the values of the whole set as float32, to the last bit."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from trainables.data import Source
from trainables.data import rows as rows_module
from trainables.data.rows import Rows, Scaling, rows_of, tensor_of
from trainables.tasks.by_name import load_task
from trainables.training.evaluate import evaluate

GENERATOR = np.random.default_rng(3)
PIXELS = GENERATOR.integers(0, 256, (40, 3, 4, 5), dtype=np.uint8)
LABELS = GENERATOR.integers(0, 4, 40)
SCALINGS = [
    Scaling(255),
    Scaling(255, mean=(0.3,), std=(0.7,)),
    Scaling(255, mean=(0.1, 0.2, 0.3), std=(0.7, 0.6, 0.9)),
    Scaling(),
]


def expected(scaling: Scaling) -> Any:
    values = np.divide(PIXELS, scaling.divisor, dtype=np.float32)
    if scaling.mean is not None:
        np.subtract(values, np.array(scaling.mean, dtype=np.float32)[:, None, None], out=values)
    if scaling.std is not None:
        np.divide(values, np.array(scaling.std, dtype=np.float32)[:, None, None], out=values)
    return values


@pytest.mark.parametrize("scaling", SCALINGS)
def test_values_are_those_of_the_whole_set_to_the_last_bit(scaling: Scaling) -> None:
    whole = expected(scaling)
    chosen = GENERATOR.permutation(40)[:25]
    rows = Rows(torch.from_numpy(PIXELS), torch.from_numpy(chosen), scaling)
    whole_split = torch.from_numpy(whole[chosen])
    batch = torch.tensor([3, 0, 24, 3])
    assert (len(rows), rows.shape, rows.ndim, rows.numel()) == (25, (25, 3, 4, 5), 4, 25 * 60)
    assert rows.dtype == torch.float32
    assert rows.is_floating_point()
    for found, right in (
        (rows.values(), whole_split),
        (rows.index_select(0, batch), whole_split[batch]),
        (rows[batch], whole_split[batch]),
        (rows[-2], whole_split[-2]),
        (rows[5:9].values(), whole_split[5:9]),
        (rows[5:19][2:4].values(), whole_split[7:9]),
        (torch.cat(list(rows.split(7))), whole_split),
        (torch.cat(list(rows.split([20, 5]))), whole_split),
        (torch.from_numpy(np.asarray(rows)), whole_split),
        (torch.from_numpy(scaling.values(PIXELS)), torch.from_numpy(whole)),
    ):
        assert torch.equal(found, right)
    assert [len(chunk) for chunk in rows.split(7)] == [7, 7, 7, 4]


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.int32])
def test_tokens_become_int64(kind: type[np.integer[Any]]) -> None:
    tokens = GENERATOR.integers(0, 60000, (9, 6)).astype(kind)
    rows = Rows(torch.from_numpy(tokens), None, None)
    assert rows.dtype == torch.int64
    assert torch.equal(rows.index_select(0, torch.tensor([8, 1])), torch.from_numpy(tokens[[8, 1]].astype(np.int64)))


def test_a_scaling_does_not_write_to_what_is_stored() -> None:
    stored = torch.rand(5, 2, dtype=torch.float32)
    before = stored.clone()
    Rows(stored, None, Scaling(1, mean=(1.0,))).values()
    assert torch.equal(stored, before)


def test_small_sets_are_tensors_and_large_ones_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, chosen = torch.from_numpy(PIXELS), np.arange(10)
    assert isinstance(rows_of(stored, None, Scaling(255)), torch.Tensor)
    monkeypatch.setattr(rows_module, "COPIED", 10 * 60 * 4 - 1)
    rows = rows_of(stored, chosen, Scaling(255))
    assert isinstance(rows, Rows)
    assert torch.equal(tensor_of(rows), torch.from_numpy(expected(Scaling(255)))[:10])
    values = torch.rand(500, 60)
    assert rows_of(values, None, None) is values  # as it is, so no copy
    assert isinstance(rows_of(values, chosen, None), Rows)


def test_the_fingerprint_is_that_of_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """So results of sweeps on sets that were kept as float32 are still found."""
    monkeypatch.setattr(rows_module, "CHUNK", 130)  # chunks of two images
    for scaling in SCALINGS:
        stored = Source("x", PIXELS, LABELS, PIXELS[:7], LABELS[:7], 4, scaling=scaling)
        plain = Source("x", expected(scaling), LABELS, expected(scaling)[:7], LABELS[:7], 4)
        assert stored.fingerprint == plain.fingerprint
    tokens = LABELS[:39].reshape(-1, 3)
    small = Source("x", tokens.astype(np.uint16), tokens.astype(np.uint16), None, None, 4)
    assert small.of_tokens
    assert small.fingerprint == Source("x", tokens, tokens, None, None, 4).fingerprint


def test_stored_tokens_are_evaluated_as_those_in_memory() -> None:
    tokens = torch.from_numpy(LABELS.reshape(-1, 4).astype(np.uint16))
    torch.manual_seed(0)
    model = torch.nn.Embedding(4, 4)
    stored, plain = (
        evaluate(model, inputs, inputs, task=load_task("language"))
        for inputs in (Rows(tokens, None, None), tokens.to(torch.int64))
    )
    assert stored.loss == plain.loss > 0


def test_a_sample_has_the_values_of_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    values = expected(Scaling(255))
    plain = Source("x", values, LABELS, values[:2], LABELS[:2], 4).split(20, 2, 1)
    stored = Source("x", PIXELS, LABELS, PIXELS[:2], LABELS[:2], 4, scaling=Scaling(255))
    for copied, kind in ((10 * 60 * 4, torch.Tensor), (0, Rows)):
        monkeypatch.setattr(rows_module, "COPIED", copied)
        samples = [data.sample(10, torch.Generator().manual_seed(5)) for data in (plain, stored.split(20, 2, 1))]
        assert isinstance(samples[1][0], kind)
        assert len(samples[1][0]) == len(samples[1][1]) == 10
        for one, other in zip(*samples, strict=True):
            assert torch.equal(tensor_of(one), tensor_of(other))
    assert plain.sample(None, torch.Generator())[0] is plain.train_inputs
    assert plain.sample(20, torch.Generator())[0] is plain.train_inputs


def test_ids_that_cannot_be_negative_are_not_searched_for_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "COPIED", 0)
    ids = LABELS[:40].reshape(-1, 4)
    found = {}
    for kind in (np.uint16, np.uint32, np.int16):
        tokens = ids.astype(kind)
        data = Source("x", tokens, tokens, tokens[:3], tokens[:3], 4, task="language").split(10, 3, None)
        found[kind] = [chunk.tolist() for chunk in data.chunks_of_labels()]
    assert found == {np.uint16: [], np.uint32: [], np.int16: [ids.tolist(), ids[:3].tolist()]}


def test_a_device_has_one_copy_for_all_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "COPIED", 0)
    source = Source("x", PIXELS, LABELS, None, None, 4, scaling=Scaling(255))
    meta = torch.device("meta")  # a device that there always is
    first, second = (source.split(20, 10, seed).to(meta) for seed in (0, 1))
    assert isinstance(first.train_inputs, Rows)
    assert isinstance(second.train_inputs, Rows)
    assert isinstance(second.test_inputs, Rows)
    assert first.is_resident
    assert first.train_inputs._stored is second.train_inputs._stored is second.test_inputs._stored
    monkeypatch.setattr(rows_module, "_fits", lambda stored, device: False)
    streamed = source.split(20, 10, 0).to(meta)
    assert not streamed.is_resident
    assert streamed.train_inputs.index_select(0, torch.tensor([1], device="cpu")).device == meta
    copy = weakref.ref(first.train_inputs._stored)
    del first, second, streamed, source
    gc.collect()
    assert copy() is None  # and it ends with its source
