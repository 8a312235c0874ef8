"""The vision transformer of Dosovitskiy et al. 2021, "An image is worth 16x16 words" (arXiv 2010.11929).

    images (N, C, H, W) -> patches (N, P, C p^2) -> linear -> + position -> dropout -> blocks -> norm -> pool -> linear

P = (H / p) (W / p). `pool` is the class token, a learned vector in front of the patches, or the mean over the patches
(Beyer et al. 2022, arXiv 2205.01580, who found the mean as good). Blocks are those of trainables.models.transformer.

Initialization is that of the authors' code: matrices Xavier uniform, the patch layer N(0, 1 / (C p^2)), positions
N(0, 0.02^2); biases (theirs N(0, 1e-12) in feed-forward layers), the class token and the last layer 0.
"""

import math

import torch
from torch import Tensor, nn

from trainables.models.layers import check_image, check_size
from trainables.models.transformer import INITIAL_DEVIATION, Sizes, Stack, check_choice
from trainables.runtime.errors import UserError

POOLS = ("class", "mean")


class ViT(nn.Module):
    """(N, channels, height, width) -> (N, classes)."""

    def __init__(self, channels: int, patches: int, classes: int, patch_size: int, sizes: Sizes, pool: str) -> None:
        super().__init__()
        width = sizes.width
        self.patches = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if pool == "class" else None
        self.stack = Stack(sizes, patches + (pool == "class"), "learned")
        self.head = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.patches.weight, std=1 / math.sqrt(channels * patch_size**2))
        nn.init.zeros_(self.patches.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.stack.positions.weight, std=INITIAL_DEVIATION)  # type: ignore[union-attr]
        nn.init.zeros_(self.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1)
        x = self.stack(x)
        logits: Tensor = self.head(x.mean(1) if self.class_token is None else x[:, 0])
        return logits


def vit(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    patch_size: int = 4,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    mlp_ratio: int = 4,
    pool: str = "class",
    dropout: float = 0.0,
) -> ViT:
    """`depth` blocks of `width` with `heads` heads on patches of patch_size x patch_size.

    ViT-B/16: patch_size 16, width 768, depth 12, heads 12, dropout 0.1. Raises UserError where the inputs are not
    images, the patches do not tile them, or an option is out of range.
    """
    channels, height, across = check_image("vit", input_shape)
    sizes = Sizes(width, depth, heads, mlp_ratio, dropout)
    check_choice("pool", pool, POOLS)
    if height % check_size("patch_size", patch_size) or across % patch_size:
        raise UserError(f"`patch_size` must divide the images' {height} x {across} pixels, got {patch_size}")
    patches = (height // patch_size) * (across // patch_size)
    return ViT(channels, patches, num_classes, patch_size, sizes, pool)
