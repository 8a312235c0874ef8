"""Datasets: splits, standard layouts, image files, a user's own; and one clear line for each thing wrong."""

import dataclasses
import hashlib
import io
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from narrow import as_a
from PIL import Image
from torch import Tensor

from trainables.data import Source, load_dataset, load_source
from trainables.data.rows import values_of
from trainables.runtime.errors import UserError


def test_digits() -> None:
    dataset = load_dataset("digits", split_seed=3)
    assert dataset.train_inputs.shape == (300, 1, 8, 8)
    assert dataset.test_inputs.shape == (1497, 1, 8, 8)
    assert dataset.train_inputs.dtype == torch.float32
    inputs = as_a(Tensor, dataset.train_inputs)
    assert (inputs.min().item(), inputs.max().item()) == (0, 1)
    assert dataset.num_classes == 10


def test_splits_are_disjoint_whole_and_seeded(digits: Source) -> None:
    one, same, other = (digits.split(300, 1497, seed) for seed in (0, 0, 1))
    rows = torch.cat([as_a(Tensor, one.train_inputs), as_a(Tensor, one.test_inputs)]).numpy().reshape(-1, 64)
    order = np.lexsort(rows.T), np.lexsort(digits.inputs.reshape(-1, 64).T)
    assert np.array_equal(rows[order[0]], digits.inputs.reshape(-1, 64)[order[1]])
    assert torch.equal(as_a(Tensor, one.train_inputs), as_a(Tensor, same.train_inputs))
    assert not torch.equal(as_a(Tensor, one.train_inputs), as_a(Tensor, other.train_inputs))


def test_subsets_of_a_fixed_split(digits: Source) -> None:
    source = Source("fixed", digits.inputs[:500], digits.labels[:500], digits.inputs[500:], digits.labels[500:], 10)
    whole = source.split(500, 1297, None)
    assert np.array_equal(as_a(Tensor, whole.train_inputs).numpy(), digits.inputs[:500])
    part = source.split(100, 50, 1)
    assert len(part.train_labels) == 100
    assert len(part.test_labels) == 50
    assert len(torch.unique(part.train_inputs, dim=0)) == len(
        np.unique(as_a(Tensor, part.train_inputs).numpy(), axis=0)
    )


def numbered(own_test: bool) -> Source:
    """Every input is its own number; test inputs from 1000."""
    inputs, test = np.arange(100, dtype=np.float32)[:, None], 1000 + np.arange(20, dtype=np.float32)[:, None]
    labels = np.arange(100) % 2
    return Source("numbered", inputs, labels, test if own_test else None, labels[:20] if own_test else None, 2)


@pytest.mark.parametrize(
    ("own_test", "sizes"), [(True, (50, 10)), (True, (70, 20)), (False, (50, 10)), (False, (60, 20))]
)
def test_validation_takes_the_place_of_the_test_set(own_test: bool, sizes: tuple[int, int]) -> None:
    """Training is the same with and without; validation is neither in it nor in the test set, and no test is there."""
    source = numbered(own_test)
    plain, tuning = source.split(*sizes, 3), source.split(*sizes, 3, validation_size=20)
    assert torch.equal(as_a(Tensor, plain.train_inputs), as_a(Tensor, tuning.train_inputs))
    assert torch.equal(as_a(Tensor, tuning.test_labels), (tuning.test_inputs[:, 0] % 2).long())
    train, test, held = (
        set(part[:, 0].tolist()) for part in (plain.train_inputs, plain.test_inputs, tuning.test_inputs)
    )
    assert (len(train), len(test), len(held)) == (*sizes, 20)
    assert not train & held
    assert not test & (train | held)
    assert max(held) < 100  # from the training part
    assert not torch.equal(
        as_a(Tensor, tuning.test_inputs), as_a(Tensor, source.split(*sizes, 4, validation_size=20).test_inputs)
    )


def test_sizes_beside_validation() -> None:
    assert numbered(True).sizes(None, None, 30) == (70, 20)
    assert numbered(False).sizes(None, None, 30) == (56, 14)
    assert numbered(False).sizes(40, None, 30) == (40, 30)
    for own_test, sizes, message in [
        (True, (None, None, 100), "`validation_size` must be between 0 and 99, got 100"),
        (True, (80, None, 30), "`train_size` must be between 1 and 70 beside 30 for validation, got 80"),
        (False, (50, 30, 30), "`test_size` must be between 1 and 20 beside 30 for validation, got 30"),
    ]:
        with pytest.raises(UserError, match=message):
            numbered(own_test).sizes(*sizes)
    with pytest.raises(UserError, match="`train_size` must be between 1 and 95 beside 5 for validation, got 100"):
        numbered(True).split(100, 20, 0, validation_size=5)


def test_shared_arrays_stay_as_they_are(digits: Source) -> None:
    """Ray shares arrays read only: a view of one must never be written to."""
    inputs = digits.inputs.copy()
    inputs.flags.writeable = False
    source = Source("fixed", inputs, digits.labels, digits.inputs[:5], digits.labels[:5], 10)
    dataset = source.split(len(inputs), 5, None)
    assert as_a(Tensor, dataset.train_inputs).data_ptr() == inputs.ctypes.data  # no copy
    batch = dataset.train_inputs[torch.arange(10)]
    batch.add_(1)
    assert np.array_equal(inputs, digits.inputs)


def test_the_fingerprint_follows_the_contents(digits: Source) -> None:
    changed = digits.inputs.copy()
    changed[0] += 0.5
    other = Source("digits", changed, digits.labels, None, None, 10)
    same = Source("elsewhere", digits.inputs.copy(), digits.labels, None, None, 10)
    assert other.fingerprint != digits.fingerprint == same.fingerprint


def write_mnist(root: Path) -> None:
    """MNIST's own file format, with a few random images."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, count in (("train", 30), ("t10k", 20)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = generator.integers(0, 10, count, dtype=np.uint8)
        header = np.array([0x803, count, 28, 28], dtype=">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            np.array([0x801, count], dtype=">i4").tobytes() + labels.tobytes()
        )


def test_mnist_layout(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    source = load_source("mnist", root=tmp_path)
    raw = torchvision.datasets.MNIST(str(tmp_path), train=True)
    assert source.inputs.shape == (30, 1, 28, 28)
    assert source.test_inputs is not None
    assert source.test_inputs.shape == (20, 1, 28, 28)
    np.testing.assert_allclose(values_of(source.inputs, source.scaling)[:, 0], raw.data.numpy() / 255, rtol=1e-6)


@pytest.mark.parametrize("name", ["mnist", "cifar100"])
def test_what_torchvision_has_read_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A second start does without it; a file that has changed is read anew."""
    if name == "mnist":
        write_mnist(tmp_path)
        file = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    else:
        publish_cifar100(tmp_path, monkeypatch)
        file = tmp_path / "cifar-100-python" / "test"
    first = load_source(name, root=tmp_path, cache_dir=tmp_path / "cache")
    assert first.fingerprint == dataclasses.replace(first).fingerprint  # that of the values
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "torchvision", None)
        again = load_source(name, root=tmp_path, cache_dir=tmp_path / "cache", download=True)
    assert again.fingerprint == first.fingerprint
    for one in ("inputs", "labels", "test_inputs", "test_labels"):
        np.testing.assert_array_equal(getattr(again, one), getattr(first, one))
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(UserError, match=f"^`dataset` {name} is not complete"):
        load_source(name, root=tmp_path, cache_dir=tmp_path / "cache")


def test_mnist_truncated(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="`dataset` mnist is not complete in torchvision's layout"):
        load_source("mnist", root=tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"\0\0\x08\x03", b"\0\0\x08\x03" + b"\xff" * 12, b"\xff" * 5000, b"\0\0\x0b\x03" + b"\0" * 5000],
)
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_mnist_damaged(tmp_path: Path, file: str, content: bytes) -> None:
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / file).write_bytes(content)
    with pytest.raises(UserError, match="`dataset` mnist is not complete") as error:
        load_source("mnist", root=tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_named_pipes_in_a_layout_of_torchvision(tmp_path: Path, name: str) -> None:
    file = (
        tmp_path / {"mnist": "MNIST/raw/train-images-idx3-ubyte", "cifar10": "cifar-10-batches-py/data_batch_1"}[name]
    )
    file.parent.mkdir(parents=True)
    os.mkfifo(file)
    with pytest.raises(UserError, match="which is a named pipe"):
        load_source(name, root=tmp_path)


def write_cifar100(root: Path) -> np.ndarray:
    """CIFAR-100's own layout, with a few random images; torchvision compares checksums, so the test replaces those."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3 * 32 * 32), dtype=np.uint8)
    for part in ("train", "test"):
        entry = {"data": pixels, "fine_labels": [99, 0, 1, 2, 3, 4], "coarse_labels": [0] * 6}
        (folder / part).write_bytes(pickle.dumps(entry))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(label) for label in range(100)]}))
    return pixels


def publish_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Writes it, and has torchvision expect its checksums."""
    pixels = write_cifar100(tmp_path)
    files = {name: (tmp_path / "cifar-100-python" / name).read_bytes() for name in ("train", "test", "meta")}
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    layout = torchvision.datasets.CIFAR100
    monkeypatch.setattr(layout, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(layout, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(layout, "meta", {**layout.meta, "md5": sums["meta"]})
    return pixels


def test_cifar100_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar100(tmp_path / "other")
    with pytest.raises(UserError, match="`dataset` cifar100 is not complete in torchvision's layout"):
        load_source("cifar100", root=tmp_path / "other")  # the checksums are not those published
    pixels = publish_cifar100(tmp_path, monkeypatch)
    source = load_source("cifar100", root=tmp_path)
    assert (source.num_classes, source.labels.tolist()) == (100, [99, 0, 1, 2, 3, 4])
    np.testing.assert_allclose(values_of(source.inputs, source.scaling), pixels.reshape(6, 3, 32, 32) / 255, rtol=1e-6)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_missing_files_are_not_downloaded_unasked(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="--download fetches it"):
        load_source(name, root=tmp_path)


def encoded(pixels: np.ndarray, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(folder: Path, *, column: str = "image", size: int = 8, count: int = 12) -> np.ndarray:
    pixels = np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    images = [{"bytes": encoded(image), "path": None} for image in pixels]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({column: pa.array(images, kind), "label": pa.array([row % 3 for row in range(count)])})
    folder.mkdir(exist_ok=True)
    for part in ("train-00000-of-00001", "test-00000-of-00001"):
        pq.write_table(table, folder / f"{part}.parquet")
    return pixels


@pytest.mark.parametrize("column", ["image", "img"])
def test_parquet(tmp_path: Path, column: str) -> None:
    pixels = write_parquet(tmp_path, column=column)
    source = load_source("parquet", root=tmp_path)
    np.testing.assert_allclose(values_of(source.inputs, source.scaling), pixels.transpose(0, 3, 1, 2) / 255, rtol=1e-6)
    assert source.labels.tolist() == [row % 3 for row in range(12)]
    assert source.num_classes == 3


def test_parquet_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`data-dir` must be a folder with"):
        load_source("parquet", root=tmp_path)
    write_parquet(tmp_path)
    train = tmp_path / "train-00000-of-00001.parquet"
    whole = train.read_bytes()
    train.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="must hold whole Parquet files"):
        load_source("parquet", root=tmp_path)
    pq.write_table(pa.table({"pixels": [1], "label": [0]}), train)
    with pytest.raises(UserError, match="columns image and label, got pixels, label"):
        load_source("parquet", root=tmp_path)
    pq.write_table(pa.table({"image": ["x"], "label": [0]}), train)
    with pytest.raises(UserError, match="image is struct<bytes> or binary, got string"):
        load_source("parquet", root=tmp_path)
    pq.write_table(pa.table({"image": [{"bytes": b"no image"}], "label": [0]}), train)
    with pytest.raises(UserError, match=r"readable images, got .* row 0"):
        load_source("parquet", root=tmp_path)
    pq.write_table(pa.table({"image": [{"bytes": encoded(np.zeros((9, 9, 3), np.uint8))}], "label": [0]}), train)
    with pytest.raises(UserError, match=r"one size, got 9 x 9 .* and 8 x 8 .*; --dataset-options size=8 scales"):
        load_source("parquet", root=tmp_path)


def test_image_folder(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(3):
                pixels = generator.integers(0, 256, (6, 5), dtype=np.uint8)
                (tmp_path / part / name / f"{index}.png").write_bytes(encoded(pixels, "L"))
    source = load_source("image_folder", root=tmp_path)
    assert source.inputs.shape == (6, 1, 6, 5)
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    (tmp_path / "test" / "bee").rename(tmp_path / "test" / "cow")
    with pytest.raises(UserError, match="same classes in train and test, got bee, cow"):
        load_source("image_folder", root=tmp_path)
    with pytest.raises(UserError, match="must hold train/CLASS/IMAGE files"):
        load_source("image_folder", root=tmp_path / "nowhere")
    (tmp_path / "test").rename(tmp_path / "val")
    with pytest.raises(UserError, match=r"test/CLASS/IMAGE files, got .*/test \(No such .*; rename val to test"):
        load_source("image_folder", root=tmp_path)


OWN = """
import numpy as np
def build():
    x = np.linspace(0, 1, 40).reshape(10, 4)
    return x, np.arange(10) % 2, x[:4], np.arange(4) % 2
def pool():
    return np.zeros((10, 4)), np.arange(10) % 2, None, None
def broken(): raise RuntimeError("no disk")
class Odd(BaseException): pass
def odd(): raise Odd("no Exception")
def short(): return 1, 2
def floats(): return np.zeros((3, 2)), np.zeros(3), None, None
def sized(*, size=3): return np.zeros((size, 2)), np.arange(size) % 2, None, None
def counts(): return np.ones((3, 2), int), np.arange(3), None, None
def tokens(): return np.array([[0, 1], [2, 5]]), np.array([[1, 2], [5, 0]]), None, None
def nan(): return np.full((3, 2), np.nan), np.arange(3), None, None
def two_each(): return np.zeros((4, 2)), np.array([[0, 1, 1]] * 4), None, None
def masked(): return np.array([[0, 1], [2, 2]]), np.array([[1, -7], [2, 0]]), None, None
def one_class(): return np.zeros((4, 2)), np.zeros(4, int), None, None
def float_test(): return np.zeros((4, 2)), np.arange(4), np.zeros((4, 2)), np.arange(4.0)[:, None]
value = 3
"""


def test_own_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    source = load_source("own_data:build")
    assert (source.inputs.dtype, source.num_classes, source.input_shape) == (np.dtype(np.float32), 2, (4,))
    assert load_dataset("own_data:pool", train_size=6).test_inputs.shape == (4, 4)
    assert len(load_source("own_data:sized", options={"size": 7}).inputs) == 7
    assert load_source("own_data:counts").inputs.dtype == np.float32
    tokens = load_source("own_data:tokens")
    assert (tokens.of_tokens, tokens.inputs.dtype, tokens.num_classes) == (True, np.dtype(np.int64), 6)
    with pytest.raises(UserError, match="`dataset-options` must be among size for own_data:sized, got 'width'"):
        load_source("own_data:sized", options={"width": 7})
    with pytest.raises(UserError, match=r"`dataset-options` must be among \(none\) for digits, got 'size'"):
        load_source("digits", options={"size": 7})
    for name, message in {
        "own_data:broken": "RuntimeError: no disk",
        "own_data:odd": "Odd: no Exception",
        "own_data:short": "must return",
        "own_data:floats": "integer labels",
        "own_data:float_test": r"integer labels, class numbers from 0, .* got float64 of shape \(4, 1\)",
        "own_data:two_each": r"one label for each training input, got .* labels of shape \(4, 3\)",
        "own_data:masked": "labels from 0 to 2, got -7 to 2 in the training set; leave out what has no label",
        "own_data:one_class": "labels of 2 classes or more, got all of class 0",
        "own_data:nan": "finite inputs",
        "own_data:absent": "`dataset` must be an importable",
        "own_data:value": "`dataset` must name a function",
        "no_such_module:build": "ModuleNotFoundError",
        "imagenet": "`dataset` must be one of digits, mnist",
    }.items():
        with pytest.raises(UserError, match=message):
            load_source(name)
