"""Folders that the library `datasets` has saved (`save_to_disk`), read as they are, without that library.

`root` is a `DatasetDict`, with `dataset_dict.json` and a folder for each split, or a `Dataset`. Each split has
`state.json` and the Arrow files that it names. There are two kinds:

- images, with the columns and options of Parquet files (trainables.data.parquet), decoded into the cache;
- tokens, a column of lists of ids (trainables.data.token_columns).

The files are mapped. The test part is the split `test`, or `validation` where there is none, or the option `split`. The
last 10 % of a `Dataset` of tokens are its test part. One of images is refused: it may be sorted by class.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.decoded import EncodedImages, image_source
from trainables.data.files import readable
from trainables.data.hub_layout import WORDS, Part
from trainables.data.parquet import read_parts
from trainables.data.source import Source
from trainables.data.tables import ArrowFile
from trainables.data.token_columns import column_source, token_column
from trainables.runtime.errors import UserError, quoted

STATE = "state.json"
EXPECTED = f"a folder that `datasets` has saved, with dataset_dict.json or {STATE}"


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
    parts, to_test = _parts(root, split)
    of_images = {"image": image, "label": label, "size": size, "mean": mean, "std": std}
    column = token_column(ArrowFile(parts[0].files[0]).names, tokens, of_images)
    if column is not None:
        files = [part.files for part in parts]
        return column_source("arrow", root, files, column, ArrowFile, context=context, vocabulary=vocabulary)
    if len(parts) == 1:
        raise UserError(
            f"`data-dir` must hold images with a split train and one to test on, got one Dataset in {root}; "
            "Dataset.train_test_split makes two, and tokens=COLUMN chooses a column of tokens"
        )
    train, test = parts

    def read() -> tuple[list[EncodedImages], list[NDArray[np.int64]], int]:
        return read_parts(root, (train, test), to_test, image, label, ArrowFile)

    options = {"image": image, "label": label, "split": test.split}
    return image_source("arrow", root, [*train.files, *test.files], read, options, size=size, mean=mean, std=std)


def _parts(root: Path, split: object) -> tuple[list[Part], list[str]]:
    """The training and the test part, or the one part of a Dataset; and the splits that could be to test on."""
    listed = root / "dataset_dict.json"
    if split is None and not listed.exists() and (root / STATE).exists():
        return [Part("train", ".", _files(root))], []
    splits = _json(listed, "splits")
    names = [str(name) for name in splits] if isinstance(splits, list) else []
    to_test = [name for name in names if name != "train"]
    chosen = str(split) if split is not None else next((name for name in WORDS if name in to_test), None)
    if "train" not in names or chosen not in to_test:
        raise UserError(
            f"`data-dir` must hold a split train and one to test on, got {', '.join(names) or 'none'} in {root}"
            + ("" if split is None else f" and split={split}")
        )
    return [Part(name, ".", _files(root / name)) for name in ("train", chosen)], to_test


def _files(folder: Path) -> tuple[Path, ...]:
    listed = _json(folder / STATE, "_data_files")
    names = [entry.get("filename") for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    files = tuple(folder / str(name) for name in names if Path(str(name)).name == name)
    if not files or len(files) != len(names):
        raise UserError(f"`data-dir` must be {EXPECTED}, got no list of files in {folder / STATE}")
    for file in files:
        readable(file, f"every shard that {STATE} names")
    return files


def _json(file: Path, key: str) -> Any:
    readable(file, EXPECTED)
    try:
        return json.loads(file.read_bytes())[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"`data-dir` must be {EXPECTED}, got {file} ({quoted(error)})") from error
