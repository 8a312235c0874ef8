"""Bits of a channel and EXIF orientation by format: all bits are read, or the file is refused."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, features

from trainables.data import load_source
from trainables.data.images import decoder, header
from trainables.runtime.errors import UserError

GREY = np.arange(16, dtype=np.uint16).reshape(4, 4)


def tiff(content: bytes, bits: int, channels: int, white: int = 1) -> bytes:
    """4 x 4, little-endian; `white` is the photometric interpretation of a grey one."""
    long, short = 4, 3
    tags = [(256, long, 4), (257, long, 4), (258, short, bits), (259, short, 1),
            (262, short, 2 if channels > 1 else white), (273, long, 0), (277, short, channels), (278, long, 4),
            (279, long, len(content))]  # fmt: skip
    end = 8 + 2 + 12 * len(tags) + 4
    written = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    for tag, kind, value in tags:
        is_list = tag == 258 and channels > 1
        value = end if is_list else end + 2 * channels if tag == 273 else value
        written += struct.pack("<HHII", tag, kind, channels if is_list else 1, value)
    return written + struct.pack(f"<I{channels}H", 0, *[bits] * channels) + content


def packed(pixels: NDArray[np.uint16]) -> bytes:
    """12 bits for each, two in three bytes."""
    pairs = pixels.reshape(-1, 2).tolist()
    return b"".join((first << 12 | second).to_bytes(3, "big") for first, second in pairs)


def decoded(content: bytes) -> NDArray[np.float32]:
    with decoder(None) as decode:
        found = header("name", content, None, decode)
        pixels = decode(("name", content))
    assert found.size == pixels.shape[:2]
    assert found.channels == pixels.shape[2]
    return np.asarray(pixels[..., 0], dtype=np.float32)


def jpeg_2000(bits: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(buffer, "JPEG2000")
    content = bytearray(buffer.getvalue())
    content[content.find(b"\xff\x51") + 40] = bits - 1
    return bytes(content)


def avif(bits: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(buffer, "AVIF")
    content = bytearray(buffer.getvalue())
    content[content.find(b"av1C") + 6] |= {8: 0, 10: 0x40, 12: 0x60}[bits]
    depths = content.find(b"pixi") + 9
    content[depths : depths + 3] = [bits] * 3
    return bytes(content)


def test_grey_of_all_depths() -> None:
    np.testing.assert_array_equal(decoded(tiff(packed(GREY * 273), 12, 1)), GREY / np.float32(15))
    for white, expected in ((1, GREY), (0, 15 - GREY)):
        content = tiff((GREY * 4369).astype("<u2").tobytes(), 16, 1, white)
        np.testing.assert_array_equal(decoded(content), expected / np.float32(15))
    pgm = b"P5 4 4 4095\n" + (GREY * 273).astype(">u2").tobytes()
    np.testing.assert_allclose(decoded(pgm), GREY / 15, atol=2**-16)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (tiff(bytes(96), 16, 3), "TIFF of 16 bits"),
        (tiff(bytes(128), 16, 4), "TIFF of 16 bits"),
        (b"P6\n# a comment\n4 4\n65535\n" + bytes(96), "PPM of 16 bits"),
        (b"P6 4 4 1023\n" + bytes(96), "PPM of 10 bits"),
        (b"P3 1 1 65535\n65535 1 2\n", "PPM of 16 bits"),
        (jpeg_2000(12), "JPEG2000 of 12 bits"),
    ],
)
def test_colours_of_more_than_8_bits(content: bytes, told: str) -> None:
    with pytest.raises(UserError, match=f"{told} for each channel, of which 8 would be read; write PNG"):
        decoded(content)


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_avif_of_more_than_8_bits() -> None:
    assert decoded(avif(8)).shape == (16, 16)
    for bits in (10, 12):
        with pytest.raises(UserError, match=f"AVIF of {bits} bits for each channel, of which 8 would be read"):
            decoded(avif(bits))


def test_colours_of_8_bits() -> None:
    decoded(tiff(bytes(48), 8, 3))
    decoded(b"P6 4 4 255\n" + bytes(48))
    decoded(jpeg_2000(8))


@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(kind: str, orientation: int) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    image = Image.fromarray(np.stack([np.arange(32, dtype=np.uint8).reshape(4, 8) * 7] * 3, axis=-1))
    image.save(buffer, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue()))))
    np.testing.assert_allclose(decoded(buffer.getvalue()), expected[..., 0], atol=3)


def test_turned_files_of_one_size_are_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(tmp_path / f"data/{part}/{name}/0.tif", exif=exif)
    source = load_source("image_folder", root=tmp_path / "data", cache_dir=tmp_path / "cache")
    assert source.inputs.shape == (2, 3, 8, 4)
