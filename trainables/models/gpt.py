"""The decoder-only transformer, a language model: logits for the next token at every position.

    tokens (N, T) -> embedding (+ position) -> dropout -> blocks with causal attention -> norm -> linear -> (N, T, V)

GPT-2 (Radford et al. 2019, "Language models are unsupervised multitask learners") with learned positions, the blocks
and the initialization of trainables.models.transformer, and the embedding's weights in the last layer where `tied`
(Press and Wolf 2017, arXiv 1608.05859). With `rotary` positions there are no position weights: every layer rotates its
queries and keys. The context T is that of the data: `--dataset-options context=256`.
"""

from torch import Tensor, nn

from trainables.models.layers import check_flag
from trainables.models.transformer import Sizes, Stack, initialize
from trainables.runtime.errors import UserError


class GPT(nn.Module):
    """(N, T) int64 -> (N, T, V), T at most `context`."""

    def __init__(self, vocabulary: int, context: int, sizes: Sizes, positions: str, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, sizes.width)
        self.stack = Stack(sizes, context, positions, is_causal=True)
        self.head = nn.Linear(sizes.width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        initialize(self)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stack(self.embedding(tokens)))
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
    check_flag("tied", tied)
    return GPT(num_classes, input_shape[0], sizes, positions, tied)
