"""The transformers: sizes of published models, attention by loops, causality, initialization, and exact curvature.

Second derivatives are checked against dense Hessians in float64 at a vocabulary of 8, made without ModelLoss.
"""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from narrow import as_a
from oracles import random
from torch import Tensor, nn
from torch.func import functional_call

from trainables.models import MODELS, build_model
from trainables.models.transformer import Attention, Rotary, rotate, summed_in_order
from trainables.runtime.errors import UserError
from trainables.sharpness import GaussNewton, ModelLoss, hessian_eigenvalues
from trainables.tasks.language import Language

TOKENS: dict[str, Any] = {"input_dtype": torch.int64}
SMALL: dict[str, Any] = {"width": 8, "depth": 2, "heads": 2, "mlp_ratio": 2}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "classes", "options", "count"),
    [
        ("gpt", (1024,), 50257, {"width": 768, "depth": 12, "heads": 12, "positions": "learned"}, 124_439_808),
        ("vit", (3, 224, 224), 1000, {"patch_size": 16, "width": 768, "depth": 12, "heads": 12}, 86_567_656),
        ("vit", (3, 224, 224), 1000, {"patch_size": 16, "width": 192, "depth": 12, "heads": 3}, 5_717_416),
    ],
)
def test_published_sizes(name: str, shape: tuple[int, ...], classes: int, options: dict[str, Any], count: int) -> None:
    """GPT-2 small; ViT-B/16 and DeiT-Ti."""
    with torch.device("meta"):
        assert parameters(MODELS[name](shape, classes, **options)) == count


def attention_by_loops(layer: Attention, x: Tensor, y: Tensor, allowed: Tensor) -> Tensor:
    query, key, value = layer.query(x), layer.key(y), layer.value(y)
    d = x.shape[-1] // layer.heads
    mixed = torch.zeros_like(x)
    for n in range(len(x)):
        for h in range(layer.heads):
            part = slice(h * d, (h + 1) * d)
            for t in range(x.shape[1]):
                scores = torch.stack([query[n, t, part] @ key[n, s, part] / math.sqrt(d) for s in range(y.shape[1])])
                weights = scores.masked_fill(~allowed[n, t], -math.inf).softmax(0)
                mixed[n, t, part] = weights @ value[n, :, part]
    return layer.out(mixed)  # type: ignore[no-any-return]


@pytest.mark.parametrize("dropout", [0.0, 1e-9])  # the second is written out, and drops nothing
def test_attention_by_loops(dropout: float) -> None:
    torch.manual_seed(0)
    layer = Attention(6, 3, dropout).double().train()
    x, y = random(1, 2, 4, 6), random(2, 2, 5, 6)
    causal = torch.ones(4, 4, dtype=torch.bool).tril().expand(2, 4, 4)
    close: dict[str, Any] = {"rtol": 1e-6 if dropout else 1e-12, "atol": 1e-8 if dropout else 1e-13}
    torch.testing.assert_close(layer(x, x, is_causal=True), attention_by_loops(layer, x, x, causal), **close)
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    found = layer(x, y, mask[:, None, None, :])
    torch.testing.assert_close(found, attention_by_loops(layer, x, y, mask[:, None, :].expand(2, 4, 5)), **close)


def test_rotary_products_depend_on_the_distance_alone() -> None:
    rotary = Rotary(9, 6).double()
    torch.testing.assert_close(rotary.cos[3, 1].item(), math.cos(3 * 10_000 ** (-2 / 6)), rtol=1e-6, atol=0)  # type: ignore[index]
    query, key = random(0, 6), random(1, 6)
    cos, sin = (table.double() for table in Rotary(9, 6)(9))
    queries, keys = rotate(query.expand(9, 6), cos, sin), rotate(key.expand(9, 6), cos, sin)
    products = queries @ keys.T
    for shift in range(1, 8):
        diagonal = products.diagonal(shift)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)  # a float32 table
    assert products.diagonal(1)[0] != products.diagonal(2)[0]


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_gpt_looks_back_alone_and_sees_the_order(positions: str) -> None:
    torch.manual_seed(0)
    model = build_model("gpt", (7,), 8, **TOKENS, **SMALL, positions=positions).double().eval()
    tokens = torch.randint(8, (3, 7), generator=torch.Generator().manual_seed(0))
    logits = model(tokens)
    assert logits.shape == (3, 7, 8)
    changed = tokens.clone()
    changed[:, 4] = (tokens[:, 4] + 1) % 8
    moved = (model(changed) - logits).abs().amax((0, 2))
    assert (moved[:4] == 0).all()
    assert (moved[4:] > 0).all()
    swapped = tokens.clone()
    swapped[:, [0, 1]] = tokens[:, [1, 0]]
    differs = tokens[:, 0] != tokens[:, 1]
    assert ((model(swapped) - logits)[differs, -1].abs().amax(-1) > 1e-9).all()


def test_initial_deviations() -> None:
    """GPT-2's: 0.02, over the root of the number of residual layers in the last matrix of each."""
    torch.manual_seed(0)
    model = build_model("gpt", (8,), 64, width=256, depth=3, heads=4, **TOKENS)
    for name, weight in model.named_parameters():
        expected = 0.02 / math.sqrt(6) if name.endswith(("out.weight", "feed_forward.2.weight")) else 0.02
        if weight.ndim == 2:
            assert weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * weight.numel()))
        else:
            assert torch.equal(weight, torch.full_like(weight, float("norm.weight" in name)))
    image = build_model("vit", (3, 8, 8), 10, width=256, depth=1)
    assert image.patches.weight.std().item() == pytest.approx(1 / math.sqrt(48), rel=0.05)  # type: ignore[union-attr,operator]
    bound = math.sqrt(6 / 512)
    assert bound * 0.99 < image.stack.blocks[0].attention.query.weight.abs().max() <= bound  # type: ignore[union-attr,index]
    assert not as_a(Tensor, image.head.weight).any()  # type: ignore[union-attr]


def test_vit_takes_patches_in_order() -> None:
    torch.manual_seed(0)
    mean, token = (build_model("vit", (2, 6, 9), 5, patch_size=3, pool=pool, **SMALL) for pool in ("mean", "class"))
    assert mean.stack.positions.weight.shape == (6, 8)  # type: ignore[union-attr]
    assert token.stack.positions.weight.shape == (7, 8)  # type: ignore[union-attr]
    x = random(0, 1, 2, 6, 9).float()
    second_row = mean.patches(x).flatten(2).transpose(1, 2)[0, 3]  # type: ignore[operator]
    patch = x[0, :, 3:6, 0:3]
    expected = F.linear(patch.flatten(), mean.patches.weight.flatten(1), mean.patches.bias)  # type: ignore[union-attr,operator,arg-type]
    torch.testing.assert_close(second_row, expected)
    assert mean(x).shape == token(x).shape == (1, 5)


CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "gpt": ("gpt", (5,), {}),
    "gpt, learned, untied": ("gpt", (5,), {"positions": "learned", "tied": False}),
    "seq2seq": ("seq2seq", (2, 4), {}),
    "vit": ("vit", (2, 4, 4), {"patch_size": 2}),
    "vit, mean": ("vit", (2, 4, 4), {"patch_size": 2, "pool": "mean"}),
}


def built(case: str) -> tuple[nn.Module, Tensor, Tensor]:
    name, shape, options = CASES[case]
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    model = MODELS[name](shape, 8, **SMALL | {"width": 4, "depth": 1} | options)
    for own in model.parameters():  # of a size at which no part of the matrix is near 0
        own.data.add_(0.3 * torch.randn(own.shape, generator=generator))
    if name == "vit":
        return model.double(), random(2, 4, *shape), torch.randint(8, (4,), generator=generator)
    tokens = torch.randint(8, (4, *shape), generator=generator)
    labels = torch.randint(8, (4, shape[-1]), generator=generator)
    labels[1, 2:] = -100  # padding, in the source as well
    if name == "seq2seq":
        tokens[0, 0, 2:] = 0
    return model.double(), tokens, labels


def dense_hessian_and_gauss_newton(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """By PyTorch's own Hessian and Jacobian of the flat parameters, a shared one once, with plain attention."""
    names, owns = zip(*model.named_parameters(), strict=True)
    flat = torch.cat([own.detach().flatten() for own in owns])

    def logits(point: Tensor) -> Tensor:
        pieces = point.split([own.numel() for own in owns])
        weights = {name: piece.view_as(own) for name, piece, own in zip(names, pieces, owns, strict=True)}
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return functional_call(model, weights, (inputs,)).flatten(0, -2)  # type: ignore[no-any-return]

    hessian = torch.autograd.functional.hessian(
        lambda point: F.cross_entropy(logits(point), labels.flatten()), flat, vectorize=True
    )
    jacobians = torch.autograd.functional.jacobian(logits, flat, vectorize=True)[labels.flatten() >= 0]
    matrix = torch.zeros_like(hessian)
    for jacobian, p in zip(jacobians, logits(flat)[labels.flatten() >= 0].softmax(-1), strict=True):
        matrix += jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    return hessian, matrix / len(jacobians)


@pytest.mark.parametrize("case", CASES)
def test_curvature_is_that_of_the_dense_hessian(case: str) -> None:
    model, inputs, labels = built(case)
    task = None if case.startswith("vit") else Language()
    loss = ModelLoss(model, inputs, labels, chunk_size=3, task=task)
    assert len(loss.params) == parameters(model)  # shared ones once
    hessian, matrix = dense_hessian_and_gauss_newton(model.eval(), inputs, labels)
    directions = random(3, 5, len(loss.params))
    for objective, expected in ((loss, hessian), (GaussNewton(loss), matrix)):
        product = objective.hessian(loss.params)
        found = torch.stack([product(direction) for direction in directions])
        torch.testing.assert_close(found, directions @ expected, rtol=1e-9, atol=1e-10)
    whole = ModelLoss(model, inputs, labels, task=task)
    largest = hessian_eigenvalues(whole, whole.params, tol=1e-7)
    assert largest.converged
    assert largest.values[0].item() == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=1e-6)


def test_a_tied_matrix_is_one_parameter() -> None:
    tied, untied = (build_model("gpt", (5,), 8, **TOKENS, **SMALL, tied=tied) for tied in (True, False))
    assert parameters(untied) - parameters(tied) == 8 * 8
    assert as_a(nn.Module, tied.head).weight is as_a(nn.Module, tied.embedding).weight


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("gpt", (1, 8, 8), {}, "gpt must get sequences of tokens"),
        ("gpt", (5,), {"width": 10}, "`width` must be a multiple of `heads`, got 10 and 4"),
        ("gpt", (5,), {"width": 12}, "`width` must be an even multiple of `heads` for rotary positions"),
        ("gpt", (5,), {"positions": "none"}, "`positions` must be rotary or learned, got 'none'"),
        ("gpt", (5,), {"depth": 0}, "`depth` must be a positive integer, got 0"),
        ("gpt", (5,), {"dropout": 1}, r"`dropout` must be a number in \[0, 1\), got 1"),
        ("seq2seq", (5,), {}, "seq2seq must get pairs of token sequences"),
        ("vit", (5,), {}, "vit must get images"),
        ("vit", (1, 8, 9), {}, "`patch_size` must divide the images' 8 x 9 pixels, got 4"),
        ("vit", (1, 8, 8), {"pool": "max"}, "`pool` must be class or mean, got 'max'"),
    ],
)
def test_refuses(name: str, shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(name, shape, 8, **options)


def test_the_gradient_of_attention_may_not_be_summed_in_any_order() -> None:
    """During the backward pass of attention alone PyTorch refuses operations that are not repeatable."""
    before = torch.get_deterministic_debug_mode()
    seen: list[int] = []
    query = torch.rand(1, 2, 3, 4, requires_grad=True)
    mixed = F.scaled_dot_product_attention(query, query, query)
    summed_in_order(mixed)
    assert mixed.grad_fn is not None
    mixed.grad_fn.register_prehook(lambda _: seen.append(torch.get_deterministic_debug_mode()))
    (2 * mixed).sum().backward()
    assert seen == [2]
    assert torch.get_deterministic_debug_mode() == before
    with torch.no_grad():
        summed_in_order(F.scaled_dot_product_attention(query, query, query))
