"""Curvature through attention that was written for speed: fused kernels, fast paths, large vocabularies."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import random
from torch import Tensor, nn
from torch.backends import mha
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from trainables.models import build_model
from trainables.sharpness import GaussNewton, ModelLoss
from trainables.tasks.language import Language

EXAMPLES, LENGTH, WIDTH = 5, 4, 4


class Fused(nn.Module):
    """Asks for the fused kernel by itself, in `F.scaled_dot_product_attention` or nn.MultiheadAttention."""

    def __init__(self, is_multihead: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True) if is_multihead else None
        self.out = nn.Linear(LENGTH * WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        heads = x.view(*x.shape[:2], 2, 2).transpose(1, 2)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            if self.attention is not None:
                x = self.attention(x, x, x, need_weights=False)[0]
            else:
                scaled = heads * self.out.weight[0, 0]
                x = F.scaled_dot_product_attention(scaled, heads, heads).transpose(1, 2)
        return self.out(x.flatten(1))  # type: ignore[no-any-return]


class Padded(nn.Module):
    """The mean over all positions, also those that are masked."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 6, batch_first=True)
        self.encoder, self.out = nn.TransformerEncoder(layer, 2), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.arange(LENGTH) >= torch.arange(len(x))[:, None] % 3 + 1
        return self.out(self.encoder(x, src_key_padding_mask=mask.expand(len(x), -1)).mean(1))  # type: ignore[no-any-return]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "fused": lambda: Fused(False),
    "fused in multihead": lambda: Fused(True),
    "fast path": Padded,
}


@pytest.mark.parametrize("name", MODELS)
def test_products_are_differences_of_gradients(name: str) -> None:
    """With step 1e-5 a central difference has an error of 1e-10 times the third derivative, and 1e-16 / 1e-5."""
    torch.manual_seed(0)
    model = MODELS[name]().double()
    inputs, labels = random(1, EXAMPLES, LENGTH, WIDTH), torch.arange(EXAMPLES) % 3
    loss = ModelLoss(model, inputs, labels)
    value, gradient = loss.value_and_gradient(loss.params)
    assert loss.value(loss.params) == pytest.approx(value, rel=1e-13)
    loss.certify(loss.params)
    direction = random(2, len(loss.params))
    ahead, behind = (loss.value_and_gradient(loss.params + step * direction)[1] for step in (1e-5, -1e-5))
    slope = (loss.value(loss.params + 1e-5 * direction) - loss.value(loss.params - 1e-5 * direction)) / 2e-5
    assert float(gradient @ direction) == pytest.approx(slope, rel=1e-6)
    torch.testing.assert_close(loss.hessian(loss.params)(direction), (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-7)
    assert mha.get_fastpath_enabled()


class _Largest(TorchDispatchMode):
    """The numbers of the largest tensor that is made inside."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


def test_a_large_vocabulary_needs_no_square_matrix() -> None:
    """Neither a Gauss-Newton nor a Hessian product makes a tensor larger than the parameters."""
    vocabulary, count, length = 3000, 2, 3
    torch.manual_seed(0)
    model = build_model("gpt", (length,), vocabulary, input_dtype=torch.int64, width=8, depth=1, heads=2)
    tokens = torch.randint(vocabulary, (2, count, length))
    loss = ModelLoss(model, *tokens, task=Language())
    direction = torch.ones_like(loss.params)
    with _Largest() as largest:  # type: ignore[no-untyped-call]
        for objective in (GaussNewton(loss), loss):
            assert objective.hessian(loss.params)(direction).isfinite().all()
    assert largest.numbers <= len(loss.params) < vocabulary**2 / 300
