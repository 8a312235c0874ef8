"""The multilayer perceptron: any widths, with or without batch norm."""

from math import prod

from torch import nn

from trainables.errors import UserError


def mlp(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    widths: int | list[int] | tuple[int, ...] = (128, 128),
    batch_norm: bool = False,
) -> nn.Sequential:
    """Inputs flattened, then for each width linear, batch norm if asked, ReLU; last a linear layer to the logits.

    Raises UserError where a width is not a positive integer.
    """
    if type(widths) is int:
        widths = (widths,)
    if not isinstance(widths, list | tuple) or not all(type(width) is int and width > 0 for width in widths):
        raise UserError(f"`widths` must be positive integers such as 128,128, got {widths!r}")
    if not isinstance(batch_norm, bool):
        raise UserError(f"`batch_norm` must be true or false, got {batch_norm!r}")
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = prod(input_shape)
    for width in widths:
        layers.append(nn.Linear(inputs, width))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        inputs = width
    layers.append(nn.Linear(inputs, num_classes))
    return nn.Sequential(*layers)
