"""What the transformers share: attention, the block around it, rotary positions, and GPT-2's initialization.

    attention(x, y) = softmax(Q K^T / sqrt(d) + mask) V,    Q = W_q x, K = W_k y, V = W_v y, for each head of width d
    block(x)        = z + feed_forward(norm(z)),            z = x + attention(norm(x), norm(x))

as in Vaswani et al. 2017, "Attention is all you need" (arXiv 1706.03762), with the norms before the layers, not after
them (Xiong et al. 2020, "On layer normalization in the transformer architecture", arXiv 2002.04745). Dropout follows
each of the two layers and, as in the paper, acts on the attention weights.

Q, K and V have a matrix each, so that Muon orthogonalizes, and per-layer measures see, one linear map at a time.

Trap: PyTorch's fused attention draws its dropout masks where nobody else can see them. Attention with dropout is
therefore written out here, so that the masks do not depend on how a batch is cut (trainables.training.parts).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.layers import check_dropout, check_size
from trainables.runtime.errors import UserError

INITIAL_DEVIATION = 0.02  # of GPT-2's weights
POSITIONS = ("rotary", "learned")
ROTARY_BASE = 10_000.0
WARN = 1  # of PyTorch's modes for operations that are not deterministic


@dataclass(frozen=True)
class Sizes:
    """What all transformers choose. Raises UserError for sizes that are not positive integers, heads that do not divide
    the width, and a dropout rate outside [0, 1).
    """

    width: int
    depth: int
    heads: int
    mlp_ratio: int
    dropout: float

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "mlp_ratio"):
            check_size(name, getattr(self, name))
        check_dropout(self.dropout)
        if self.width % self.heads:
            raise UserError(f"`width` must be a multiple of `heads`, got {self.width} and {self.heads}")


class Attention(nn.Module):
    """(N, T, width) and (N, S, width) -> (N, T, width), with `heads` heads of width / heads each."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        mask: Tensor | None = None,
        is_causal: bool = False,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """`mask` broadcasts to (N, heads, T, S) and is true where attention is allowed; `is_causal` allows s <= t."""
        query, key, value = self._split(self.query(x)), self._split(self.key(y)), self._split(self.value(y))
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        if self.training and self.dropout.p > 0:
            mixed = self.dropout(_weights(query, key, mask, is_causal)) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_causal)
            if mixed.is_cuda and not torch.compiler.is_compiling():
                summed_in_order(mixed)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (N, heads, T, width / heads)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


def summed_in_order(mixed: Tensor) -> None:
    """Has the gradient of what `F.scaled_dot_product_attention` returned be the same bits every time on a GPU.

    Its fused kernels sum in any order unless PyTorch is told to refuse operations that would; a warning is not enough.
    Elsewhere a trial only warns, since networks of others may hold such operations.
    """
    node, before = mixed.grad_fn, min(torch.get_deterministic_debug_mode(), WARN)  # one that raised left "error"
    if node is not None:
        node.register_prehook(lambda _: torch.set_deterministic_debug_mode("error"))
        node.register_hook(lambda *_: torch.set_deterministic_debug_mode(before))


class FeedForward(nn.Sequential):
    """linear (to ratio * width), GELU, linear (back to width)."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))


class Block(nn.Module):
    """Self-attention and a feed-forward layer; with `crossed`, attention to another sequence between them."""

    def __init__(self, width: int, heads: int, ratio: int, dropout: float, *, crossed: bool = False) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        if crossed:
            self.cross_norm = nn.LayerNorm(width)
            self.cross_attention = Attention(width, heads, dropout)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, ratio)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        is_causal: bool = False,
        rotation: tuple[Tensor, Tensor] | None = None,
        other: Tensor | None = None,
        other_mask: Tensor | None = None,
    ) -> Tensor:
        """(N, T, width) -> (N, T, width); `other` (N, S, width) is what a crossed block attends to."""
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, normed, mask, is_causal, rotation))
        if other is not None:
            x = x + self.dropout(self.cross_attention(self.cross_norm(x), other, other_mask))
        out: Tensor = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return out


class Stack(nn.Module):
    """Positions, dropout, `depth` blocks and a last norm: embedded (N, T, width) -> (N, T, width), T <= `length`.

    Raises UserError for `positions` that are neither rotary nor learned, and heads of odd width with rotary ones.
    """

    def __init__(
        self, sizes: Sizes, length: int, positions: str, *, is_causal: bool = False, crossed: bool = False
    ) -> None:
        super().__init__()
        check_choice("positions", positions, POSITIONS)
        width, heads = sizes.width, sizes.heads
        if positions == "rotary" and width // heads % 2:
            raise UserError(
                f"`width` must be an even multiple of `heads` for rotary positions, got {width} and {heads}"
            )
        self.positions = nn.Embedding(length, width) if positions == "learned" else None
        self.rotary = Rotary(length, width // heads) if positions == "rotary" else None
        self.dropout = nn.Dropout(sizes.dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, sizes.mlp_ratio, sizes.dropout, crossed=crossed) for _ in range(sizes.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.is_causal = is_causal

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        other: Tensor | None = None,
        other_mask: Tensor | None = None,
    ) -> Tensor:
        length = x.shape[1]
        if self.positions is not None:
            x = x + self.positions(torch.arange(length, device=x.device))
        rotation = None if self.rotary is None else self.rotary(length)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, mask, self.is_causal, rotation, other, other_mask)
        out: Tensor = self.norm(x)
        return out


class Rotary(nn.Module):
    """The rotation of positions 0 .. length - 1: (cos, sin) of the angles t * 10000^(-2 i / d), (length, d / 2) each.

    Su et al. 2021, "RoFormer" (arXiv 2104.09864): queries and keys are rotated by their positions, so that their
    products depend on the distance alone.
    """

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        rates = ROTARY_BASE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles = torch.outer(torch.arange(length, dtype=torch.float64), rates)
        self.register_buffer("cos", angles.cos().to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("sin", angles.sin().to(torch.get_default_dtype()), persistent=False)

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        return self.cos[:length], self.sin[:length]  # type: ignore[index]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (x_i, x_{i + d/2}) of (..., T, d) by the angle of its position."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


def initialize(model: nn.Module) -> None:
    """GPT-2's weights (Radford et al. 2019, section 2.3): matrices and embeddings N(0, 0.02^2), biases 0, norms 1; the
    last matrix of each residual layer smaller by the square root of their number.
    """
    last = []
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, Attention):
            last.append(module.out)
        if isinstance(module, FeedForward):
            last.append(module[-1])  # type: ignore[arg-type]
    for layer in last:
        nn.init.normal_(layer.weight, std=INITIAL_DEVIATION / math.sqrt(len(last)))


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise UserError for an option that is none of `choices`."""
    if value not in choices:
        raise UserError(f"`{name}` must be {' or '.join(choices)}, got {value!r}")


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    """(N, heads, T, S), what `F.scaled_dot_product_attention` multiplies the values by."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1)
