"""The networks of Keskar et al. 2017 (arXiv 1609.04836, appendix B): F1 for MNIST, C1 for CIFAR-10.

The softmax is part of the loss. Weights start from PyTorch's own defaults; the paper does not give its own.
"""

from math import prod

from torch import nn

from trainables.errors import UserError
from trainables.models.mlp import mlp


def f1(input_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """Fully connected, 5 hidden layers of 512, each with batch norm and ReLU."""
    return mlp(input_shape, num_classes, widths=(512,) * 5, batch_norm=True)


def c1(input_shape: tuple[int, ...], num_classes: int, *, dropout: float = 0.5) -> nn.Sequential:
    """AlexNet-like: two blocks of convolution 5x5 (64 channels), batch norm, ReLU, max pooling 3x3 with stride 2;
    then fully connected 384 and 192, each with batch norm, ReLU and dropout.

    Convolutions and pools keep "same" borders: `ceil_mode` pads the pool on the far side, as Keras does.
    Raises UserError where the inputs are not images (channels, height, width).
    """
    if len(input_shape) != 3:
        raise UserError(f"`model` c1 must get images (channels, height, width), got inputs of shape {input_shape}")
    channels, height, width = input_shape
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Conv2d(channels, 64, 5, padding="same"), nn.BatchNorm2d(64), nn.ReLU()]
        layers += [nn.MaxPool2d(3, stride=2, ceil_mode=True)]
        channels, height, width = 64, height // 2, width // 2
    layers.append(nn.Flatten())
    inputs = prod((channels, height, width))
    for outputs in (384, 192):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(dropout)]
        inputs = outputs
    layers.append(nn.Linear(inputs, num_classes))
    return nn.Sequential(*layers)
