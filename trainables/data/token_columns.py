"""A language model's data from a column of lists of token ids, in Parquet or Arrow files.

The lists of a part are joined in their order into one file of the cache, uint32, which is mapped and cut into windows
(trainables.data.windows). The files of the dataset are read once, a few rows at a time.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainables.data.cache import Entry, replacing
from trainables.data.source import Source
from trainables.data.tables import TableFile
from trainables.data.windows import token_source, window_options
from trainables.runtime.errors import UserError

USUAL = "input_ids"


def token_column(names: list[str], tokens: object, of_images: Mapping[str, object]) -> str | None:
    """The column of tokens: the one that the option `tokens` names, or `input_ids`; None for a table of images.

    `of_images` are the options that images have. Raises UserError where one of them is given with `tokens`.
    """
    given = [name for name, value in of_images.items() if value is not None]
    if tokens is None:
        return USUAL if USUAL in names and not given else None
    if given:
        raise UserError(f"`{given[0]}` cannot be used with `tokens`: it is an option of images")
    return str(tokens)


def column_source(
    name: str,
    root: Path,
    parts: Sequence[Sequence[Path]],
    column: str,
    open_file: type[TableFile],
    *,
    context: object,
    vocabulary: object,
) -> Source:
    """The source of the tokens in `column`; `parts` are the files for training and test, or those of both in one."""
    length, classes = window_options(context, vocabulary)
    entry = Entry.of(name, root, [file for part in parts for file in part], {"tokens": column})
    names = [f"{part}.tokens" for part in ("train", "test")[: len(parts)]]

    def flatten(paths: list[Path]) -> dict[str, Any]:
        found = [_flatten(map(open_file, part), column, path) for part, path in zip(parts, paths, strict=True)]
        return {fact: [one[fact] for one in found] for fact in found[0]}

    facts = entry.made(names, flatten)
    arrays = [np.memmap(entry.path / name, np.uint32, "r") for name in names]
    return token_source(name, arrays, length, classes, facts["digests"], {root: max(facts["largest"])})


def _flatten(files: Iterator[TableFile], column: str, path: Path) -> dict[str, Any]:
    """Writes the ids of all rows to `path`; their digest and the largest id."""
    digest, size, largest = hashlib.sha256(), 0, 0
    with replacing(path) as written:
        for file in files:
            for ids in _ids(file, column):
                content = ids.astype(np.uint32).tobytes()
                digest.update(content)
                written.write(content)
                size, largest = size + len(content), max(largest, int(ids.max(initial=0)))
        if not size:
            raise UserError(f"`data-dir` must hold tokens, got none in {file.path}")
    return {"digests": digest.hexdigest(), "largest": largest}


def _ids(file: TableFile, column: str) -> Iterator[NDArray[Any]]:
    """The ids of a few rows after another."""
    if column not in file.names:
        raise UserError(f"`tokens` must be a column, one of {', '.join(file.names)}, got {column!r} in {file.path}")
    with file.reading():
        kind = file.schema.field(column).type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not is_list or not pa.types.is_integer(kind.value_type):
            raise UserError(
                f"`data-dir` must hold {file.kind} whose {column} is lists of integers, got {kind} in {file.path}"
            )
        for group in range(len(file.groups)):
            for piece in file.batches(group, column):
                values = piece.flatten()
                if missing := values.null_count:
                    raise UserError(
                        f"`data-dir` must hold {file.kind} without missing tokens, got {missing} in {file.path}"
                    )
                ids = values.to_numpy(zero_copy_only=False)
                if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < 2**32:
                    wrong = ids.min() if ids.min() < 0 else ids.max()
                    raise UserError(f"`data-dir` must hold token ids from 0 to 2**32 - 1, got {wrong} in {file.path}")
                yield ids
