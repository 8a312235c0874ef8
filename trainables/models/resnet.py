"""The residual networks for CIFAR of He et al. 2016, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385),
section 4.2: depth 6n + 2, with 0.27 million parameters at depth 20.

    x -> convolution 3x3 (width) -> 3 stages of n blocks, width, 2 width, 4 width channels, the size halved between them
      -> mean over the image -> linear,    a block: x -> act(shortcut(x) + norm(conv(act(norm(conv(x))))))

Shortcuts have no parameters (option A): the identity, where the size halves every other pixel with zeros for the new
channels. Convolutions start as in He et al. 2015 (arXiv 1502.01852). Without batch norm the last convolution of every
block starts at 0, so that each block starts as its shortcut; else the signal would double with every block.
"""

from torch import Tensor, nn
from torch.nn.functional import pad

from trainables.models.layers import check_image, check_size, unit
from trainables.runtime.errors import UserError


class Block(nn.Module):
    """Two convolutions 3x3 (N, inputs, H, W) -> (N, outputs, H', W') beside a shortcut; H' = ceil(H / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str, batch_norm: bool) -> None:
        super().__init__()
        first, second = _convolution(inputs, outputs, batch_norm, stride), _convolution(outputs, outputs, batch_norm)
        *layers, last = unit(second, activation=activation, batch_norm=batch_norm)
        self.branch = nn.Sequential(*unit(first, activation=activation, batch_norm=batch_norm), *layers)
        self.activation = last
        self.stride, self.added = stride, outputs - inputs
        if not batch_norm:
            nn.init.zeros_(second.weight)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        out: Tensor = self.activation(self.branch(x) + shortcut)
        return out


def resnet(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    depth: int = 20,
    width: int = 16,
    activation: str = "relu",
    batch_norm: bool = True,
) -> nn.Sequential:
    """ResNet of `depth` 6n + 2 (20, 32, 44, 56, 110 in the paper), `width` channels in the first stage.

    Any image size will do. Raises UserError for another depth, and where the inputs are not images.
    """
    channels, _, _ = check_image("resnet", input_shape)
    check_size("width", width)
    blocks, rest = divmod(check_size("depth", depth) - 2, 6)
    if rest or not blocks:
        raise UserError(f"`depth` must be 6n + 2 for resnet, such as 8, 14, 20, 32 or 56, got {depth}")
    layers = unit(_convolution(channels, width, batch_norm), activation=activation, batch_norm=batch_norm)
    inputs = width
    for stage in range(3):
        for block in range(blocks):
            outputs = width * 2**stage
            layers.append(Block(inputs, outputs, 2 if stage and not block else 1, activation, batch_norm))
            inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes)]
    return nn.Sequential(*layers)


def _convolution(inputs: int, outputs: int, batch_norm: bool, stride: int = 1) -> nn.Conv2d:
    """3x3; batch norm makes a bias of its own needless."""
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=not batch_norm)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
