"""Arrays, tokens and Arrow files that are mapped: their values, and one line for whatever is not whole."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from trainables.data import Source, load_source
from trainables.data import rows as rows_module
from trainables.data.rows import Rows, tensor_of
from trainables.runtime.errors import UserError

GENERATOR = np.random.default_rng(4)
IDS = GENERATOR.integers(0, 500, 103)


def refused(message: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(UserError, match=message) as told:
        load_source(*arguments, **options)
    assert "\n" not in str(told.value)


def as_bin(path: Path, kind: str = "uint16", header: bool = False, ids: Any = IDS) -> Path:
    content = ids.astype(kind).tobytes()
    if header:
        start = np.zeros(256, np.int32)
        start[:3] = {"uint16": 20240520, "uint32": 20240801}[kind], 1, len(ids)
        content = start.tobytes() + content
    path.write_bytes(content)
    return path


def as_npy(path: Path, kind: str) -> Path:
    np.save(path, IDS.astype(kind))
    return path


def check_windows(source: Source, ids: Any, context: int) -> None:
    """The first part of the source holds the windows of `ids`, and nothing was copied."""
    count = (len(ids) - 1) // context
    data = source.split(count, len(source.test_inputs), None)  # type: ignore[arg-type]
    assert torch.equal(tensor_of(data.train_inputs), torch.from_numpy(ids[: count * context].reshape(count, context)))
    follow = ids[1 : count * context + 1].reshape(count, context)
    assert torch.equal(tensor_of(data.train_labels), torch.from_numpy(follow))
    assert data.task == "language"
    assert isinstance(source.inputs, np.memmap)


@pytest.mark.parametrize(
    ("write", "options"),
    [
        (lambda path: as_bin(path / "all.bin"), {}),
        (lambda path: as_bin(path / "all.bin", "uint32"), {"dtype": "uint32"}),
        (lambda path: as_bin(path / "all.bin", header=True), {}),
        (lambda path: as_bin(path / "all.bin", "uint32", header=True), {}),
        (lambda path: as_npy(path / "all.npy", "uint16"), {}),
        (lambda path: as_npy(path / "all.npy", "uint32"), {}),
        (lambda path: as_npy(path / "all.npy", "int64"), {}),
    ],
)
def test_one_token_file(tmp_path: Path, write: Callable[[Path], Path], options: dict[str, Any]) -> None:
    source = load_source("tokens", root=write(tmp_path), options={"context": 4, **options})
    check_windows(source, IDS[:93], 4)
    assert (len(source.inputs), len(source.test_inputs)) == (23, 2)  # type: ignore[arg-type]
    assert source.num_classes == 1 + int(IDS.max())


def test_tokens_in_a_folder_and_in_shards(tmp_path: Path) -> None:
    as_bin(tmp_path / "x_train_000000.bin", header=True, ids=IDS[:50])
    as_bin(tmp_path / "x_train_000001.bin", header=True, ids=IDS[50:])
    as_bin(tmp_path / "x_val_000000.bin", header=True, ids=IDS[:20])
    source = load_source("tokens", root=tmp_path, options={"context": 5, "vocabulary": 512})
    check_windows(source, IDS, 5)
    assert (len(source.test_inputs), source.num_classes) == (3, 512)  # type: ignore[arg-type]
    plain = tmp_path / "plain"
    plain.mkdir()
    as_bin(plain / "train.bin")
    as_bin(plain / "val.bin", ids=IDS[:20])
    other = load_source("tokens", root=plain, options={"context": 5, "vocabulary": 512})
    assert other.fingerprint == source.fingerprint  # the same tokens
    for changed in ({"context": 4, "vocabulary": 512}, {"context": 5, "vocabulary": 513}):
        assert load_source("tokens", root=plain, options=changed).fingerprint != source.fingerprint


def test_a_source_of_mapped_files_is_pickled_as_their_place(tmp_path: Path) -> None:
    ids = GENERATOR.integers(0, 500, 10**5)
    file = as_bin(tmp_path / "all.bin", ids=ids)
    source = load_source("tokens", root=file, options={"context": 50})
    content = pickle.dumps(source)
    assert len(content) < 5000
    other = pickle.loads(content)
    for name in ("inputs", "labels", "test_inputs", "test_labels"):
        assert isinstance(getattr(other, name), np.memmap)
        np.testing.assert_array_equal(getattr(other, name), getattr(source, name))
    assert other.fingerprint == source.fingerprint
    as_bin(file, ids=ids[::-1])
    with pytest.raises(UserError, match="must hold the data that the sweep began with"):
        pickle.loads(content)


def test_token_files_that_are_not_whole(tmp_path: Path) -> None:
    file = as_bin(tmp_path / "all.bin")
    file.write_bytes(file.read_bytes()[:-1])
    refused("of 205 bytes, which uint16 tokens cannot fill; it is truncated", "tokens", root=file)
    as_bin(file, header=True)
    file.write_bytes(file.read_bytes()[:-4])
    refused("got 101 of the 103 tokens of", "tokens", root=file)
    array = as_npy(tmp_path / "all.npy", "uint16")
    array.write_bytes(array.read_bytes()[:-1])
    refused("must hold whole token files, .bin or .npy, got .*all.npy", "tokens", root=array)
    file.write_bytes(b"")
    refused("must hold tokens, got none", "tokens", root=file)
    np.save(array, np.zeros((3, 4), np.int64))
    refused(r"must hold integers \(L,\), got int64 of shape \(3, 4\)", "tokens", root=array)
    np.save(array, np.array([3, -2, 5] * 40))
    refused("must hold token ids of 0 or more, got -2", "tokens", root=array, options={"context": 4})
    as_bin(file)
    refused(
        f"`vocabulary` must be larger than the token ids, got 100 and {IDS.max()} in .*all.bin",
        "tokens", root=file, options={"context": 4, "vocabulary": 100},
    )  # fmt: skip
    refused("`context` must be shorter than the test text of 10 tokens", "tokens", root=file, options={"context": 10})
    for option in ({"context": 0}, {"vocabulary": 1}, {"dtype": "float32"}):
        refused(f"`{next(iter(option))}` must be", "tokens", root=file, options=option)
    refused("must be a token file, or a folder with", "tokens", root=tmp_path)
    refused("must be a token file, or a folder with", "tokens", root=tmp_path / "none")


def write_arrays(root: Path, inputs: Any, labels: Any, own_test: bool = True) -> None:
    root.mkdir(exist_ok=True)
    np.save(root / "train_inputs.npy", inputs)
    np.save(root / "train_labels.npy", labels)
    if own_test:
        np.save(root / "test_inputs.npy", inputs[:5])
        np.save(root / "test_labels.npy", labels[:5])


@pytest.mark.parametrize("kind", ["uint8", "int16", "float16", "float32", "float64"])
@pytest.mark.parametrize("own_test", [True, False])
def test_arrays_become_float32_when_a_batch_is_taken(
    tmp_path: Path, kind: str, own_test: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = (GENERATOR.random((40, 3, 4, 4)) * 200).astype(kind)
    labels = np.arange(40) % 4
    write_arrays(tmp_path, inputs, labels, own_test)
    source = load_source("arrays", root=tmp_path, options={"std": [1, 2, 4]})
    monkeypatch.setattr(rows_module, "COPIED", 0)
    data = source.split(20, 5, 0)
    assert isinstance(data.train_inputs, Rows)
    values = np.divide(inputs, 255, dtype=np.float32) if kind == "uint8" else inputs.astype(np.float32)
    values /= np.array([1, 2, 4], np.float32)[:, None, None]
    test_inputs, test_labels = (values[:5], labels[:5]) if own_test else (None, None)
    right = Source("plain", values, labels, test_inputs, test_labels, 4).split(20, 5, 0)
    batch = torch.tensor([3, 19, 0])
    assert torch.equal(data.train_inputs.index_select(0, batch), tensor_of(right.train_inputs)[batch])
    assert torch.equal(tensor_of(data.test_inputs), tensor_of(right.test_inputs))
    assert torch.equal(tensor_of(data.train_labels), tensor_of(right.train_labels))


def test_arrays_of_tokens_and_of_numbers(tmp_path: Path) -> None:
    tokens = IDS[:100].reshape(20, 5).astype(np.uint16)
    write_arrays(tmp_path / "a", tokens, np.roll(tokens, -1))
    source = load_source("arrays", root=tmp_path / "a")
    assert (source.of_tokens, source.task, source.num_classes) == (True, "language", 1 + int(tokens.max()))
    write_arrays(tmp_path / "b", GENERATOR.random((20, 3)), GENERATOR.random(20))
    found = load_source("arrays", root=tmp_path / "b")
    assert (found.task, found.labels.dtype) == ("regression", np.dtype(np.float32))
    assert load_source("arrays", root=tmp_path / "b", options={"std": 2}).fingerprint != found.fingerprint


def test_arrays_are_checked_once_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_arrays(tmp_path, GENERATOR.random((20, 3), np.float32), np.arange(20) % 2)
    first = load_source("arrays", root=tmp_path)
    monkeypatch.setattr("trainables.data.array_files.chunks", lambda _: pytest.fail("read again"))
    monkeypatch.setattr("trainables.data.source.chunks", lambda _: pytest.fail("read again"))
    for task in (None, "binary"):
        assert load_source("arrays", root=tmp_path, task=task).fingerprint == first.fingerprint


def test_arrays_that_do_not_fit(tmp_path: Path) -> None:
    inputs, labels = GENERATOR.random((20, 3)), np.arange(20) % 2
    refused("must hold train_inputs.npy and train_labels.npy", "arrays", root=tmp_path)
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"inputs": np.where(np.arange(60).reshape(20, 3) == 7, np.nan, inputs)}, "finite inputs, got NaN or infinity"),
        ({"labels": np.arange(20) % 4 - 1}, "labels from 0 to"),
        ({"labels": labels[:-1]}, "one label for each training input"),
        ({"inputs": inputs.astype(">f8")}, "arrays of real numbers, got >f8"),
        ({"inputs": inputs.astype(complex)}, "arrays of real numbers, got complex128"),
        ({"inputs": np.asfortranarray(inputs)}, "arrays in C order"),
    )
    for change, message in changes:
        write_arrays(tmp_path, **{"inputs": inputs, "labels": labels, **change})
        refused(message, "arrays", root=tmp_path)
    write_arrays(tmp_path, inputs, labels)
    (tmp_path / "test_labels.npy").unlink()
    refused("and test_inputs.npy and test_labels.npy or neither", "arrays", root=tmp_path)
    write_arrays(tmp_path, inputs, labels)
    os.truncate(tmp_path / "train_inputs.npy", 300)
    refused("must hold whole .npy files, got .*train_inputs.npy", "arrays", root=tmp_path)
    for option in ({"divisor": 0}, {"mean": [1, 2]}, {"std": 0}):
        write_arrays(tmp_path, inputs, labels)
        refused(f"`{next(iter(option))}` must be", "arrays", root=tmp_path, options=option)


def test_what_a_function_maps_stays_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And has the values and the fingerprint that it has in memory."""
    monkeypatch.syspath_prepend(str(tmp_path))
    inputs, labels = GENERATOR.integers(0, 256, (60, 2, 3, 3), dtype=np.uint8), np.arange(60) % 3
    write_arrays(tmp_path / "files", inputs, labels)
    (tmp_path / "mapping_code.py").write_text(
        f"import numpy as np\n"
        f"def build(mode='r'):\n"
        f"    return [np.load(f'{tmp_path}/files/{{name}}.npy', mmap_mode=mode or None) for name in "
        f"('train_inputs', 'train_labels', 'test_inputs', 'test_labels')]\n"
    )
    mapped, in_memory = (load_source("mapping_code:build", options={"mode": mode}) for mode in ("r", ""))
    assert isinstance(mapped.inputs, np.memmap)
    assert (mapped.inputs.dtype, in_memory.inputs.dtype) == (np.dtype(np.uint8), np.dtype(np.float32))
    assert mapped.fingerprint == in_memory.fingerprint
    one, other = (source.split(40, 5, 1) for source in (mapped, in_memory))
    assert torch.equal(tensor_of(one.train_inputs), tensor_of(other.train_inputs))
    assert len(pickle.dumps(mapped)) < len(pickle.dumps(in_memory)) - 60 * 18 * 4 + 1500


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Saves columns for each split as the library `datasets` does."""
    datasets = pytest.importorskip("datasets")

    def save(features: Any = None, shards: int = 2, **splits: dict[str, Any]) -> Path:
        root = tmp_path / "saved"
        whole = datasets.DatasetDict(
            {name: datasets.Dataset.from_dict(columns, features=features) for name, columns in splits.items()}
        )
        whole.save_to_disk(str(root), num_shards=dict.fromkeys(splits, shards))
        return root

    return save


PIXELS = GENERATOR.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


def test_images_that_datasets_saved(saved: Callable[..., Path]) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    images = [Image.fromarray(pixels) for pixels in PIXELS]
    root = saved(
        features,
        train={"image": images, "label": [0, 1, 1, 0, 1, 0]},
        validation={"image": images[:2], "label": [1, 0]},
    )
    source = load_source("arrow", root=root)
    np.testing.assert_array_equal(source.inputs, PIXELS.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(source.labels, [0, 1, 1, 0, 1, 0])
    assert (len(source.test_inputs), source.num_classes) == (2, 3)  # type: ignore[arg-type]
    (root / "train" / "data-00001-of-00002.arrow").rename(root / "aside")
    refused("must hold every shard that state.json names, got .*data-00001-of-00002.arrow", "arrow", root=root)
    (root / "train" / "data-00001-of-00002.arrow").write_bytes((root / "aside").read_bytes()[:700])
    refused("must hold whole Arrow files, got .*data-00001-of-00002.arrow", "arrow", root=root)


def test_tokens_that_datasets_saved(saved: Callable[..., Path]) -> None:
    rows = [IDS[:40].tolist(), IDS[40:41].tolist(), [], IDS[41:].tolist()]
    root = saved(train={"input_ids": rows}, test={"input_ids": [IDS[:20].tolist()] * 2})
    source = load_source("arrow", root=root, options={"context": 6})
    check_windows(source, IDS, 6)
    assert len(source.test_inputs) == 6  # type: ignore[arg-type]
    again = load_source("arrow", root=root, options={"context": 6})
    assert again.fingerprint == source.fingerprint
    refused("`tokens` must be a column, one of input_ids", "arrow", root=root, options={"tokens": "ids"})
    refused("`vocabulary` must be larger than", "arrow", root=root, options={"vocabulary": 5})
    refused("got train, test in .* and split=dev", "arrow", root=root, options={"split": "dev"})
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    refused("must hold a split train and one to test on, got train", "arrow", root=root)
    (root / "dataset_dict.json").unlink()
    refused("must be|must hold a folder that `datasets` has saved", "arrow", root=root)


def test_arrow_without_the_columns(saved: Callable[..., Path]) -> None:
    root = saved(train={"text": ["a"]}, test={"text": ["b"]}, shards=1)
    refused("must hold Arrow with columns image and label, got text", "arrow", root=root)
    refused(
        "must hold Arrow whose text is lists of integers, got string", "arrow", root=root, options={"tokens": "text"}
    )


def test_a_missing_shard_of_parquet(tmp_path: Path) -> None:
    for name in ("train-00000-of-00003", "train-00002-of-00003", "test-00000-of-00001"):
        pq.write_table(pa.table({"image": [b"x"], "label": [0]}), tmp_path / f"{name}.parquet")
    refused("must hold all 3 shards of train, got 2; number 1 is missing beside", "parquet", root=tmp_path)


def test_halves_of_wider_tokens(tmp_path: Path) -> None:
    file = as_bin(tmp_path / "all.bin", "uint32", ids=GENERATOR.integers(0, 128_000, 1000))
    refused("must be that of the tokens, got uint16 for .*; --dataset-options dtype=uint32", "tokens", root=file)
    as_bin(file, ids=np.arange(1000) % 4)  # a small vocabulary
    load_source("tokens", root=file, options={"context": 9})
    as_bin(file, "uint32", header=True)
    load_source("tokens", root=file, options={"context": 9})
