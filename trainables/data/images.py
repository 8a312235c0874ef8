"""Encoded images of any kind as one array. The format is decided by all images together, never by the first one.

Pixels are float32 in [0, 1], the full range of the file's own format: 8, 12 and 16 bits, one bit, floats (which must be
in [0, 1] already). The channels of the set are (N, C, H, W) with

    C = 1   where every image is grey
    C = 3   where one has colour (palettes and CMYK are converted to RGB)
    C + 1   where one has transparent pixels: alpha is kept as a channel, since the drawing may be in it alone

Images are turned as their EXIF orientation says, and only the first frame of several is read. They must have one size,
or `size` gives them one: scaled until they cover it, then cropped around the centre.

Pillow raises almost any exception on a damaged file, so all of them are taken to mean that. It reads only the upper
8 bits of a colour PNG of 16 bits, which is left to torchvision.
"""

import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from trainables.data.files import require_regular
from trainables.runtime.errors import UserError, quoted

Encoded = Path | bytes
Pixels = NDArray[np.uint8] | NDArray[np.float32]  # (H, W, C)

EXPECTED = "readable images"
LARGEST = 10_000  # pixels that images may be scaled to
LARGEST_SHIFT = 1e6  # a mean or standard deviation of pixels in [0, 1], or in [0, 255] by mistake
PNG_DEPTH = 24  # the byte that says how many bits a channel of a PNG has
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF
FLAGS_OF_AVIF = re.compile(rb"av1C\x81.(.)", re.DOTALL)  # whether bits are many, and whether they are 12, and others
AVIF_BITS = (8, 8, 10, 12)
SIZES_OF_JPEG2000 = b"\xff\x51"  # the marker before the sizes and the bits of the first channel
PLAIN = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV")  # modes of 8 bits or fewer, without alpha
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


@dataclass(frozen=True)
class Header:
    """What is known of an image before it is decoded: height and width as it is shown, its channels, whether pixels
    have more than 8 bits, and the SHA-256 of the encoded image."""

    size: tuple[int, int]
    channels: int
    is_deep: bool
    digest: bytes


Decode = Callable[[tuple[str, Encoded]], Pixels]


@contextlib.contextmanager
def decoder(shape: tuple[int, int] | None) -> Iterator[Decode]:
    """The function that decodes a (name, image), and resizes and crops it to `shape`; it may be called by threads.

    Raises UserError for an image that cannot be read.
    """

    def decode(image: tuple[str, Encoded]) -> Pixels:
        pixels = _decode(*image)
        return _cropped(pixels, shape) if shape else pixels

    with warnings.catch_warnings():  # of the whole process, hence around all threads
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for ignored in (UserWarning, DeprecationWarning):  # of metadata, which is not read; of torchvision's reader
            warnings.simplefilter("ignore", ignored)
        yield decode


def header(name: str, encoded: Encoded, shape: tuple[int, int] | None, decode: Decode) -> Header:
    """What the header of an image says, or where it does not tell the channels, what `decode` finds."""
    with _refused(name, encoded):
        content = _bytes(encoded)
        with Image.open(io.BytesIO(content)) as image:
            is_plain = image.mode in PLAIN and "transparency" not in image.info and not _is_deep_png(image, content)
            size = image.height, image.width
            _require_all_bits(image, content)
            if is_plain and shape is None and size[0] != size[1] and image.format == "TIFF":
                is_plain = image.getexif().get(ExifTags.Base.Orientation, 1) == 1  # versions of Pillow differ in sizes
            elif is_plain and shape is None and size[0] != size[1] and _may_be_turned(image, content):
                size = size[::-1] if image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8) else size
            channels, is_deep = 1 if image.mode in ("1", "L") else 3, False
    if not is_plain:
        pixels = decode((name, content))
        size, channels, is_deep = (pixels.shape[0], pixels.shape[1]), pixels.shape[2], pixels.dtype != np.uint8
    return Header(shape or size, channels, is_deep, hashlib.sha256(content).digest())


def channels_of(colours: int, alpha: bool) -> int:
    return colours + alpha


def together(pixels: Pixels, channels: int, kind: np.dtype[Any]) -> NDArray[Any]:
    """One image as (C, H, W) of a set: grey ones repeated where it has colours, alpha of 1 where it has alpha."""
    largest = 255 if kind == np.uint8 else 1
    if pixels.dtype != kind:
        pixels = np.divide(pixels, 255, dtype=np.float32)
    own, colours = 3 if pixels.shape[2] > 2 else 1, 3 if channels > 2 else 1
    image = np.full((channels, *pixels.shape[:2]), largest, dtype=kind)
    image[:colours] = pixels.transpose(2, 0, 1)[:own]
    if pixels.shape[2] > own:
        image[colours] = pixels[..., own]
    return image


def _decode(name: str, encoded: Encoded) -> Pixels:
    """The image turned upright: 1 channel where it is grey, else 3, and one more where it is not opaque."""
    with _refused(name, encoded), Image.open(encoded if isinstance(encoded, Path) else io.BytesIO(encoded)) as image:
        image.load()
        pixels = _pixels(image, encoded)
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if pixels.shape[2] in (2, 4) and (pixels[..., -1] == (255 if pixels.dtype == np.uint8 else 1)).all():
        pixels = pixels[..., :-1]
    return _upright(pixels, orientation).copy()  # not the whole of what it was a part of


@contextlib.contextmanager
def _refused(name: str, encoded: Encoded) -> Iterator[None]:
    """Raises UserError in place of what Pillow raises on an image."""
    if isinstance(encoded, Path):
        require_regular(encoded, EXPECTED)
    try:
        yield
    except Exception as error:
        raise UserError(f"`data-dir` must hold {EXPECTED}, got {name} ({_reason(error)})") from error


def _pixels(image: Image.Image, encoded: Encoded) -> Pixels:
    mode = image.mode
    _require_all_bits(image, encoded)
    if mode.startswith("I;16") and image.format == "TIFF":
        return _of_tiff(image)
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        return _scaled(np.asarray(image))
    if mode == "I":
        raise ValueError("integers of 32 bits; write them as 8 or 16 bits, or as floats in [0, 1]")
    if mode == "F":
        values = np.asarray(image, dtype=np.float32)
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"floats from {values.min():g} to {values.max():g}; scale them to [0, 1]")
        return values[..., None]
    if _is_deep_png(image, encoded):
        return _deep_png(_bytes(encoded))
    has_alpha = mode in WITH_ALPHA or (mode in ("1", "L", "P", "RGB") and "transparency" in image.info)
    grey = mode in ("1", "L", "LA", "La")
    pixels: Pixels = np.asarray(image.convert(("LA" if grey else "RGBA") if has_alpha else "L" if grey else "RGB"))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _is_deep_png(image: Image.Image, encoded: Encoded) -> bool:
    return image.format == "PNG" and _bytes(encoded, PNG_DEPTH + 1)[PNG_DEPTH:] == b"\x10"


def _require_all_bits(image: Image.Image, encoded: Encoded) -> None:
    """Raises ValueError for colours of more than 8 bits, of which Pillow reads 8, and no reader here reads all."""
    if image.mode not in (*PLAIN, *WITH_ALPHA) or image.mode in ("1", "P", "PA"):
        return
    if image.format == "TIFF":
        bits = max(image.tag_v2.get(BITS_PER_SAMPLE, (8,)))  # type: ignore[attr-defined]
    elif image.format == "PPM":
        numbers = re.match(rb"P\d(?:\s+|#[^\n]*\n)*" + rb"\d+(?:\s+|#[^\n]*\n)+" * 2 + rb"(\d+)", _bytes(encoded, 4096))
        bits = int(numbers[1]).bit_length() if numbers else 8
    elif image.format == "JPEG2000":
        content = _bytes(encoded)
        begin = content.find(SIZES_OF_JPEG2000)
        bits = 1 + (content[begin + 40] & 127) if 0 <= begin < len(content) - 40 else 8
    elif image.format == "AVIF":
        bits = max((AVIF_BITS[flags[0] >> 5 & 3] for flags in FLAGS_OF_AVIF.findall(_bytes(encoded))), default=8)
    elif image.format == "SGI":
        bits = 8 * _bytes(encoded, 4)[3]
    else:
        return
    if bits > 8:
        raise ValueError(f"{image.format} of {bits} bits for each channel, of which 8 would be read; write PNG")


def _of_tiff(image: Image.Image) -> NDArray[np.float32]:
    """A grey TIFF of 12 or 16 bits."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    largest = 2 ** max(tags.get(BITS_PER_SAMPLE, (16,))) - 1
    pixels = np.asarray(image)
    if tags.get(PHOTOMETRIC) == 0:  # white is 0, which Pillow heeds for 8 bits alone
        pixels = largest - pixels
    return _scaled(pixels, largest)


def _may_be_turned(image: Image.Image, content: bytes) -> bool:
    """Whether to look for an orientation; a PNG that says none anywhere would be decoded in search of it."""
    return image.format != "PNG" or b"eXIf" in content or b"Raw profile type" in content


def _scaled(pixels: NDArray[Any], largest: int = 65535) -> NDArray[np.float32]:
    """Pixels of 16 bits, (H, W) or (H, W, C), as shares of the largest, (H, W, C)."""
    shares: NDArray[np.float32] = np.divide(pixels, largest, dtype=np.float32)
    return shares[..., None] if shares.ndim == 2 else shares


def _deep_png(content: bytes) -> NDArray[np.float32]:
    """A colour PNG of 16 bits for each channel."""
    import torch  # half a GiB, which other images do without
    from torchvision.io import ImageReadMode, decode_png

    decoded = decode_png(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    return _scaled(decoded.permute(1, 2, 0).numpy())


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """`pixels` turned as the EXIF orientation says, 1 to 8; any other number says nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _cropped(pixels: Pixels, shape: tuple[int, int]) -> Pixels:
    """Scaled (bilinear, averaged where it shrinks) until it covers `shape`, the rest cut off evenly."""
    if pixels.shape[:2] == shape:
        return pixels
    height, width = shape
    channels = [Image.fromarray(np.ascontiguousarray(pixels[..., index])) for index in range(pixels.shape[2])]
    return np.stack(
        [np.asarray(ImageOps.fit(channel, (width, height), Image.Resampling.BILINEAR)) for channel in channels], axis=2
    )


def size_of(size: Any) -> tuple[int, int] | None:
    """The option `size` as height and width."""
    if size is None:
        return None
    numbers = size if isinstance(size, list | tuple) else [size, size]
    if len(numbers) != 2 or any(type(number) is not int or not 1 <= number <= LARGEST for number in numbers):
        raise UserError(
            f"`size` must be the pixels of a square, or height and width as size=24,32, from 1 to {LARGEST}, "
            f"got {size!r}"
        )
    height, width = numbers
    return height, width


def numbers(option: str, given: Any, channels: int) -> tuple[float, ...]:
    """`given` for each channel."""
    listed = list(given) if isinstance(given, list | tuple) else [given] * channels
    is_valid = all(type(number) in (int, float) and abs(number) <= LARGEST_SHIFT for number in listed)
    if not is_valid or len(listed) != channels or (option == "std" and min(listed) <= 0):
        rule = "a number above 0" if option == "std" else "a number"
        raise UserError(f"`{option}` must be {rule}, or one for each of the {channels} channels, got {given!r}")
    return tuple(map(float, listed))


def _bytes(encoded: Encoded, count: int | None = None) -> bytes:
    """The first `count` bytes, or all."""
    if isinstance(encoded, bytes):
        return encoded[:count]
    with encoded.open("rb") as file:
        return file.read(-1 if count is None else count)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no image in a format that Pillow reads here"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels"
    return quoted(error) or type(error).__name__
