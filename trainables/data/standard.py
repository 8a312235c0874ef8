"""The datasets everybody knows: scikit-learn's digits (bundled, so always there), MNIST, CIFAR-10 and CIFAR-100.

The others are read in torchvision's own layout and downloaded only when asked. torchvision compares the files'
published checksums before it opens them (CIFAR's are pickles), so no foreign pickle is ever loaded.
Pixels are kept as uint8 and scaled to [0, 1] in each batch, and not normalized further, as in Keskar et al. 2017.

What torchvision has read is kept in the cache. It brings PyTorch's compiler, seconds and hundreds of megabytes, so it
is imported at the first start alone. Of scikit-learn, which takes a second, only the file of its digits is read.
"""

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.data.cache import Arrays, Entry
from trainables.data.files import Walk, require_regular
from trainables.data.rows import Scaling
from trainables.data.source import ARRAYS, Source
from trainables.runtime.errors import UserError, quoted

DIGITS_TRAIN_SIZE = 300  # few enough for the large-batch gap to show; the other 1497 images test


def read_digits(root: Path, download: bool) -> Source:
    """1797 images of 8x8 pixels in one pool, (1, 8, 8) (scikit-learn; UCI optical digits)."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None  # a dependency
    assert package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",")
    images, labels = table[:, :-1], table[:, -1]
    return Source(
        "digits",
        (images / 16.0).astype(np.float32).reshape(-1, 1, 8, 8),
        labels.astype(np.int64),
        None,
        None,
        num_classes=10,
        default_train_size=DIGITS_TRAIN_SIZE,
    )


def read_mnist(root: Path, download: bool) -> Source:
    """60000 training and 10000 test images, (1, 28, 28)."""
    return _read_torchvision("mnist", "MNIST", "MNIST", root, download)


def read_cifar10(root: Path, download: bool) -> Source:
    """50000 training and 10000 test images, (3, 32, 32)."""
    return _read_torchvision("cifar10", "CIFAR10", "cifar-10-batches-py", root, download)


def read_cifar100(root: Path, download: bool) -> Source:
    """50000 training and 10000 test images, (3, 32, 32), in 100 fine classes."""
    return _read_torchvision("cifar100", "CIFAR100", "cifar-100-python", root, download, num_classes=100)


def _read_torchvision(name: str, layout: str, folder: str, root: Path, download: bool, num_classes: int = 10) -> Source:
    """The source of the class `layout` of torchvision, whose files are in `folder` below `root`."""

    def files() -> list[Path]:
        found = list(Walk(root / folder).files()) if (root / folder).is_dir() else []
        for file in found:
            require_regular(file, f"whole files of {name} in torchvision's layout")
        return found

    def read() -> tuple[Arrays, dict[str, str]]:
        try:
            from torchvision import datasets

            kind = getattr(datasets, layout)
            parts = [kind(root=str(root), train=train, download=download) for train in (True, False)]
        except Exception as error:  # torchvision raises many kinds on a damaged file
            way_out = "--data-dir names another folder" if download else "--download fetches it"
            raise UserError(
                f"`dataset` {name} is not complete in torchvision's layout under {root} "
                f"({quoted(error) or type(error).__name__!r}); {way_out}"
            ) from error
        images = [_channels_first(np.asarray(part.data)) for part in parts]
        labels = [np.asarray(part.targets, dtype=np.int64) for part in parts]
        return dict(zip(ARRAYS, (images[0], labels[0], images[1], labels[1]), strict=True)), {}

    if not (found := files()):
        read()  # downloads them, or raises
        found = files()
    entry = Entry.of(name, root, found, {})
    kept, _ = entry.arrays(ARRAYS, read)
    images, labels, *test = (np.array(kept[one]) for one in ARRAYS)  # so that Ray brings them to machines without files
    source = Source(name, images, labels, test[0], test[1], num_classes=num_classes, scaling=Scaling(255))
    vars(source)["fingerprint"] = entry.fingerprint("values", lambda: source.fingerprint)
    return source


def _channels_first(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images (N, H, W) or (N, H, W, 3) as (N, 1, H, W) or (N, 3, H, W)."""
    return images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
