"""Images, or lists of tokens, from Parquet files, as they lie on the Hugging Face Hub or are written for oneself.

Which files are which split is decided by their names (trainables/data/hub_layout.py). Files with a column `input_ids`,
or with the option `tokens=COLUMN`, are data for a language model (trainables/data/token_columns.py); `context` and
`vocabulary` are the options of token files.

For image classification each file has a column of encoded images, struct<bytes, ...> or binary, and one of labels:
integers from 0, or names, which are numbered by their order in the alphabet. What a file does not say is chosen by
option, and the error names the choices:

    --dataset-options image=img label=fine_label split=validation config=plain_text

`image` is by default the column `image` or `img`, or the only one that holds images; `label` is `label` or `labels`, or
the only one that is named so or is a ClassLabel in the schema's metadata. Where that lists the names of the classes,
it says how many there are. What the images become, and the options `size`, `mean` and `std`, are described in
trainables/data/images.py.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainables.data.decoded import EncodedImages, image_source
from trainables.data.hub_layout import Part, choose_parts
from trainables.data.source import Source
from trainables.data.tables import TableFile
from trainables.data.token_columns import column_source, token_column
from trainables.runtime.errors import UserError, quoted

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels")
UNLABELLED = -1  # the label of a split whose labels are kept secret
LARGEST_LABEL = 2**31  # a class number beyond it is something else


def read_parquet(
    root: Path,
    download: bool,
    *,
    image: object = None,
    label: object = None,
    split: object = None,
    config: object = None,
    size: object = None,
    mean: object = None,
    std: object = None,
    tokens: object = None,
    context: object = 1024,
    vocabulary: object = None,
) -> Source:
    """Inputs (N, C, H, W), decoded into the cache, and labels (N,); or windows of tokens.

    Raises UserError, naming the file and the choices, where the files do not say what is meant or cannot be read.
    """
    train, test, splits = choose_parts(root, split, config)
    of_images = {"image": image, "label": label, "size": size, "mean": mean, "std": std}
    column = token_column(TableFile(train.files[0]).names, tokens, of_images)
    if column is not None:
        parts = [train.files, test.files]
        return column_source("parquet", root, parts, column, TableFile, context=context, vocabulary=vocabulary)
    options = {"image": image, "label": label, "split": split, "config": config}

    def read() -> tuple[list[EncodedImages], list[NDArray[np.int64]], int]:
        return read_parts(root, (train, test), splits, image, label)

    files = [file for part in (train, test) for file in part.files]
    return image_source("parquet", root, files, read, options, size=size, mean=mean, std=std)


def read_parts(
    root: Path,
    chosen: tuple[Part, Part],
    splits: list[str],
    image: object,
    label: object,
    open_file: type[TableFile] = TableFile,
) -> tuple[list[EncodedImages], list[NDArray[np.int64]], int]:
    """The images and labels of the training and the test part, and the number of classes."""
    train, test = chosen
    parts = [[ImageTable(open_file(path), image, label) for path in part.files] for part in (train, test)]
    names = [file.class_names for files in parts for file in files]
    if any(found != names[0] for found in names):
        raise UserError(f"`data-dir` must hold files that name the same classes, got others than in {train.files[0]}")
    labels = [[found for file in files for found in file.labels()] for files in parts]
    if {type(found) for part in labels for found in part} == {int, str}:
        raise UserError(f"`data-dir` must hold labels of one type, got integers and text under {root}")
    if labels[1] and all(found == UNLABELLED for found in labels[1]):
        others = [name for name in splits if name != test.split]
        way_out = f"--dataset-options split={others[0]} tests on another" if others else "there is no other to test on"
        raise UserError(
            f"`data-dir` must hold a labelled split to test on, got {test.split} with no labels, or -1 for all; "
            + way_out
        )
    if any(isinstance(found, str) for part in labels for found in part):
        numbered = {name: number for number, name in enumerate(sorted({str(found) for found in labels[0]}))}
        if unknown := sorted({str(found) for found in labels[1]} - numbered.keys()):
            raise UserError(
                f"`data-dir` must have no classes in {test.split} that are not in train, got {unknown[0]!r} "
                f"({len(unknown)} such)"
            )
        labels = [[numbered[str(found)] for found in part] for part in labels]
    train_labels, test_labels = (np.array(part, dtype=np.int64) for part in labels)
    num_classes = 1 + int(max(train_labels.max(initial=0), test_labels.max(initial=0)))
    if names[0]:
        if num_classes > len(names[0]):
            raise UserError(
                f"`data-dir` must hold labels of the {len(names[0])} classes that the files name, "
                f"got {num_classes - 1} under {root}"
            )
        num_classes = len(names[0])
    return [_Images(files) for files in parts], [train_labels, test_labels], num_classes


class _Images:
    """The images of all files of a part."""

    def __init__(self, files: list["ImageTable"]) -> None:
        self._files = files

    def __len__(self) -> int:
        return sum(map(len, self._files))

    def images(self, rows: NDArray[np.int64] | None = None) -> Iterator[tuple[str, bytes]]:
        first = 0
        for file in self._files:
            last = first + len(file)
            if rows is None:
                yield from file.images()
            elif len(own := rows[np.searchsorted(rows, first) : np.searchsorted(rows, last)]):
                yield from file.images(own - first)
            first = last


class ImageTable:
    """The images and labels of one file; the images are read a few rows at a time."""

    def __init__(self, file: TableFile, image: object, label: object) -> None:
        self._file = file
        self._kind, self._path, self._schema = file.kind, file.path, file.schema
        with file.reading():
            self._image = self._column("image", image, IMAGE_COLUMNS, _holds_images, "struct<bytes> or binary")
            self._label = self._column("label", label, LABEL_COLUMNS, self._holds_labels, "an integer or text")

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes in the schema's metadata, by number."""
        found = self._features().get(self._label)
        names = found.get("names") if isinstance(found, dict) and found.get("_type") == "ClassLabel" else None
        return tuple(str(name) for name in names) if isinstance(names, list) and names else None

    def labels(self) -> list[int] | list[str]:
        with self._file.reading():
            column = self._file.read(self._label)
            kind = _value_type(column.type)
            if column.null_count == len(column):
                return [UNLABELLED] * len(column)
            if column.null_count:
                raise UserError(
                    f"`data-dir` must hold {self._kind} without missing labels, got {column.null_count} in {self._path}"
                )
            if not _is_text(kind) and len(column):
                low, high = (pc.min_max(column.cast(kind))[name].as_py() for name in ("min", "max"))
                if not -LARGEST_LABEL <= low <= high <= LARGEST_LABEL:
                    raise UserError(
                        f"`data-dir` must hold class numbers, got {self._label} from {low} to {high} in {self._path}"
                    )
                column = column.cast(kind).cast(pa.int64())
            found: list[int] | list[str] = column.to_pylist()
            return found

    def __len__(self) -> int:
        return sum(self._file.groups)

    def images(self, rows: NDArray[np.int64] | None = None) -> Iterator[tuple[str, bytes]]:
        """The name and the encoded bytes of each image, or of those in `rows`, which ascend."""
        first = 0
        for index, count in enumerate(self._file.groups):
            last = first + count
            own = np.arange(first, last) if rows is None else rows[(first <= rows) & (rows < last)]
            if len(own):
                yield from self._of_group(index, first, own)
            first = last

    def _of_group(self, index: int, row: int, wanted: NDArray[np.int64]) -> Iterator[tuple[str, bytes]]:
        pieces = self._file.batches(index, self._image)
        while True:
            with self._file.reading():
                piece = next(pieces, None)
                if piece is None:
                    return
                own = wanted[(row <= wanted) & (wanted < row + len(piece))]
                column = piece.take(pa.array(own - row))
                column = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
                encoded = column.to_pylist()
            for place, content in zip(own, encoded, strict=True):
                name = f"{self._path} row {place}"
                if content is None:
                    raise UserError(f"`data-dir` must hold readable images, got no bytes in {name}")
                yield name, content
            row += len(piece)

    def _column(
        self, what: str, given: object, usual: tuple[str, ...], fits: Callable[[pa.Field], bool], kinds: str
    ) -> str:
        """The name of the column that is the `what`."""
        fields = list(self._schema)
        candidates = list(dict.fromkeys(field.name for field in fields if fits(field)))
        names = [field.name for field in fields]
        if given is not None:
            chosen = [str(given)] if str(given) in names else []
        else:
            chosen = [name for name in usual if name in names][:1] or candidates
        if len(chosen) != 1:
            if given is not None:
                raise UserError(f"`{what}` must be a column, one of {_shown(names)}, got {given!r} in {self._path}")
            chosen = chosen or [field.name for field in fields if what == "label" and _is_label(field.type)]
            way_out = f"--dataset-options {what}={(chosen or names or ['NAME'])[0]}"
            raise UserError(
                f"`data-dir` must hold {self._kind} with columns image and label, got {_shown(names)} in {self._path}; "
                f"{way_out} chooses the {what}" + (f", one of {_shown(chosen)}" if chosen else "")
            )
        if names.count(chosen[0]) > 1:
            raise UserError(f"`data-dir` must hold {self._kind} with one {what}, got {chosen[0]} twice in {self._path}")
        field = self._schema.field(chosen[0])
        if not (_holds_images(field) if what == "image" else _is_label(field.type)):
            kind = quoted(str(field.type))
            raise UserError(
                f"`data-dir` must hold {self._kind} whose {chosen[0]} is {kinds}, got {kind} in {self._path}"
            )
        return chosen[0]

    def _holds_labels(self, field: pa.Field) -> bool:
        feature = self._features().get(field.name)
        is_class = isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        return _is_label(field.type) and (is_class or "label" in field.name.lower())

    def _features(self) -> dict[str, Any]:
        """What the library `datasets` notes of each column."""
        try:
            found = json.loads((self._schema.metadata or {})[b"huggingface"])["info"]["features"]
        except (KeyError, TypeError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def _holds_images(field: pa.Field) -> bool:
    kind = field.type
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_binary(kind.field(place).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _is_label(kind: pa.DataType) -> bool:
    value = _value_type(kind)
    return bool(pa.types.is_integer(value)) or _is_text(value)


def _is_text(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _shown(names: list[str], most: int = 20) -> str:
    return ", ".join(quoted(name) for name in names[:most] or ["none"]) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )
