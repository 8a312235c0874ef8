"""Parts shared by the networks: a layer with norm and activation, activations by name, and checks of their options."""

from typing import Any

from torch import nn

from trainables.runtime.errors import UserError

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def unit(layer: nn.Linear | nn.Conv2d, *, activation: str, batch_norm: bool, dropout: float = 0.0) -> list[nn.Module]:
    """`layer`, then batch norm if asked, the activation, and dropout unless its rate is 0.

    Raises UserError for an unknown activation, a `batch_norm` that is not a bool, and a rate outside [0, 1).
    """
    check_dropout(dropout)
    following = [activation_by_name(activation), *([nn.Dropout(dropout)] if dropout else [])]
    if not check_flag("batch_norm", batch_norm):
        return [layer, *following]
    norm = nn.BatchNorm2d(layer.out_channels) if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d(layer.out_features)
    return [layer, norm, *following]


def activation_by_name(name: str) -> nn.Module:
    """A new module of ACTIVATIONS; raises UserError for another name."""
    if name not in ACTIVATIONS:
        raise UserError(f"`activation` must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]()


def check_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"`{name}` must be true or false, got {value!r}")
    return value


def check_dropout(rate: Any) -> None:
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise UserError(f"`dropout` must be a number in [0, 1), got {rate!r}")


def check_size(name: str, value: Any) -> int:
    """A positive integer, such as `depth`."""
    if type(value) is not int or value < 1:
        raise UserError(f"`{name}` must be a positive integer, got {value!r}")
    return value


def check_image(model: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape, (channels, height, width)."""
    if len(input_shape) != 3:
        raise UserError(f"`model` {model} must get images (channels, height, width), got inputs of shape {input_shape}")
    return input_shape
