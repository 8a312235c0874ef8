"""Encoded images are decoded once, only those that are asked for, and what is kept of them is never wrong silently."""

import io
import os
import pickle
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainables.data import Source, cache, images, load_dataset, load_source
from trainables.data.rows import tensor_of, values_of
from trainables.runtime.errors import UserError

GENERATOR = np.random.default_rng(8)
PIXELS = {
    part: GENERATOR.integers(0, 256, (count, 20, 15, 3), dtype=np.uint8) for part, count in (("train", 30), ("test", 9))
}


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def write_folder(root: Path) -> None:
    for part, pixels in PIXELS.items():
        for index, image in enumerate(pixels):
            folder = root / part / f"class{3 * index // len(pixels)}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index:02}.png").write_bytes(png(image))


def write_parquet(root: Path) -> None:
    root.mkdir()
    for part, pixels in PIXELS.items():
        shards = np.array_split(np.arange(len(pixels)), 2)
        for number, rows in enumerate(shards):
            encoded = [{"bytes": png(pixels[row])} for row in rows]
            table = pa.table({"image": encoded, "label": [3 * int(row) // len(pixels) for row in rows]})
            pq.write_table(table, root / f"{part}-{number:05}-of-00002.parquet", row_group_size=4)


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are decoded."""
    found: list[str] = []
    decode = images._decode

    def counted(name: str, encoded: Any) -> Any:
        found.append(name)
        return decode(name, encoded)

    monkeypatch.setattr(images, "_decode", counted)
    return found


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are opened."""
    found: list[str] = []
    for module, name in ((os, "open"), (io, "open")):
        original = getattr(module, name)

        def counted(file: Any, *arguments: Any, _original: Callable[..., Any] = original, **more: Any) -> Any:
            found.append(str(file))
            return _original(file, *arguments, **more)

        monkeypatch.setattr(module, name, counted)
    return found


@pytest.fixture(params=["image_folder", "parquet"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    root = tmp_path / "data"
    {"image_folder": write_folder, "parquet": write_parquet}[request.param](root)
    return request.param, root


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def expected(part: str) -> Any:
    return np.divide(PIXELS[part].transpose(0, 3, 1, 2), 255, dtype=np.float32)


def check(source: Source) -> None:
    np.testing.assert_array_equal(values_of(source.inputs, source.scaling), expected("train"))
    assert source.test_inputs is not None
    np.testing.assert_array_equal(values_of(source.test_inputs, source.scaling), expected("test"))
    np.testing.assert_array_equal(source.labels, np.arange(30) // 10)
    assert source.inputs.dtype == np.uint8
    assert isinstance(source.inputs, np.memmap)


def test_a_second_start_decodes_and_opens_nothing(
    dataset: tuple[str, Path], own: Path, decodes: list[str], opens: list[str]
) -> None:
    name, root = dataset
    first = load_source(name, root=root, cache_dir=own)
    check(first)
    assert len(decodes) == len(set(decodes)) == 39
    fingerprint = first.fingerprint
    opens.clear()
    again = load_source(name, root=root, cache_dir=own)
    check(again)
    assert again.fingerprint == fingerprint
    assert len(decodes) == 39
    assert not [file for file in opens if file.startswith(str(root))]
    assert (
        Source("x", expected("train"), first.labels, expected("test"), first.test_labels, 3).fingerprint == fingerprint
    )


def test_a_split_decodes_its_own_images_alone(dataset: tuple[str, Path], own: Path, decodes: list[str]) -> None:
    name, root = dataset
    whole = load_source(name, root=root, cache_dir=own.with_name("other"))
    decodes.clear()
    source = load_source(name, root=root, cache_dir=own, is_whole_needed=False)
    assert not decodes
    part, right = source.split(7, 4, 3), whole.split(7, 4, 3)
    assert len(decodes) == 11
    for one, other in ((part.train_inputs, right.train_inputs), (part.test_inputs, right.test_inputs)):
        np.testing.assert_array_equal(tensor_of(one), tensor_of(other))
    source.split(7, 4, 3)
    assert len(decodes) == 11
    tuned, right = source.split(7, 4, 3, validation_size=5), whole.split(7, 4, 3, validation_size=5)
    np.testing.assert_array_equal(tensor_of(tuned.test_inputs), tensor_of(right.test_inputs))
    assert len(decodes) == 16
    load_dataset(name, root=root, cache_dir=own, train_size=7, test_size=4, split_seed=3)
    assert len(decodes) == 16
    assert source.fingerprint_of(7, 4) == whole.fingerprint_of(7, 4) != whole.fingerprint
    assert len(decodes) == 16
    assert source.fingerprint_of(30, 9) == whole.fingerprint
    assert source.has_fingerprint(whole.fingerprint)
    check(source)


def test_other_processes_map_the_same_files(dataset: tuple[str, Path], own: Path, decodes: list[str]) -> None:
    """A pickled source is small, and decodes what it lacks; without the cache it is read again."""
    name, root = dataset
    source = load_source(name, root=root, cache_dir=own, is_whole_needed=False)
    pickled = pickle.dumps(source)
    assert len(pickled) < source.inputs.nbytes / 4
    other = pickle.loads(pickled)
    first = tensor_of(other.split(7, 4, 3).train_inputs)
    assert len(decodes) == 11
    np.testing.assert_array_equal(first, tensor_of(source.split(7, 4, 3).train_inputs))
    assert len(decodes) == 11
    for file in own.rglob("*"):
        if file.is_file():
            file.unlink()
    np.testing.assert_array_equal(first, tensor_of(pickle.loads(pickled).split(7, 4, 3).train_inputs))


def test_changed_files_are_read_anew(own: Path, tmp_path: Path) -> None:
    """Also where size and time of the file are as they were."""
    root = tmp_path / "data"
    write_folder(root)
    before = load_source("image_folder", root=root, cache_dir=own)
    pickled = pickle.dumps(before)
    file = root / "train" / "class0" / "03.png"
    stat, other = file.stat(), 255 - PIXELS["train"][3]
    content = png(other)
    file.write_bytes(content + bytes(max(0, stat.st_size - len(content))))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = load_source("image_folder", root=root, cache_dir=own)
    assert after.fingerprint != before.fingerprint
    np.testing.assert_array_equal(after.inputs[3], other.transpose(2, 0, 1))
    assert len([entry for entry in own.iterdir() if entry.is_dir()]) == 1  # the stale one is gone
    with pytest.raises(UserError, match="must hold the data that the sweep began with"):
        pickle.loads(pickled)


def broken(entry: Path) -> Iterator[Callable[[], Any]]:
    """Ways to break an entry."""

    def flip() -> None:
        with (entry / "train.images").open("r+b") as file:
            file.seek(700)
            file.write(b"\1\2\3")

    yield flip
    yield lambda: os.truncate(entry / "train.images", 100)
    yield lambda: os.truncate(entry / "test.sums", 7)
    yield lambda: (entry / "test.images").unlink()
    yield lambda: (entry / "facts.json").write_text("{")
    yield lambda: (entry / "train_labels.npy").write_bytes(b"no array")


@pytest.mark.parametrize("way", range(6))
def test_a_broken_entry_is_rebuilt(dataset: tuple[str, Path], own: Path, way: int) -> None:
    name, root = dataset
    load_source(name, root=root, cache_dir=own)
    (entry,) = own.iterdir()
    list(broken(entry))[way]()
    check(load_source(name, root=root, cache_dir=own))


def test_two_at_once_decode_once(own: Path, tmp_path: Path, decodes: list[str]) -> None:
    root = tmp_path / "data"
    write_folder(root)
    found: list[Source] = []
    threads = [
        threading.Thread(target=lambda: found.append(load_source("image_folder", root=root, cache_dir=own)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(decodes) == 39
    for source in found:
        check(source)


def test_an_entry_that_another_process_made_in_the_meantime_is_kept(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cache.cache_in(own):
        entry = cache.Entry.of("image_folder", tmp_path, [], {})
    facts = entry.path / "facts.json"
    glob = Path.glob

    def after_another(path: Path, pattern: str) -> list[Path]:
        """`path.glob(pattern)`, before which the other process makes the entry."""
        entry.path.mkdir()
        facts.write_text("{}")
        return list(glob(path, pattern))

    monkeypatch.setattr(Path, "glob", after_another)
    with entry.locked():
        assert facts.is_file()


def test_relative_and_absolute_paths_share_an_entry(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    with cache.cache_in(own):
        entries = [cache.Entry.of("arrays", root, [root / "file"], {}).path for root in (tmp_path, Path())]
    assert entries[0] == entries[1]


def test_an_interrupted_decoding_goes_on(own: Path, tmp_path: Path, decodes: list[str]) -> None:
    root = tmp_path / "data"
    write_folder(root)
    bad = root / "train" / "class2" / "29.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:-30])
    with pytest.raises(UserError, match=r"29\.png"):
        load_source("image_folder", root=root, cache_dir=own)
    bad.write_bytes(good)
    check(load_source("image_folder", root=root, cache_dir=own))


def test_the_cache_is_private(own: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_folder(root)
    load_source("image_folder", root=root, cache_dir=own)
    for folder in (own, *(path for path in own.iterdir() if path.is_dir())):
        assert folder.stat().st_mode & 0o077 == 0


def test_a_full_disk_is_told_in_one_line(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    write_folder(root)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(UserError, match=r"`cache-dir` .* is full .* --cache-dir names") as told:
        load_source("image_folder", root=root, cache_dir=own)
    assert "\n" not in str(told.value)
    monkeypatch.undo()

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match=r"is full \(No space left on device\)"):
        load_source("image_folder", root=root, cache_dir=own)
    monkeypatch.undo()
    check(load_source("image_folder", root=root, cache_dir=own))


def test_a_cache_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    write_folder(root)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"`cache-dir` .*not writable"):
        load_source("image_folder", root=root, cache_dir=tmp_path / "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    check(load_source("image_folder", root=root))  # the default gives way to the folder for temporary files


def test_normalization_shares_what_is_decoded(own: Path, tmp_path: Path, decodes: list[str]) -> None:
    root = tmp_path / "data"
    write_folder(root)
    plain = load_source("image_folder", root=root, cache_dir=own)
    other = load_source("image_folder", root=root, cache_dir=own, options={"mean": [0.1, 0.2, 0.3], "std": 0.5})
    assert len(decodes) == 39
    right = (expected("train") - np.array([0.1, 0.2, 0.3], np.float32)[:, None, None]) / np.float32(0.5)
    np.testing.assert_array_equal(values_of(other.inputs, other.scaling), right)
    assert other.fingerprint != plain.fingerprint
    assert other.file_fingerprint != plain.file_fingerprint
