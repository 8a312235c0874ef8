"""The encoder-decoder transformer: from a source sequence to logits for the next token of a target sequence.

    memory = encoder(embedding(source)),    logits = linear(decoder(embedding(target), memory)),    (N, T) -> (N, T, V)

as in Vaswani et al. 2017 (arXiv 1706.03762), with the blocks and the initialization of trainables.models.transformer:
norms before the layers, and a causal decoder that attends to the memory in every block. Source and target share one
vocabulary and one embedding, which is also the last layer where `tied` (section 3.4 of the paper).

Inputs are pairs (N, 2, T) of token ids as trainables.data.pairs makes them: the source, and the target behind a start
token. Nothing attends to the source's padding, token 0. Padding at the end of a target changes nothing before it.
"""

import torch
from torch import Tensor, nn

from trainables.data.pairs import PAD
from trainables.models.layers import check_flag
from trainables.models.transformer import Sizes, Stack, initialize
from trainables.runtime.errors import UserError


class Seq2Seq(nn.Module):
    """(N, 2, T) int64 -> (N, T, V), T at most `context`."""

    def __init__(self, vocabulary: int, context: int, sizes: Sizes, positions: str, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, sizes.width)
        self.encoder = Stack(sizes, context, positions)
        self.decoder = Stack(sizes, context, positions, is_causal=True, crossed=True)
        self.head = nn.Linear(sizes.width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        initialize(self)

    def forward(self, pairs: Tensor) -> Tensor:
        source, target = pairs.unbind(1)
        mask = padding_mask(source)[:, None, None, :]
        memory = self.encoder(self.embedding(source), mask)
        logits: Tensor = self.head(self.decoder(self.embedding(target), None, memory, mask))
        return logits


def padding_mask(source: Tensor) -> Tensor:
    """Where (N, T) holds tokens to attend to; the first position always, so that no softmax is over nothing."""
    return (source != PAD) | (torch.arange(source.shape[1], device=source.device) == 0)


def seq2seq(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 128,
    depth: int = 2,
    heads: int = 4,
    mlp_ratio: int = 4,
    positions: str = "rotary",
    tied: bool = True,
    dropout: float = 0.0,
) -> Seq2Seq:
    """`depth` blocks of `width` with `heads` heads in the encoder, and as many in the decoder.

    The base model of Vaswani et al.: width 512, depth 6, heads 8, dropout 0.1. Raises UserError where the inputs are
    not pairs (2, T), or an option is out of range.
    """
    if len(input_shape) != 2 or input_shape[0] != 2:
        raise UserError(
            f"`model` seq2seq must get pairs of token sequences (2, T), got inputs of shape {input_shape}; "
            "--dataset pairs reads such data"
        )
    check_flag("tied", tied)
    sizes = Sizes(width, depth, heads, mlp_ratio, dropout)
    return Seq2Seq(num_classes, input_shape[1], sizes, positions, tied)
