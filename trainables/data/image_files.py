"""Image classification from a folder of your own: `train/CLASS/IMAGE` and `test/CLASS/IMAGE`, in folders below as well.

The classes are the folders in `train`, numbered by name, and the order of the examples is that of torchvision's
ImageFolder. Hidden files, and files whose names do not end as those of images do, are left out. A class without test
images needs an empty folder in `test`, so that a class that was forgotten is told from one that has none.
What the images become, and the options `size`, `mean` and `std`, are described in trainables/data/images.py.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.data.decoded import EncodedImages, image_source
from trainables.data.files import Walk
from trainables.data.source import Source
from trainables.runtime.errors import UserError

ENDINGS = {
    ".apng", ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff",
    ".webp",
}  # fmt: skip


def read_image_folder(
    root: Path, download: bool, *, size: object = None, mean: object = None, std: object = None
) -> Source:
    """Inputs (N, C, H, W), decoded into the cache, labels (N,).

    Raises UserError where there is no such folder, the classes of the two parts differ, or an image cannot be used.
    """
    classes = {part: _classes(root, part) for part in ("train", "test")}
    if classes["train"].keys() != classes["test"].keys():
        differing = sorted(classes["train"].keys() ^ classes["test"].keys())
        raise UserError(
            f"`data-dir` must have the same classes in train and test, got {', '.join(differing[:5])} in only one of "
            f"them ({len(differing)} such); an empty folder in test says that a class has no test images"
        )
    parts = [
        [(file, label) for label, files in enumerate(found.values()) for file in files] for found in classes.values()
    ]

    def read() -> tuple[list[EncodedImages], list[NDArray[np.int64]], int]:
        labels = [np.array([label for _, label in part], dtype=np.int64) for part in parts]
        return [_Files([file for file, _ in part]) for part in parts], labels, len(classes["train"])

    files = [file for part in parts for file, _ in part]
    names = {"classes": list(classes["train"])}
    return image_source("image_folder", root, files, read, names, size=size, mean=mean, std=std)


class _Files:
    """Images in files of their own."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def images(self, rows: NDArray[np.int64] | None = None) -> Iterator[tuple[str, Path]]:
        chosen = self._files if rows is None else (self._files[row] for row in rows)
        return ((str(file), file) for file in chosen)


def _classes(root: Path, part: str) -> dict[str, list[Path]]:
    """The images of each class of a part."""
    try:
        walk = Walk(root / part)
        classes = {
            folder.name: [file for file in walk.files(folder) if file.suffix.lower() in ENDINGS]
            for folder in walk.folders()
        }
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        way_out = "; rename val to test" if part == "test" and (root / "val").is_dir() else ""
        raise UserError(
            f"`data-dir` must hold {part}/CLASS/IMAGE files, got {root / part} ({reason}){way_out}"
        ) from error
    without = [name for name, files in classes.items() if not files]
    if without and part == "train":
        raise UserError(f"`data-dir` must hold train/CLASS/IMAGE files, got no image in {root / part / without[0]}")
    if not classes:
        raise UserError(f"`data-dir` must hold {part}/CLASS/IMAGE files, got no folder in {root / part}")
    return classes
