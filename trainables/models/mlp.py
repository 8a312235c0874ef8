"""The multilayer perceptron: any widths, with or without batch norm and dropout."""

from math import prod

from torch import nn

from trainables.models.layers import unit
from trainables.runtime.errors import UserError


def mlp(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    widths: int | list[int] | tuple[int, ...] = (128, 128),
    batch_norm: bool = False,
    activation: str = "relu",
    dropout: float = 0.0,
) -> nn.Sequential:
    """Inputs flattened, then for each width linear, batch norm if asked, activation, dropout; last a linear layer to
    the logits.

    Raises UserError where a width is not a positive integer, or another option is out of range.
    """
    if type(widths) is int:
        widths = (widths,)
    if not isinstance(widths, list | tuple) or not all(type(width) is int and width > 0 for width in widths):
        raise UserError(f"`widths` must be positive integers such as 128,128, got {widths!r}")
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = prod(input_shape)
    for width in widths:
        layers += unit(nn.Linear(inputs, width), activation=activation, batch_norm=batch_norm, dropout=dropout)
        inputs = width
    layers.append(nn.Linear(inputs, num_classes))
    return nn.Sequential(*layers)
