"""The decoder-only transformer, a language model: logits for the next token at every position.

    tokens (N, T) -> embedding (+ position) -> dropout -> blocks with causal attention -> norm -> linear -> (N, T, V)

GPT-2 (Radford et al. 2019, "Language models are unsupervised multitask learners") with learned positions, the blocks
and the initialization of trainables.models.transformer, and the embedding's weights in the last layer where `tied`
(Press and Wolf 2017, arXiv 1608.05859). With `rotary` positions there are no position weights: every layer rotates its
queries and keys. The context T is that of the data: `--dataset-options context=256`.
"""

import torch
from torch import Tensor, nn

from trainables.models.layers import check_flag
from trainables.models.transformer import Rotary, Sizes, check_choice, initialize
from trainables.runtime.errors import UserError

POSITIONS = ("rotary", "learned")


class GPT(nn.Module):
    """(N, T) int64 -> (N, T, V), T at most `context`."""

    def __init__(self, vocabulary: int, context: int, sizes: Sizes, positions: str, tied: bool) -> None:
        super().__init__()
        width = sizes.width
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width) if positions == "learned" else None
        self.rotary = Rotary(context, width // sizes.heads) if positions == "rotary" else None
        self.dropout = nn.Dropout(sizes.dropout)
        self.blocks = sizes.blocks()
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        initialize(self)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions(torch.arange(length, device=tokens.device))
        rotation = None if self.rotary is None else self.rotary(length)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, is_causal=True, rotation=rotation)
        logits: Tensor = self.head(self.norm(x))
        return logits


def gpt(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    mlp_ratio: int = 4,
    positions: str = "rotary",
    tied: bool = True,
    dropout: float = 0.0,
) -> GPT:
    """`depth` blocks of `width` with `heads` heads; feed-forward layers of mlp_ratio * width.

    GPT-2 small: width 768, depth 12, heads 12, positions learned, dropout 0.1. Raises UserError where the inputs are
    not tokens (T,), or an option is out of range.
    """
    if len(input_shape) != 1:
        raise UserError(f"`model` gpt must get sequences of tokens (T,), got inputs of shape {input_shape}")
    sizes = Sizes(width, depth, heads, mlp_ratio, dropout)
    check_choice("positions", positions, POSITIONS)
    if positions == "rotary" and width // heads % 2:
        raise UserError(f"`width` must be an even multiple of `heads` for rotary positions, got {width} and {heads}")
    check_flag("tied", tied)
    return GPT(num_classes, input_shape[0], sizes, positions, tied)
