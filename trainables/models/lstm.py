"""The LSTM language model, over characters or words: logits for the next token at every position.

    tokens (N, T) -> embedding -> dropout -> LSTM layers, dropout between them -> dropout -> linear -> logits (N, T, V)

as in Zaremba et al. 2014, "Recurrent Neural Network Regularization" (arXiv 1409.2329). With `tied` the last layer has
the embedding's weights (Press and Wolf 2017, arXiv 1608.05859). Every window starts from a state of 0 and none is
carried over, so that examples are exchangeable, as batches of any size and order need; the first tokens of a window are
therefore harder than in a run through the whole text.

Trap: cuDNN's LSTM has no second derivatives, and in eval mode none at all. So in eval mode, which the measures use, a
GPU runs PyTorch's own kernels: they have both, but take a launch for each token and layer, so they are slower. In train
mode second derivatives exist on the CPU alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from trainables.models.layers import check_dropout, check_flag, check_size
from trainables.runtime.errors import UserError

INITIAL_EMBEDDING = 0.1  # uniform in [-0.1, 0.1], of Zaremba et al.; PyTorch's N(0, 1) is too large for tied weights


class LanguageModel(nn.Module):
    """(N, T) int64 -> (N, T, V)."""

    def __init__(self, vocabulary: int, embedding: int, width: int, depth: int, dropout: float, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        nn.init.uniform_(self.embedding.weight, -INITIAL_EMBEDDING, INITIAL_EMBEDDING)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(embedding, width, depth, batch_first=True, dropout=dropout if depth > 1 else 0.0)
        self.linear = nn.Linear(width, vocabulary)
        if tied:
            self.linear.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        with nullcontext() if self.training else _without_cudnn():
            states, _ = self.lstm(self.dropout(self.embedding(tokens)))
        logits: Tensor = self.linear(self.dropout(states))
        return logits


@contextmanager
def _without_cudnn() -> Iterator[None]:
    """`torch.backends.cudnn.flags(enabled=False)` asks for TF32 too, which raises where trainables.runtime.float32
    set it.
    """
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


def lstm(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 128,
    depth: int = 2,
    embedding: int | None = None,
    dropout: float = 0.0,
    tied: bool = False,
) -> LanguageModel:
    """`depth` layers of `width` units on embeddings of `embedding` numbers (default: `width`).

    Raises UserError where the inputs are not tokens (T,), an option is out of range, or `tied` weights would differ in
    shape. Zaremba et al.'s medium network on PTB words: width 650, depth 2, dropout 0.5, context 35.
    """
    if len(input_shape) != 1:
        raise UserError(f"`model` lstm must get sequences of tokens (T,), got inputs of shape {input_shape}")
    check_dropout(dropout)
    numbers = check_size("width", width) if embedding is None else check_size("embedding", embedding)
    if check_flag("tied", tied) and numbers != width:
        raise UserError(f"`embedding` must be `width` ({width}) for tied weights, got {embedding}")
    return LanguageModel(num_classes, numbers, width, check_size("depth", depth), dropout, tied)
