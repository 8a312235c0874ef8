"""Folders that the library `datasets` has saved (`save_to_disk`), read as they are, without that library.

`root` holds `dataset_dict.json` and a folder for each split with `state.json` and the Arrow files that it names. There
are two kinds:

- images, with the columns and options of Parquet files (trainables.data.parquet), decoded into the cache;
- tokens, a column of lists of ids (`input_ids`, or the option `tokens`), which are joined in their order into one file
  of the cache for each split, and cut into windows of `context` (trainables.data.token_files).

The files are mapped. The test part is the split `test`, or `validation` where there is none, or the option `split`.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainables.data.cache import Entry, told
from trainables.data.dataset import Source
from trainables.data.decoded import EncodedImages, image_source
from trainables.data.files import readable
from trainables.data.hub_layout import WORDS, Part
from trainables.data.parquet import TableFile, read_parts
from trainables.data.windows import require_context, windows
from trainables.runtime.errors import UserError, quoted

EXPECTED = "a folder that `datasets` has saved, with dataset_dict.json"
TOKENS = "input_ids"


def read_arrow(
    root: Path,
    download: bool,
    *,
    image: object = None,
    label: object = None,
    split: object = None,
    size: object = None,
    mean: object = None,
    std: object = None,
    tokens: object = None,
    context: object = 1024,
    vocabulary: object = None,
) -> Source:
    """Images, or windows of tokens. Raises UserError where files or columns are missing or cannot be read."""
    splits = _json(root / "dataset_dict.json", "splits")
    names = [str(name) for name in splits] if isinstance(splits, list) else []
    to_test = [name for name in names if name != "train"]
    chosen = str(split) if split is not None else next((name for name in WORDS if name in to_test), None)
    if "train" not in names or chosen not in to_test:
        raise UserError(
            f"`data-dir` must hold a split train and one to test on, got {', '.join(names) or 'none'} in {root}"
            + ("" if split is None else f" and split={split}")
        )
    parts = [Part(name, ".", _files(root / name)) for name in ("train", chosen)]
    files = [file for part in parts for file in part.files]
    columns = _schema(files[0]).names
    if tokens is not None or (TOKENS in columns and image is None):
        column = TOKENS if tokens is None else str(tokens)
        return _tokens(root, parts, column, context, vocabulary)

    def read() -> tuple[list[EncodedImages], list[NDArray[np.int64]], int]:
        return read_parts(root, (parts[0], parts[1]), to_test, image, label, ArrowFile)

    options = {"image": image, "label": label, "split": chosen}
    return image_source("arrow", root, files, read, options, size=size, mean=mean, std=std)


class ArrowFile(TableFile):
    """One Arrow file in the stream format, mapped."""

    kind = "Arrow"

    def _open(self) -> tuple[pa.Schema, list[int]]:
        self._table = pa.ipc.open_stream(pa.memory_map(str(self._path))).read_all()
        self._table.validate(full=True)  # of a damaged file, reading the values may end the process
        return self._table.schema, [len(batch) for batch in self._table.to_batches()]

    def _read(self, column: str) -> pa.ChunkedArray:
        return self._table.column(column)

    def _batches(self, index: int, column: str) -> Iterator[pa.Array]:
        yield self._table.to_batches()[index].column(column)


def _files(folder: Path) -> tuple[Path, ...]:
    listed = _json(folder / "state.json", "_data_files")
    names = [entry.get("filename") for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    files = tuple(folder / str(name) for name in names if Path(str(name)).name == name)
    if not files or len(files) != len(names):
        raise UserError(f"`data-dir` must be {EXPECTED}, got no list of files in {folder / 'state.json'}")
    for file in files:
        readable(file, "every shard that state.json names")
    return files


def _json(file: Path, key: str) -> Any:
    readable(file, EXPECTED)
    try:
        return json.loads(file.read_bytes())[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"`data-dir` must be {EXPECTED}, got {file} ({quoted(error)})") from error


def _schema(file: Path) -> pa.Schema:
    try:
        schema = pa.ipc.open_stream(pa.memory_map(str(file))).schema
        list(schema.names)  # bytes that are no UTF-8 raise here
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"`data-dir` must hold whole Arrow files, got {file}, which cannot be read ({quoted(error)})"
        ) from error
    return schema


def _tokens(root: Path, parts: list[Part], column: str, context: object, vocabulary: object) -> Source:
    length = require_context(context)
    if vocabulary is not None and (type(vocabulary) is not int or vocabulary < 2):
        raise UserError(f"`vocabulary` must be an integer of 2 or more, got {vocabulary!r}")
    entry = Entry.of("arrow", root, [file for part in parts for file in part.files], {"tokens": column})
    paths = [entry.path / f"{name}.tokens" for name in ("train", "test")]
    facts = entry.facts() or {}
    sizes = [path.stat().st_size if path.exists() else 0 for path in paths]
    if facts.get("sizes") != sizes:
        with entry.locked(), told(entry.path):
            found = [_flatten(part.files, column, path) for part, path in zip(parts, paths, strict=True)]
            facts = {name: [one[name] for one in found] for name in found[0]}
            entry.keep(facts)
    largest = max(facts["largest"])
    if vocabulary is not None and largest >= vocabulary:
        raise UserError(f"`vocabulary` must be larger than the token ids, got {vocabulary} and {largest} in {root}")
    (train, train_labels), (test, test_labels) = (
        windows(np.memmap(path, np.uint32, "r"), length, name)
        for path, name in zip(paths, ("training", "test"), strict=True)
    )
    classes = vocabulary or 1 + largest
    source = Source("arrow", train, train_labels, test, test_labels, classes, task="language", is_checked=True)
    named = f"{facts['digests']} {context} {classes}"
    vars(source)["fingerprint"] = hashlib.sha256(named.encode()).hexdigest()[:16]
    return source


def _flatten(files: tuple[Path, ...], column: str, path: Path) -> dict[str, Any]:
    """Writes the ids of all rows to `path`; their digest, the size in bytes and the largest id."""
    digest, size, largest = hashlib.sha256(), 0, 0
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as written:
        for file in files:
            for ids in _ids(file, column):
                content = ids.astype(np.uint32).tobytes()
                digest.update(content)
                written.write(content)
                size, largest = size + len(content), max(largest, int(ids.max(initial=0)))
    if not size:
        raise UserError(f"`data-dir` must hold tokens, got none in {files[0]}")
    temporary.replace(path)
    return {"digests": digest.hexdigest(), "sizes": size, "largest": largest}


def _ids(file: Path, column: str) -> Iterator[NDArray[Any]]:
    """The ids of each batch of rows."""
    schema = _schema(file)
    if column not in schema.names:
        raise UserError(f"`tokens` must be a column, one of {', '.join(schema.names)}, got {column!r} in {file}")
    kind = schema.field(column).type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_integer(kind.value_type):
        raise UserError(f"`data-dir` must hold Arrow whose {column} is lists of integers, got {kind} in {file}")
    try:
        for batch in pa.ipc.open_stream(pa.memory_map(str(file))):
            batch.column(column).validate(full=True)  # of a damaged file, reading the values may end the process
            values = batch.column(column).flatten()
            if values.null_count:
                raise UserError(f"`data-dir` must hold Arrow without missing tokens, got {values.null_count} in {file}")
            ids = values.to_numpy(zero_copy_only=False)
            if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < 2**32:
                raise UserError(f"`data-dir` must hold token ids from 0 to 2**32 - 1, got {ids.min()} in {file}")
            yield ids
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"`data-dir` must hold whole Arrow files, got {file}, which cannot be read ({quoted(error)})"
        ) from error
