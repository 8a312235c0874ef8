"""The datasets everybody knows: scikit-learn's digits (bundled, so always there), MNIST, CIFAR-10 and CIFAR-100.

The others are read in torchvision's own layout and downloaded only when asked. torchvision compares the files'
published checksums before it opens them (CIFAR's are pickles), so no foreign pickle is ever loaded.
Pixels are kept as uint8 and scaled to [0, 1] in each batch, and not normalized further, as in Keskar et al. 2017.

torchvision is imported where it is used, for it brings PyTorch's compiler, seconds and hundreds of megabytes; of
scikit-learn, which takes a second, only the file of its digits is read.
"""

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.data.files import Walk, require_regular
from trainables.data.rows import Scaling
from trainables.data.source import Source
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
    return _read_torchvision("mnist", "MNIST", root, download)


def read_cifar10(root: Path, download: bool) -> Source:
    """50000 training and 10000 test images, (3, 32, 32)."""
    return _read_torchvision("cifar10", "CIFAR10", root, download)


def read_cifar100(root: Path, download: bool) -> Source:
    """50000 training and 10000 test images, (3, 32, 32), in 100 fine classes."""
    return _read_torchvision("cifar100", "CIFAR100", root, download, num_classes=100)


def _read_torchvision(name: str, layout_name: str, root: Path, download: bool, num_classes: int = 10) -> Source:
    from torchvision import datasets

    layout = getattr(datasets, layout_name)
    expected = f"whole files of {name} in torchvision's layout"
    folder = root / getattr(layout, "base_folder", layout_name)
    try:
        for file in Walk(folder).files() if folder.is_dir() else ():
            require_regular(file, expected)
        train, test = (layout(root=str(root), train=train, download=download) for train in (True, False))
    except UserError:
        raise
    except Exception as error:  # torchvision raises many kinds on a damaged file
        way_out = "--data-dir names another folder" if download else "--download fetches it"
        raise UserError(
            f"`dataset` {name} is not complete in torchvision's layout under {root} "
            f"({quoted(error) or type(error).__name__!r}); {way_out}"
        ) from error
    return Source(
        name,
        _channels_first(np.asarray(train.data)),
        np.asarray(train.targets, dtype=np.int64),
        _channels_first(np.asarray(test.data)),
        np.asarray(test.targets, dtype=np.int64),
        num_classes=num_classes,
        scaling=Scaling(255),
    )


def _channels_first(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images (N, H, W) or (N, H, W, 3) as (N, 1, H, W) or (N, 3, H, W)."""
    return images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
