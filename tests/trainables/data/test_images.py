"""What encoded images become: nothing is clipped or dropped or decided by the first image, or one line says why not."""

import io
import os
import struct
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torchvision.datasets import ImageFolder

from trainables.data import Source, load_source
from trainables.data.decoded import image_source
from trainables.data.rows import values_of
from trainables.runtime.errors import UserError

GENERATOR = np.random.default_rng(5)
GREY = GENERATOR.integers(0, 256, (4, 5), dtype=np.uint8)
COLOUR = GENERATOR.integers(0, 256, (4, 5, 3), dtype=np.uint8)
DEEP = GENERATOR.integers(0, 65536, (4, 5), dtype=np.uint16)


def encoded(image: Image.Image | NDArray[Any], kind: str = "png", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def png(size: tuple[int, int], kind: int, rows: bytes) -> bytes:
    """A PNG of 16 bits, which Pillow cannot write in colour; `kind`: 0 grey, 4 with alpha, 2 colour, 6 with alpha."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", *size, 16, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def deep_png(pixels: NDArray[np.uint16]) -> bytes:
    """The PNG of (H, W, C) pixels."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png((width, height), {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows)


class Listed(list[tuple[str, bytes]]):
    """Encoded images in memory."""

    def images(self, rows: NDArray[np.int64] | None = None) -> Iterator[tuple[str, bytes]]:
        return iter(self if rows is None else [self[row] for row in rows])


def decode_parts(*parts: list[tuple[str, bytes]], size: Any = None, mean: Any = None, std: Any = None) -> list[Any]:
    """The values of each of two parts."""
    labels = [np.arange(len(part)) for part in parts]

    def read() -> Any:
        return [Listed(part) for part in parts], labels, 9

    new = {"set": uuid.uuid4().hex}
    source = image_source("images", Path("nowhere"), [], read, new, size=size, mean=mean, std=std)
    assert source.decoded is not None
    source.decoded.ensure([None, None])
    return [values_of(array, source.scaling) for array in (source.inputs, source.test_inputs) if array is not None]


def decode(*images: bytes, **options: Any) -> NDArray[np.float32]:
    named = [(f"image {index}", content) for index, content in enumerate(images)]
    array, same = decode_parts(named, named, **options)
    np.testing.assert_array_equal(array, same)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    return np.asarray(array)


def test_plain_images_are_their_bytes_divided_by_255() -> None:
    expected = np.divide(np.stack([GREY, 255 - GREY])[:, None], 255, dtype=np.float32)
    np.testing.assert_array_equal(decode(encoded(GREY), encoded(255 - GREY)), expected)
    expected = np.divide(COLOUR.transpose(2, 0, 1)[None], 255, dtype=np.float32)
    np.testing.assert_array_equal(decode(encoded(COLOUR)), expected)


def test_each_depth_keeps_its_range() -> None:
    bits = GREY > 127
    floats = (DEEP / 65535).astype(np.float32)
    images: list[tuple[bytes, Any]] = [
        (encoded(DEEP), DEEP / 65535),
        (encoded(DEEP, "tiff"), DEEP / 65535),
        (deep_png(DEEP[..., None]), DEEP / 65535),
        (encoded(floats, "tiff"), floats),
        (encoded(Image.fromarray(bits)), bits),
        (encoded(GREY, "gif"), GREY / 255),
    ]
    for content, expected in images:
        np.testing.assert_allclose(decode(content)[0, 0], expected, rtol=1e-6)
    for channels in (2, 3, 4):
        pixels = GENERATOR.integers(0, 1000, (4, 5, channels), dtype=np.uint16)  # all of it in the lower 10 bits
        np.testing.assert_allclose(decode(deep_png(pixels))[0], pixels.transpose(2, 0, 1) / 65535, rtol=1e-6)


def test_the_set_decides_on_colour() -> None:
    for images in [(GREY, COLOUR), (COLOUR, GREY)]:
        found = decode(*map(encoded, images))
        assert found.shape == (2, 3, 4, 5)
        for row, image in zip(found, images, strict=True):
            rgb = np.broadcast_to(image[..., None] if image.ndim == 2 else image, (4, 5, 3))
            np.testing.assert_allclose(row, rgb.transpose(2, 0, 1) / 255, rtol=1e-6)
    train, test = decode_parts([("a", encoded(GREY))], [("b", encoded(COLOUR))])
    assert train.shape == test.shape == (1, 3, 4, 5)


def test_alpha_is_kept_where_it_says_something() -> None:
    """Black icons differ in alpha alone; an alpha that is opaque everywhere is no channel."""
    icon = np.zeros((4, 5, 4), np.uint8)
    icon[..., 3] = GREY
    found = decode(encoded(icon), encoded(COLOUR))
    np.testing.assert_allclose(found[0], icon.transpose(2, 0, 1) / 255, rtol=1e-6)
    np.testing.assert_allclose(found[1], np.concatenate([COLOUR.transpose(2, 0, 1) / 255, np.ones((1, 4, 5))]))
    opaque = np.concatenate([COLOUR, np.full((4, 5, 1), 255, np.uint8)], axis=2)
    np.testing.assert_array_equal(decode(encoded(opaque)), decode(encoded(COLOUR)))
    two = np.stack([GREY, 255 - GREY], axis=2)
    np.testing.assert_allclose(decode(encoded(two))[0], two.transpose(2, 0, 1) / 255, rtol=1e-6)
    palette = Image.fromarray(COLOUR).quantize(4)
    whole, cut = decode(encoded(palette)), decode(encoded(palette, transparency=0))
    np.testing.assert_array_equal(cut[:, :3], whole)
    np.testing.assert_array_equal(cut[0, 3], (np.asarray(palette) != 0).astype(np.float32))


def test_palettes_and_cmyk_are_colours() -> None:
    palette = Image.fromarray(COLOUR).quantize(8)
    np.testing.assert_allclose(
        decode(encoded(palette))[0], np.asarray(palette.convert("RGB")).transpose(2, 0, 1) / 255, rtol=1e-6
    )
    ink = np.zeros((4, 5, 4), np.uint8)
    ink[..., 0] = 255  # cyan
    found = decode(encoded(Image.fromarray(ink, "CMYK"), "tiff"))
    np.testing.assert_array_equal(found[0], np.broadcast_to(np.array([0, 1, 1])[:, None, None], (3, 4, 5)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    """As Pillow turns them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(COLOUR, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    found = decode(content)
    assert found.shape == ((1, 3, 5, 4) if orientation > 4 else (1, 3, 4, 5))
    np.testing.assert_allclose(found[0], expected.transpose(2, 0, 1) / 255, rtol=1e-6)


def test_sizes() -> None:
    """An image of two flat halves: scaled to the size's height, its middle is cut out."""
    halves = np.repeat(np.array([[0, 200]], np.uint8), 6, axis=1).repeat(6, axis=0)  # 6 x 12
    found = decode(encoded(halves), encoded(GREY), encoded(DEEP[:3, :3]), size=3)
    assert found.shape == (3, 1, 3, 3)
    np.testing.assert_allclose(found[0, 0, :, [0, 2]], np.array([[0.0] * 3, [200 / 255] * 3]), atol=0.2)
    assert decode(encoded(GREY), encoded(COLOUR[:2]), size=[2, 6]).shape == (2, 3, 2, 6)
    np.testing.assert_array_equal(decode(encoded(GREY), size=[4, 5]), decode(encoded(GREY)))
    with pytest.raises(UserError, match=r"got 4 x 5 .* in image 0 and 2 x 5 in image 1; .* size=2 scales and crops"):
        decode(encoded(GREY), encoded(COLOUR[:2]))
    for size in (0, "big", [3], [3, 3, 3], True, 1e9, [1.5, 2]):
        with pytest.raises(UserError, match="`size` must be the pixels of a square"):
            decode(encoded(GREY), size=size)


def test_normalization() -> None:
    plain = decode(encoded(COLOUR))
    mean, std = [0.1, 0.2, 0.3], [0.5, 1, 2]
    expected = (plain - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    np.testing.assert_allclose(decode(encoded(COLOUR), mean=mean, std=std), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(decode(encoded(GREY), mean=0.5), decode(encoded(GREY)) - 0.5, atol=1e-7)
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"mean": [1, 2]}, "`mean` must be a number, or one for each of the 3 channels"),
        ({"mean": "auto"}, "`mean` must be a number"),
        ({"mean": float("nan")}, "`mean` must be a number"),
        ({"std": 0}, "`std` must be a number above 0"),
        ({"std": [1, 1, -1]}, "`std` must be a number above 0"),
    ]
    for options, message in mistakes:
        with pytest.raises(UserError, match=message):
            decode(encoded(COLOUR), **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no image in a format that Pillow reads here"),
        (b"\0" * 1000, "no image in a format"),
        (encoded(COLOUR)[:60], "image 0"),
        (encoded(COLOUR, "jpeg")[:300], "image 0"),
        (encoded(COLOUR, "tiff")[:40], "image 0"),
        (encoded(COLOUR, "avif")[:200], "image 0"),
        (png((200_000, 200_000), 2, b""), "more than 89478485 pixels"),
        (encoded(Image.new("1", (10000, 9000))), "more than 89478485 pixels"),
        (encoded(DEEP.astype(np.float32), "tiff"), r"floats from .* to .*; scale them to \[0, 1\]"),
        (encoded(np.full((3, 3), np.nan, np.float32), "tiff"), "floats from nan to nan"),
        (encoded(np.full((3, 3), 7, np.int32), "tiff"), "integers of 32 bits"),
    ],
)
def test_images_that_cannot_be_used(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=f"must hold readable images, got .*{message}"):
        decode(content)


def write_folder(root: Path, names: tuple[str, ...] = ("ant", "bee")) -> None:
    for part in ("train", "test"):
        for number, name in enumerate(names):
            (root / part / name).mkdir(parents=True)
            for index in range(2):
                (root / part / name / f"{index}.png").write_bytes(encoded(GREY + np.uint8(10 * number + index)))


def read(root: Path, **options: Any) -> Source:
    return load_source("image_folder", root=root, options=options)


def test_a_folder_in_the_order_of_torchvision(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for place in ("ant/deep/a", "ant/deep-er", "ant/deep"):
        (tmp_path / "train" / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / place / "B.PNG").write_bytes(encoded(COLOUR[..., 0] + np.uint8(len(place))))
        (tmp_path / "train" / place / "notes.txt").write_text("no image")
    expected = [np.asarray(Image.open(path)) / 255 for path, _ in ImageFolder(str(tmp_path / "train")).samples]
    found = read(tmp_path)
    np.testing.assert_allclose(values_of(found.inputs, found.scaling)[:, 0], np.stack(expected), rtol=1e-6)
    assert found.labels.tolist() == [0] * 5 + [1] * 2


def test_links_do_not_multiply_examples(tmp_path: Path) -> None:
    write_folder(tmp_path)
    plain = read(tmp_path)
    train = tmp_path / "train"
    for link, target in [("ant/loop", "ant"), ("bee/up", "."), ("bee/root", ".."), ("all", ".")]:
        (train / link).symlink_to(train / target)
    (train / "ant" / ".hidden.png").write_text("no image")
    assert read(tmp_path).fingerprint == plain.fingerprint
    (train / "ant" / "other").symlink_to(train / "bee")
    with pytest.raises(UserError, match=r"must hold every folder once, got .*ant/other and .*bee, which are the same"):
        read(tmp_path)
    (train / "ant" / "other").unlink()
    (tmp_path / "elsewhere").mkdir()
    (train / "bee").rename(tmp_path / "elsewhere" / "bee")  # a link to images elsewhere is no loop
    (train / "bee").symlink_to(tmp_path / "elsewhere" / "bee")
    (tmp_path / "elsewhere" / "bee" / "up").unlink()
    (tmp_path / "elsewhere" / "bee" / "root").unlink()
    assert read(tmp_path).fingerprint == plain.fingerprint


def test_a_class_without_test_images(tmp_path: Path) -> None:
    write_folder(tmp_path, ("ant", "bee", "cow"))
    for file in (tmp_path / "test" / "bee").iterdir():
        file.unlink()
    source = read(tmp_path)
    assert (source.num_classes, source.test_labels.tolist()) == (3, [0, 0, 2, 2])  # type: ignore[union-attr]
    (tmp_path / "test" / "bee").rmdir()
    with pytest.raises(UserError, match=r"same classes in train and test, got bee in only one .* an empty folder in"):
        read(tmp_path)
    (tmp_path / "test" / "bee").mkdir()
    for file in (tmp_path / "train" / "cow").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"must hold train/CLASS/IMAGE files, got no image in .*train/cow"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "x.png, which is a named pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "x.png, which is a device"),
        (lambda path: path.symlink_to("nowhere"), r"x.png \(No such file or directory\)"),
        (lambda path: path.symlink_to(path), r"x.png \(Too many levels of symbolic links\)"),
        (lambda path: os.truncate(path, 2**43) if path.write_bytes(b"") == 0 else None, "into the .* GiB of memory"),
    ],
)
def test_files_that_never_end(tmp_path: Path, make: Any, message: str) -> None:
    write_folder(tmp_path)
    make(tmp_path / "train" / "ant" / "x.png")
    with pytest.raises(UserError, match=message):
        read(tmp_path)
