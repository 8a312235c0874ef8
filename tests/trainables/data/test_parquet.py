"""Parquet files as they lie on the Hub: which are read, what is a label, and the choices where that is ambiguous."""

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainables.data import Source, load_source
from trainables.data.rows import values_of
from trainables.runtime.errors import UserError

Files = dict[str, pa.Table]


def png(value: int, size: int = 2) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size), value, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def table(
    *labels: Any, image: str = "image", label: str = "label", names: list[str] | None = None, **others: list[Any]
) -> pa.Table:
    """A row for each label, its pixels of the value of its place."""
    images = [{"bytes": png(place), "path": None} for place in range(len(labels))]
    found = pa.table({image: images, label: list(labels), **others})
    features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    noted = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    return found.replace_schema_metadata(noted)


def read(root: Path, files: Files, **options: Any) -> Source:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(content, root / name)
    return load_source("parquet", root=root, options=options)


TWO, THREE = table(0, 1), table(0, 1, 1)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("data/train-00000-of-00001-0f1e2d3c4b5a6978.parquet", "data/validation-00000-of-00001-5a697.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("train/0000.parquet", "valid/0000.parquet"),
        ("plain_text/cifar10-train.parquet", "plain_text/cifar10-test.parquet"),
        ("mytrain.parquet", "mytest.parquet"),
        ("Training.parquet", "dev.parquet"),
        ("a-train.parquet", "a-val.parquet"),
        ("train.parquet", "a/test.parquet"),
        ("default/partial-train/0000.parquet", "default/partial-test/0000.parquet"),
        ("default/partial-train/0000.parquet", "default/test/0000.parquet"),
    ],
)
def test_where_splits_lie(tmp_path: Path, train: str, test: str) -> None:
    source = read(tmp_path, {train: THREE, test: TWO})
    assert (source.labels.tolist(), source.test_labels.tolist()) == ([0, 1, 1], [0, 1])  # type: ignore[union-attr]


def test_shards_are_put_together(tmp_path: Path) -> None:
    files = {f"train-0000{shard}-of-00002.parquet": table(shard, 1) for shard in (0, 1)}
    files |= {"train_part3.parquet": TWO, "test.parquet": TWO}
    assert read(tmp_path, files).labels.tolist() == [0, 1, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("files", "choices"),
    [
        ({f"{config}/{split}-0.parquet": TWO for config in "ab" for split in ("train", "test")}, "a, b"),
        ({f"{config}/{split}/0000.parquet": TWO for config in "ab" for split in ("train", "test")}, "a, b"),
        ({f"{config}_{split}.parquet": TWO for config in "ab" for split in ("train", "test")}, "a, b"),
        ({f"{split}_{config}.parquet": TWO for config in "ab" for split in ("train", "test")}, "a, b"),
        ({"train.parquet": TWO, "test.parquet": TWO, "train_small.parquet": TWO}, "., small"),
    ],
)
def test_configurations_are_not_put_together(tmp_path: Path, files: Files, choices: str) -> None:
    first = choices[0]
    with pytest.raises(UserError, match=rf"got {choices} in .*; --dataset-options config={first} chooses one"):
        read(tmp_path, files)
    assert len(read(tmp_path, files, config=first).labels) == 2
    with pytest.raises(UserError, match=f"`config` must be one of {choices}, got 'other'"):
        read(tmp_path, files, config="other")


@pytest.mark.parametrize(
    "names", ["{config}-{split}.parquet", "{config}/{split}-0.parquet", "{config}/{split}/0.parquet"]
)
def test_splits_of_two_configurations_are_not_put_together(tmp_path: Path, names: str) -> None:
    files = {names.format(config=config, split=split): TWO for config, split in (("a", "train"), ("b", "test"))}
    with pytest.raises(UserError, match="train and test of one configuration, got train of a and test of b in"):
        read(tmp_path, files)


def test_a_split_without_labels(tmp_path: Path) -> None:
    secret = pa.table({"image": TWO["image"], "label": pa.nulls(2, pa.int64())})
    files = {"train.parquet": TWO, "validation.parquet": TWO, "test.parquet": secret}
    with pytest.raises(
        UserError, match="no labels, or -1 for all; --dataset-options split=validation tests on another"
    ):
        read(tmp_path, files)
    with pytest.raises(UserError, match=r"label"):
        read(tmp_path, {"train.parquet": secret, "test.parquet": TWO})


def test_the_split_to_test_on(tmp_path: Path) -> None:
    files = {"train.parquet": TWO, "validation.parquet": THREE, "test.parquet": table(-1, -1, -1, -1)}
    with pytest.raises(
        UserError, match="got test with no labels, or -1 for all; --dataset-options split=validation tests on"
    ):
        read(tmp_path, files)
    for split in ("validation", "valid"):
        assert len(read(tmp_path, files, split=split).test_inputs) == 3  # type: ignore[arg-type]
    for wrong in ("train", "other", 3):
        with pytest.raises(UserError, match="`split` must be one of test, validation, to test on, got"):
            read(tmp_path, files, split=wrong)
    (tmp_path / "validation.parquet").unlink()
    with pytest.raises(UserError, match="-1 for all; there is no other to test on"):
        read(tmp_path, {"test.parquet": files["test.parquet"]})


def test_columns(tmp_path: Path) -> None:
    several = table(4, 0, image="img", label="fine_label", coarse_label=[1, 0])
    files = {"train.parquet": several, "test.parquet": several}
    with pytest.raises(UserError, match="label=fine_label chooses the label, one of fine_label, coarse_label"):
        read(tmp_path, files)
    assert read(tmp_path, files, label="fine_label").labels.tolist() == [4, 0]
    assert read(tmp_path, files, label="coarse_label", image="img").labels.tolist() == [1, 0]
    for option in ("image", "label"):
        with pytest.raises(UserError, match=f"`{option}` must be a column, one of img, fine_label, .* got 'absent'"):
            read(tmp_path, files, **{option: "absent"})
    other = pa.table({"picture": [png(0), png(1)], "mask": [png(0), png(1)], "breed": [1, 0]})
    with pytest.raises(UserError, match="image=picture chooses the image, one of picture, mask"):
        read(tmp_path, {"train.parquet": other, "test.parquet": other})
    found = load_source("parquet", root=tmp_path, options={"image": "mask", "label": "breed"})
    assert found.labels.tolist() == [1, 0]


def test_a_label_of_another_name_is_suggested(tmp_path: Path) -> None:
    """Not the image, nor a column that cannot be a label."""
    digits = table(0, 1, label="digit", weight=[0.5, 0.5])
    with pytest.raises(UserError, match="--dataset-options label=digit chooses the label, one of digit"):
        read(tmp_path, {"train.parquet": digits, "test.parquet": digits})


def test_labels_in_words(tmp_path: Path) -> None:
    """Numbered by the alphabet, over all files of the training part."""
    words = pa.array(["dog", "cat"]).dictionary_encode()
    files = {"train-0.parquet": table("dog", "cat"), "train-1.parquet": table("eel"), "test.parquet": table("eel")}
    files["train-2.parquet"] = table("x", "y").set_column(1, "label", words)
    source = read(tmp_path, files)
    assert (source.labels.tolist(), source.num_classes) == ([1, 0, 2, 1, 0], 3)
    assert source.test_labels is not None
    assert source.test_labels.tolist() == [2]
    with pytest.raises(UserError, match=r"no classes in test that are not in train, got 'ant' \(1 such\)"):
        read(tmp_path, {"test.parquet": table("ant", "cat")})
    with pytest.raises(UserError, match="labels of one type, got integers and text"):
        read(tmp_path, {"test.parquet": TWO})


def test_classes_that_the_schema_names(tmp_path: Path) -> None:
    named = table(0, 1, names=["ant", "bee", "cow"])
    assert read(tmp_path, {"train.parquet": named, "test.parquet": named}).num_classes == 3
    other = table(0, 1, names=["bee", "ant", "cow"])
    with pytest.raises(UserError, match="files that name the same classes"):
        read(tmp_path, {"test.parquet": other})
    beyond = table(0, 3, names=["ant", "bee", "cow"])
    with pytest.raises(UserError, match="labels of the 3 classes that the files name, got 3"):
        read(tmp_path, {"test.parquet": beyond})
    breed = table(0, 1, label="breed", names=["ant", "bee"])
    assert read(tmp_path / "breed", {"train.parquet": breed, "test.parquet": breed}).num_classes == 2
    nested = named.replace_schema_metadata({"huggingface": "[" * 100_000})
    assert read(tmp_path / "nested", {"train.parquet": nested, "test.parquet": nested}).num_classes == 2


def test_images_are_prepared(tmp_path: Path) -> None:
    large = pa.table({"image": [{"bytes": png(9, 4)}, {"bytes": png(9, 6)}], "label": [0, 1]})
    source = read(tmp_path, {"train.parquet": TWO, "test.parquet": large}, size=3, mean=0.5, std=2)
    values = values_of(source.test_inputs, source.scaling)  # type: ignore[arg-type]
    np.testing.assert_allclose(values, np.full((2, 1, 3, 3), (9 / 255 - 0.5) / 2), rtol=1e-5)


IMAGES = [{"bytes": png(0)}, {"bytes": png(1)}]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (pa.Table.from_arrays([pa.array(IMAGES), pa.array([0, 1]), pa.array([1, 0])], ["image", "label", "label"]),
         "one label, got label twice"),
        (pa.Table.from_arrays([pa.array(IMAGES), pa.array(IMAGES), pa.array([1, 0])], ["image", "image", "label"]),
         "one image, got image twice"),
        (pa.table({"image": IMAGES, "label": [0.0, 1.0]}), "label is an integer or text, got double"),
        (pa.table({"image": IMAGES, "label": [[0], [1]]}), "label is an integer or text, got list"),
        (pa.table({"image": IMAGES, "label": [True, False]}), "label is an integer or text, got bool"),
        (pa.table({"image": IMAGES, "label": [None, None]}), "label is an integer or text, got null"),
        (pa.table({"image": IMAGES, "label": ["a", None]}), "without missing labels, got 1"),
        (pa.table({"image": IMAGES, "label": pa.array([0, 2**64 - 1], pa.uint64())}), "must hold class numbers, got"),
        (pa.table({"image": IMAGES, "label": [0, -(2**40)]}), "must hold class numbers, got"),
        (pa.table({"image": ["a.png", "b.png"], "label": [0, 1]}), "image is struct<bytes> or binary, got string"),
        (pa.table({"image": [{"bytes": "text"}] * 2, "label": [0, 1]}), "image is struct<bytes> or binary, got struct"),
        (pa.table({"image": [{"path": "a.png"}] * 2, "label": [0, 1]}), "image is struct<bytes> or binary, got struct"),
        (pa.table({"image": [[[0, 1], [1, 0]]] * 2, "label": [0, 1]}), "image is struct<bytes> or binary, got list"),
        (pa.table({"image": [IMAGES[0], None], "label": [0, 1]}), "readable images, got no bytes in .* row 1"),
        (pa.table({"image": [IMAGES[0], {"bytes": b"x"}], "label": [0, 1]}), "readable images, got .* row 1"),
        (pa.table({}), "columns image and label, got none in"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used(tmp_path: Path, train: pa.Table, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, {"train.parquet": train, "test.parquet": TWO})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    files = {"train.parquet": TWO, "test.parquet": TWO}
    read(tmp_path, files)
    train = tmp_path / "train.parquet"
    content = train.read_bytes()
    for spoiled in (b"", b"PAR1", content[:-8] + b"\xff\xff\xff\x7fPAR1", content[:-4] + b"PARE", content[200:]):
        train.write_bytes(spoiled)
        with pytest.raises(UserError, match=r"whole Parquet files, got .*train.parquet, which cannot be read") as error:
            load_source("parquet", root=tmp_path)
        assert "\n" not in str(error.value)
    for place in range(4, len(content), 41):  # whatever byte is wrong, there is a result or one line
        train.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with contextlib.suppress(UserError):
            load_source("parquet", root=tmp_path)
    train.unlink()
    os.mkfifo(train)
    with pytest.raises(UserError, match=r"whole Parquet files, got .*train.parquet, which is a named pipe"):
        load_source("parquet", root=tmp_path)
