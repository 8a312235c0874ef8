"""The networks of Keskar et al. 2017 (arXiv 1609.04836, appendix B): F1 for MNIST, F2 for TIMIT frames, C1 and C2 for
CIFAR-10, C3 and C4, the same two, for CIFAR-100.

The softmax is part of the loss. Weights start from PyTorch's own defaults; the paper does not give its own. The
defaults of the options are the paper's networks. `width` is the number of channels of the first convolution; all other
widths of C1 and C2 keep their ratio to it (384 = 6 x 64, 192 = 3 x 64, ...).
"""

from math import ceil

from torch import nn

from trainables.models.layers import check_dropout, check_image, check_size, unit
from trainables.models.mlp import mlp


def f1(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    depth: int = 5,
    width: int = 512,
    activation: str = "relu",
    batch_norm: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Fully connected, 5 hidden layers of 512, each with batch norm and ReLU."""
    widths = (check_size("width", width),) * check_size("depth", depth)
    return mlp(input_shape, num_classes, widths=widths, batch_norm=batch_norm, activation=activation, dropout=dropout)


def f2(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    depth: int = 7,
    width: int = 512,
    activation: str = "relu",
    batch_norm: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """F1 with 7 hidden layers; the paper's has 360 inputs and 1973 classes."""
    options = {"activation": activation, "batch_norm": batch_norm, "dropout": dropout}
    return f1(input_shape, num_classes, depth=depth, width=width, **options)  # type: ignore[arg-type]


def c1(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 64,
    activation: str = "relu",
    batch_norm: bool = True,
    dropout: float = 0.5,
) -> nn.Sequential:
    """AlexNet-like: two blocks of convolution 5x5 (64 channels), batch norm, ReLU, max pooling 3x3 with stride 2;
    then fully connected 384 and 192, each with batch norm, ReLU and dropout.

    Convolutions and pools keep "same" borders: `ceil_mode` pads the pool on the far side, as Keras does.
    Raises UserError where the inputs are not images (channels, height, width).
    """
    channels, height, across = check_image("c1", input_shape)
    check_size("width", width)
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += unit(nn.Conv2d(channels, width, 5, padding="same"), activation=activation, batch_norm=batch_norm)
        layers += [nn.MaxPool2d(3, stride=2, ceil_mode=True)]
        channels, height, across = width, height // 2, across // 2
    layers.append(nn.Flatten())
    inputs = channels * height * across
    for outputs in (6 * width, 3 * width):
        dense = nn.Linear(inputs, outputs)
        layers += unit(dense, activation=activation, batch_norm=batch_norm, dropout=dropout)
        inputs = outputs
    layers.append(nn.Linear(inputs, num_classes))
    return nn.Sequential(*layers)


def c2(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 64,
    activation: str = "relu",
    batch_norm: bool = True,
    dropout: float = 0.5,
) -> nn.Sequential:
    """VGG-like: blocks of 2, 2, 3, 3, 3 convolutions 3x3 with 64, 128, 256, 512, 512 channels, each with batch norm and
    ReLU and, but for a block's last, dropout (0.3 in the first block, 0.4 in the others); max pooling 2x2 after each
    block; then dropout 0.5, fully connected 512, batch norm, ReLU, dropout 0.5.

    `dropout` is the last rate; those in the blocks keep their ratio to it (0.6 and 0.8), so 0 turns all off. Pools
    round an odd size up, so that images smaller than 32x32 pass. Raises UserError where the inputs are not images.
    """
    channels, height, across = check_image("c2", input_shape)
    check_size("width", width)
    check_dropout(dropout)
    layers: list[nn.Module] = []
    for outputs, convolutions, share in ((1, 2, 0.6), (2, 2, 0.8), (4, 3, 0.8), (8, 3, 0.8), (8, 3, 0.8)):
        for index in range(convolutions):
            layer = nn.Conv2d(channels, outputs * width, 3, padding="same")
            rate = share * dropout if index < convolutions - 1 else 0.0
            layers += unit(layer, activation=activation, batch_norm=batch_norm, dropout=rate)
            channels = outputs * width
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
        height, across = ceil(height / 2), ceil(across / 2)
    layers += [nn.Flatten(), *([nn.Dropout(dropout)] if dropout else [])]
    dense = nn.Linear(channels * height * across, 8 * width)
    layers += unit(dense, activation=activation, batch_norm=batch_norm, dropout=dropout)
    layers.append(nn.Linear(8 * width, num_classes))
    return nn.Sequential(*layers)
