"""Attention with dropout: micro-batches, workers and the whole batch draw the same masks, whoever wrote the network.

In float64. Sums of at most 400 terms in another order differ by 400 * 2^-53 = 4e-14 of their terms, through a network
of a few layers with weights of size 1; the tolerance is 1e-9.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models import build_model
from trainables.training.parallel import Workers
from trainables.training.parts import Parts

COUNT, LENGTH, WIDTH = 9, 4, 6  # 9 examples: parts of 4, 4, 1


class OwnAttention(nn.Module):
    """As users write it: `F.scaled_dot_product_attention` with dropout, grouped queries and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.other = nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).view(*x.shape[:2], 4, 2).transpose(1, 2)
        key, value = self.other(x).view(*x.shape[:2], 2, 4).transpose(1, 2).chunk(2, -1)
        rate = 0.4 if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            query, key, value, dropout_p=rate, is_causal=True, scale=0.3, enable_gqa=True
        )
        return mixed.transpose(1, 2).flatten(2)


class Multihead(nn.Module):
    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, dropout=0.4, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=self.need_weights)[0]  # type: ignore[no-any-return]


class StochasticDepth(nn.Linear):
    """As in timm and torchvision: an example skips the layer, or does not."""

    def forward(self, x: Tensor) -> Tensor:
        kept = x.new_empty(len(x), 1, 1).bernoulli_(0.6) if self.training else 1
        return x + super().forward(x) * kept


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "gpt": lambda: build_model("gpt", (LENGTH,), 8, input_dtype=torch.int64, width=8, depth=2, heads=2, dropout=0.3),
    "own attention": OwnAttention,
    "multihead, fused": lambda: Multihead(False),
    "multihead, weights": lambda: Multihead(True),
    "encoder": lambda: nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.3, batch_first=True),
    "stochastic depth": lambda: StochasticDepth(WIDTH, WIDTH),
}


def gradients(name: str, micro_batch_size: int | None, rank: int = 0, count: int = 1) -> list[Tensor]:
    """Loss and gradient of the mean of cubes, of one worker's parts, with the random numbers of seed 2."""
    torch.manual_seed(0)
    model = NETWORKS[name]().double().train()
    tokens = torch.randint(8, (COUNT, LENGTH))
    inputs = tokens if name == "gpt" else torch.randn(COUNT, LENGTH, WIDTH, dtype=torch.float64)
    total: list[Tensor] = []
    parts = Parts(model, Workers(rank, count), micro_batch_size, None)
    torch.manual_seed(2)

    def add(part: object) -> None:
        rows, weight = part.rows, part.weight  # type: ignore[attr-defined]
        loss = model(inputs[rows]).pow(3).mean() * weight
        loss.backward()
        total.append(loss.detach())

    if micro_batch_size is None and count == 1:
        loss = model(inputs).pow(3).mean()
        loss.backward()
        total.append(loss.detach())
    else:
        parts.run(COUNT, add)
    state = torch.get_rng_state().double()
    return [torch.stack(total).sum(), state, *(own.grad for own in model.parameters() if own.grad is not None)]


@pytest.mark.parametrize("name", NETWORKS)
def test_parts_come_to_the_gradient_of_the_whole_batch(name: str) -> None:
    whole = gradients(name, None)
    for size in (1, 4):
        parts = gradients(name, size)
        assert len(whole) == len(parts) > 2
        for expected, found in zip(whole, parts, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NETWORKS)
def test_workers_sum_to_the_gradient_of_the_whole_batch(name: str) -> None:
    whole = gradients(name, None)
    each = [gradients(name, 3, rank, 2) for rank in range(2)]
    assert torch.equal(each[0][1], each[1][1])  # both have drawn the same numbers
    for place in (0, *range(2, len(whole))):
        torch.testing.assert_close(each[0][place] + each[1][place], whole[place], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NETWORKS)
def test_something_is_dropped(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().double().train()
    inputs = torch.randint(8, (2, LENGTH)) if name == "gpt" else torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    assert not torch.equal(model(inputs), model(inputs))
