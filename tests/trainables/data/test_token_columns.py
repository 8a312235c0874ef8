"""Lists of token ids in Parquet and Arrow files: the windows, how files are read, and one line for each mistake."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainables.data import Source, load_source
from trainables.data.tables import TableFile
from trainables.runtime.errors import UserError

IDS = np.random.default_rng(5).integers(0, 500, 1003)
LISTS = [IDS[:400].tolist(), IDS[400:401].tolist(), [], IDS[401:].tolist()]


def write_parquet(root: Path, **parts: pa.Table) -> Path:
    """Two shards of each part, with a row in each group."""
    root.mkdir(exist_ok=True)
    for part, table in parts.items():
        for number, shard in enumerate((table[:2], table[2:])):
            pq.write_table(shard, root / f"{part}-{number:05}-of-00002.parquet", row_group_size=1)
    return root


def write_arrow(folder: Path, table: pa.Table) -> Path:
    """As `Dataset.save_to_disk` of the library `datasets`."""
    folder.mkdir()
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=1)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return folder


def refused(message: str, name: str, root: Path, **options: Any) -> None:
    with pytest.raises(UserError, match=message) as told:
        load_source(name, root=root, options=options)
    assert "\n" not in str(told.value)


def check_windows(source: Source, train: Any, test: Any, context: int) -> None:
    """`train` and `test` are cut into windows of mapped files, and a label is the token that follows."""
    for inputs, labels, ids in (
        (source.inputs, source.labels, train),
        (source.test_inputs, source.test_labels, test),
    ):
        count = (len(ids) - 1) // context
        assert isinstance(inputs, np.memmap)
        assert labels is not None
        np.testing.assert_array_equal(inputs, ids[: count * context].reshape(count, context))
        np.testing.assert_array_equal(labels, ids[1 : count * context + 1].reshape(count, context))


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int32()), pa.list_(pa.int64()), pa.large_list(pa.uint16()), pa.list_(pa.uint32())]
)
def test_shards_of_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    tables = {name: pa.table({"ids": pa.array(lists, kind)}) for name, lists in (("train", LISTS), ("test", LISTS[:3]))}
    root = write_parquet(tmp_path / "data", **tables)
    source = load_source("parquet", root=root, options={"tokens": "ids", "context": 6})
    check_windows(source, IDS, IDS[:401], 6)
    assert (source.num_classes, source.task) == (1 + int(IDS.max()), "language")
    more = load_source("parquet", root=root, options={"tokens": "ids", "context": 6, "vocabulary": 512})
    assert more.num_classes == 512
    assert more.fingerprint != source.fingerprint


def test_parquet_and_arrow_give_the_same(tmp_path: Path) -> None:
    table = pa.table({"input_ids": LISTS, "text": ["a"] * 4})
    write_parquet(tmp_path / "one", train=table, validation=table)
    (tmp_path / "two").mkdir()
    for split in ("train", "validation"):
        write_arrow(tmp_path / "two" / split, table)
    (tmp_path / "two" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    one, two = (
        load_source(name, root=tmp_path / folder, options={"context": 9})
        for name, folder in (("parquet", "one"), ("arrow", "two"))
    )
    check_windows(one, IDS, IDS, 9)
    check_windows(two, IDS, IDS, 9)
    assert one.fingerprint == two.fingerprint


def test_a_few_rows_are_read_at_once_and_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = [[row, row + 1, row + 2] for row in range(600)]
    root = write_parquet(tmp_path / "data", train=pa.table({"input_ids": lists}), test=pa.table({"input_ids": lists}))
    pq.write_table(pa.table({"input_ids": lists}), root / "train-00001-of-00002.parquet")
    sizes: list[int] = []
    batches = TableFile.batches

    def counted(file: TableFile, index: int, column: str) -> Any:
        for piece in batches(file, index, column):
            sizes.append(len(piece))
            yield piece

    monkeypatch.setattr(TableFile, "batches", counted)
    first = load_source("parquet", root=root, options={"context": 3})
    assert sum(sizes) == 2 + 600 + 600
    assert max(sizes) == 256
    sizes.clear()
    assert load_source("parquet", root=root, options={"context": 4}).fingerprint != first.fingerprint
    assert load_source("parquet", root=root, options={"context": 3}).fingerprint == first.fingerprint
    assert not sizes


@pytest.mark.parametrize("name", ["parquet", "tokens"])
def test_a_changed_file_of_the_cache_is_made_again(tmp_path: Path, name: str) -> None:
    """Also one that has the right size, as after a crash of the machine."""
    table = pa.table({"input_ids": LISTS})
    root = write_parquet(tmp_path / "data", train=table, test=table)
    for part, ids in (("train-0", IDS[:500]), ("train-1", IDS[500:]), ("val", IDS)):
        np.save(root / f"{part}.npy", ids.astype(np.uint32))

    def loaded() -> Source:
        return load_source(name, root=root, options={"context": 6}, cache_dir=tmp_path / "cache")

    fingerprint = loaded().fingerprint
    (file,) = (tmp_path / "cache").glob("*/train.tokens")
    size = file.stat().st_size
    damages: list[Callable[[], Any]] = [
        lambda: file.write_bytes(bytes(size)),
        lambda: file.write_bytes(bytes(size - 4)),
        file.unlink,
        lambda: (file.parent / "facts.json").write_text('{"digests": [], "train.tokens": 3}'),
    ]
    for damage in damages:
        damage()
        source = loaded()
        check_windows(source, IDS, IDS, 6)
        assert source.fingerprint == fingerprint


def test_a_dataset_without_splits(tmp_path: Path) -> None:
    """The last 10 % of its tokens are the test part: of 1003 that is 100."""
    root = write_arrow(tmp_path / "data", pa.table({"input_ids": LISTS}))
    source = load_source("arrow", root=root, options={"context": 6})
    check_windows(source, IDS[:903], IDS[903:], 6)
    refused("must hold a folder that `datasets` has saved, .* got .*dataset_dict.json", "arrow", root, split="test")
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "png")
    images = pa.table({"image": [{"bytes": buffer.getvalue()}] * 4, "label": [0, 1, 0, 1]})
    refused(
        "with a split train and one to test on, got one Dataset in .*; Dataset.train_test_split makes two",
        "arrow", write_arrow(tmp_path / "images", images),
    )  # fmt: skip


def test_a_dataset_that_the_library_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"input_ids": LISTS}).save_to_disk(str(tmp_path / "data"), num_shards=2)
    source = load_source("arrow", root=tmp_path / "data", options={"context": 6})
    check_windows(source, IDS[:903], IDS[903:], 6)


def test_mistakes(tmp_path: Path) -> None:
    def saved(column: pa.Array) -> Path:
        table = pa.table({"ids": column})
        return write_parquet(tmp_path / "data", train=table, test=table)

    root = saved(pa.array(LISTS))
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"tokens": "other"}, "^`tokens` must be a column, one of ids, got 'other' in .*train-00000-of-00002.parquet"),
        ({"tokens": "ids", "vocabulary": 5}, "^`vocabulary` must be larger than the token ids, got 5 and 4"),
        ({"tokens": "ids", "vocabulary": 1}, "^`vocabulary` must be an integer of 2 or more, got 1"),
        ({"tokens": "ids", "context": 0}, "^`context` must be a positive integer, got 0"),
        ({"tokens": "ids", "context": 2000}, "^`context` must be shorter than the training text of 1003 tokens"),
        ({"tokens": "ids", "size": 32}, "^`size` cannot be used with `tokens`: it is an option of images"),
        ({}, "must hold Parquet with columns image and label, got ids"),
    ]
    for options, message in mistakes:
        refused(message, "parquet", root, **options)
    columns: list[tuple[pa.Array, str]] = [
        (pa.array(["a"] * 4), "must hold Parquet whose ids is lists of integers, got string"),
        (pa.array([[0.5]] * 4), "whose ids is lists of integers, got list<.*double>"),
        (pa.array([[1, None]] * 4), "must hold Parquet without missing tokens, got 1 in"),
        (pa.array([[1, -7]] * 4), r"must hold token ids from 0 to 2\*\*32 - 1, got -7 in"),
        (pa.array([[1, 2**32]] * 4), r"must hold token ids from 0 to 2\*\*32 - 1, got 4294967296 in"),
        (pa.array([[]] * 4, pa.list_(pa.int32())), "must hold tokens, got none in .*train-00001-of-00002.parquet"),
    ]
    for column, message in columns:
        refused(message, "parquet", saved(column), tokens="ids")
    shard = saved(pa.array(LISTS)) / "train-00001-of-00002.parquet"
    content = bytearray(shard.read_bytes())
    content[4:40] = bytes(36)
    shard.write_bytes(content)
    refused("must hold whole Parquet files, got .*train-00001-of-00002.parquet", "parquet", root, tokens="ids")
