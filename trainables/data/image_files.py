"""Image classification from files of your own: Parquet in the layout that Hugging Face uses, or a folder.

Parquet: files whose names hold `train` and `test` (or `validation`) under one folder, each with an `image` (or
`img`) column of encoded bytes, struct<bytes, ...>, and an integer `label`. Folder: `train/CLASS/*.png` and
`test/CLASS/*.png` as torchvision's ImageFolder reads them. All images must have one size; they are decoded once,
into memory, as float32 in [0, 1]: (N, 1, H, W) where every image is grey, else (N, 3, H, W).
"""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from trainables.data.dataset import Source
from trainables.errors import UserError

IMAGE_COLUMNS = ("image", "img")
TEST_WORDS = ("test", "validation")


def read_parquet(root: Path, download: bool) -> Source:
    """Reads every `*train*.parquet` and `*test*.parquet` under `root`."""
    files = sorted(root.rglob("*.parquet")) if root.is_dir() else []
    train_files = [file for file in files if "train" in file.name]
    test_files: list[Path] = []
    for word in TEST_WORDS:
        test_files = test_files or [file for file in files if word in file.name and file not in train_files]
    if not train_files or not test_files:
        raise UserError(
            f"`data-dir` must be a folder with *train*.parquet and *test*.parquet files, "
            f"got {root} with {', '.join(file.name for file in files) or 'no Parquet file'}"
        )
    train_tables = [_read_table(file) for file in train_files]
    test_tables = [_read_table(file) for file in test_files]
    grey = all(_is_grey(tables[0]) for tables in (train_tables, test_tables))
    train_inputs, train_labels = _decode_tables(train_files, train_tables, grey)
    test_inputs, test_labels = _decode_tables(test_files, test_tables, grey)
    num_classes = 1 + int(max(train_labels.max(initial=0), test_labels.max(initial=0)))
    return Source("parquet", train_inputs, train_labels, test_inputs, test_labels, num_classes)


def read_image_folder(root: Path, download: bool) -> Source:
    """Reads `root/train/CLASS/*` and `root/test/CLASS/*`; the classes are numbered by name."""
    from torchvision.datasets import ImageFolder  # here: it brings PyTorch's compiler with it

    folders = []
    for part in ("train", "test"):
        try:
            folders.append(ImageFolder(str(root / part)))
        except (FileNotFoundError, OSError) as error:
            raise UserError(
                f"`data-dir` must hold {part}/CLASS/IMAGE files, got {root}: {str(error).splitlines()[0]}"
            ) from error
    train, test = folders
    if train.classes != test.classes:
        raise UserError(
            f"`data-dir` must have the same classes in train and test, "
            f"got {', '.join(sorted(set(train.classes) ^ set(test.classes)))} in only one of them"
        )
    modes = []
    for folder in folders:
        first = folder.samples[0][0]
        try:
            with Image.open(first) as image:
                modes.append(image.mode)
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"`data-dir` must hold readable images, got {first} ({error})") from error
    grey = all(mode == "L" for mode in modes)
    (train_inputs, train_labels), (test_inputs, test_labels) = (
        (
            _decode(((path, path) for path, _ in folder.samples), len(folder.samples), grey),
            np.asarray(folder.targets, dtype=np.int64),
        )
        for folder in folders
    )
    return Source("image_folder", train_inputs, train_labels, test_inputs, test_labels, len(train.classes))


def _read_table(file: Path) -> pa.Table:
    try:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        column = next((name for name in IMAGE_COLUMNS if name in names), None)
        if column is None or "label" not in names:
            raise UserError(
                f"`data-dir` must hold Parquet with columns image and label, got {', '.join(names)} in {file}"
            )
        kind = table.schema_arrow.field(column).type
        if not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
            raise UserError(f"`data-dir` must hold Parquet whose {column} is struct<bytes>, got {kind} in {file}")
        if not pa.types.is_integer(table.schema_arrow.field("label").type):
            raise UserError(
                f"`data-dir` must hold Parquet whose label is an integer, "
                f"got {table.schema_arrow.field('label').type} in {file}"
            )
        return table.read(columns=[column, "label"]).rename_columns(["image", "label"])
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"`data-dir` must hold whole Parquet files, got {file}, which cannot be read ({str(error).splitlines()[0]})"
        ) from error


def _is_grey(table: pa.Table) -> bool:
    if table.num_rows == 0:
        return False
    first = table.column("image")[0].as_py()
    try:
        return bool(Image.open(io.BytesIO(first["bytes"])).mode == "L")
    except (OSError, TypeError):
        return False


def _decode_tables(
    files: list[Path], tables: list[pa.Table], grey: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    def images() -> Iterator[tuple[str, Any]]:
        for file, table in zip(files, tables, strict=True):
            for row, encoded in enumerate(pa.compute.struct_field(table.column("image"), "bytes")):
                data = encoded.as_py()
                yield f"{file} row {row}", io.BytesIO(data if data is not None else b"")

    labels = pa.concat_tables(tables).column("label")
    if labels.null_count:
        raise UserError(f"`data-dir` must hold Parquet without missing labels, got {labels.null_count} in {files[0]}")
    return _decode(images(), len(labels), grey), labels.to_numpy().astype(np.int64)


def _decode(images: Iterable[tuple[str, Any]], count: int, grey: bool) -> NDArray[np.float32]:
    """Decodes (name, file) pairs into one array, scaled to [0, 1]; the first image sets the size."""
    decoded: NDArray[np.uint8] | None = None
    for index, (name, file) in enumerate(images):
        try:
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("L" if grey else "RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"`data-dir` must hold readable images, got {name} ({error})") from error
        pixels = pixels[None] if grey else pixels.transpose(2, 0, 1)
        if decoded is None:
            decoded = np.empty((count, *pixels.shape), dtype=np.uint8)
        if pixels.shape != decoded.shape[1:]:
            raise UserError(
                f"`data-dir` must hold images of one size, got {pixels.shape[1:]} in {name} after {decoded.shape[2:]}"
            )
        decoded[index] = pixels
    if decoded is None:
        raise UserError("`data-dir` must hold images, got none")
    return np.divide(decoded, 255, dtype=np.float32)
