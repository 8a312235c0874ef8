"""Damaged files, and options of a wrong type: one line that names the file or the option, for each."""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from trainables.data import load_source
from trainables.runtime.errors import UserError


def refused(name: str, root: Path, options: dict[str, Any] | None = None) -> str:
    with pytest.raises(UserError) as raised:
        load_source(name, root=root, options=options or {}, cache_dir=root.parent / "cache")
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def saved(folder: Path, content: bytearray) -> Path:
    """As the library `datasets` saves it, the same for both splits."""
    folder.mkdir()
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    for split in ("train", "test"):
        (folder / split).mkdir()
        (folder / split / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
        (folder / split / "data.arrow").write_bytes(content)
    return folder


def streamed(table: pa.Table) -> bytearray:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return bytearray(buffer.getvalue())


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(buffer, "png")
    return buffer.getvalue()


TOKENS = pa.table({"input_ids": [[1, 2, 3, 4] * 20] * 10})
IMAGES = pa.table({"image": [{"bytes": png(), "path": None}] * 4, "label": [0, 1, 0, 1]})


@pytest.mark.parametrize("offsets", [[0, 2**30], [-80, 80], [80 * row for row in range(10)] + [2**31 - 1]])
def test_arrow_lists_that_begin_elsewhere(tmp_path: Path, offsets: list[int]) -> None:
    content = streamed(TOKENS)
    begin = content.find(struct.pack("<3i", 0, 80, 160))
    content[begin : begin + 4 * len(offsets)] = struct.pack(f"<{len(offsets)}i", *offsets)
    assert "must hold whole Arrow files" in refused("arrow", saved(tmp_path / "data", content), {"context": 4})


@pytest.mark.parametrize("last", [2**20, 2**31 - 1, 5])
def test_arrow_images_that_end_elsewhere(tmp_path: Path, last: int) -> None:
    content, size = streamed(IMAGES), len(png())
    offsets = struct.pack("<5i", *(size * row for row in range(5)))
    begin = content.find(offsets)
    content[begin + 16 : begin + 20] = struct.pack("<i", last)
    assert "must hold whole Arrow files" in refused("arrow", saved(tmp_path / "data", content))


def test_an_arrow_schema_that_is_no_text(tmp_path: Path) -> None:
    content = streamed(TOKENS)
    begin = content.find(b"input_ids")
    content[begin : begin + 9] = b"\xff" * 9
    assert "must hold whole Arrow files" in refused("arrow", saved(tmp_path / "data", content))


def damaged_array(file: Path, array: np.ndarray[Any, Any]) -> None:
    np.save(file, array)
    content = bytearray(file.read_bytes())
    content[10:60] = b"(" * 50
    file.write_bytes(content)


def test_numpy_headers(tmp_path: Path) -> None:
    for part in ("train", "val"):
        damaged_array(tmp_path / f"{part}.npy", np.arange(100))
    assert "must hold whole token files" in refused("tokens", tmp_path, {"context": 4})
    for name in ("inputs", "labels"):
        damaged_array(tmp_path / f"train_{name}.npy", np.zeros((10, 2)))
    assert "must hold whole .npy files" in refused("arrays", tmp_path)


def test_a_member_that_is_no_array(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        with zipfile.ZipFile(tmp_path / part / "a.npz", "w") as archive:
            archive.writestr("features.npy", b"no array")
            archive.writestr("labels.npy", b"no array")
    assert "that are not arrays" in refused("timit", tmp_path)


@pytest.mark.parametrize("line", ["[" * 100_000, "1" * 5000, '{"source": ' * 5000])
def test_json_lines(tmp_path: Path, line: str) -> None:
    (tmp_path / "pairs.jsonl").write_text(f'{{"source": "a", "target": "b"}}\n{line}\n')
    assert "got" in (message := refused("pairs", tmp_path / "pairs.jsonl"))
    assert "line 2" in message


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pairs", {"level": "bpe", "tokenizer": 3}),
        ("pairs", {"level": "bpe", "tokenizer": "a\0b"}),
        ("pairs", {"source": 3}),
        ("pairs", {"longest": 0.5}),
        ("text", {"level": "bpe", "tokenizer": ["a"]}),
        ("text", {"level": 3}),
        ("text", {"context": 10**400}),
        ("arrays", {"divisor": 10**400}),
        ("arrays", {"mean": 10**400}),
    ],
)
def test_options(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    pytest.importorskip("tokenizers")
    np.save(tmp_path / "train_inputs.npy", np.zeros((10, 2), np.float32))
    np.save(tmp_path / "train_labels.npy", np.arange(10) % 2)
    (tmp_path / "text.jsonl").write_text('{"source": "a", "target": "b"}\n')
    (option,) = set(options) - {"level"} or options
    assert f"`{option}`" in refused(name, tmp_path if name == "arrays" else tmp_path / "text.jsonl", options)


def test_numbers_that_are_no_classes(tmp_path: Path) -> None:
    np.save(tmp_path / "train_inputs.npy", np.zeros((10, 2), np.float32))
    np.save(tmp_path / "train_labels.npy", np.arange(10) * 10**11)
    assert "labels below 2147483648, got 900000000000" in refused("arrays", tmp_path)
    for part in ("train", "val"):
        np.save(tmp_path / f"{part}.npy", np.full(100, 2**63 - 1))
        (tmp_path / "train_labels.npy").unlink(missing_ok=True)
        (tmp_path / "train_inputs.npy").unlink(missing_ok=True)
    assert "token ids below 2147483648, got 9223372036854775807" in refused("tokens", tmp_path, {"context": 4})
