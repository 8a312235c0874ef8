"""Squared norms of single examples' gradients in one backward pass, against autograd for one example after another."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from narrow import as_a
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from trainables.models import build_model
from trainables.tasks.by_name import load_task
from trainables.training import layer_gradients
from trainables.training.per_example_norms import PerExampleNorms

EXAMPLES = 5
Model = TypeVar("Model", bound=nn.Module)
EXACT = 1e-12  # of float64 sums of some thousand terms


class Twice(nn.Module):
    """A linear layer that is called twice, once for the sum over the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return as_a(Tensor, self.layer(self.norm(torch.tanh(self.norm(self.layer(x)))).sum(1, keepdim=True)))


class Tied(nn.Module):
    """The embedding's matrix is the last layer's, too."""

    def __init__(self, padding_idx: int | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4, padding_idx=padding_idx)
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.last.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return as_a(Tensor, self.last(torch.tanh(self.first(self.embedding(tokens)).cumsum(1))))


class Rows(nn.Module):
    """Takes the positions of all examples as rows, as many language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.layer(x.flatten(0, 1)).tanh()
        return as_a(Tensor, rows.unflatten(0, x.shape[:2]))


def floats(*shape: int) -> Tensor:
    return torch.randn(EXAMPLES, *shape, dtype=torch.float64)


def tokens() -> Tensor:
    return torch.randint(7, (EXAMPLES, 9))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), lambda: floats(4)),
    "linear, few positions": (lambda: nn.Linear(16, 16), lambda: floats(3, 16)),
    "linear, many positions": (lambda: nn.Linear(3, 2), lambda: floats(3, 11, 3)),
    "rows": (Rows, lambda: floats(6, 4)),
    "called twice": (Twice, lambda: floats(6, 4)),
    "convolution": (lambda: nn.Conv2d(3, 4, 3, padding=1), lambda: floats(3, 6, 5)),
    "convolution, strided": (lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), bias=False), lambda: floats(3, 7, 6)),
    "convolution, grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding="same"), lambda: floats(4, 5, 5)),
    "convolution, depthwise": (lambda: nn.Conv2d(4, 8, 2, groups=4, dilation=2), lambda: floats(4, 6, 6)),
    "convolution, even": (lambda: nn.Conv2d(2, 3, 4, padding="same", padding_mode="circular"), lambda: floats(2, 6, 5)),
    "convolution, 1d": (lambda: nn.Conv1d(3, 2, 3, padding=2, padding_mode="reflect"), lambda: floats(3, 8)),
    "convolution, 3d": (lambda: nn.Conv3d(2, 3, 2, stride=2), lambda: floats(2, 4, 5, 4)),
    "one position": (lambda: nn.Conv2d(3, 4, 3), lambda: floats(3, 3, 3)),
    "embedding": (lambda: nn.Embedding(7, 4), tokens),
    "embedding, padded": (lambda: nn.Embedding(7, 4, padding_idx=2), tokens),
    "tied": (Tied, tokens),
    "tied, padded": (lambda: Tied(padding_idx=1), tokens),
    "layer norm": (lambda: nn.LayerNorm((3, 4)), lambda: floats(2, 5, 3, 4)),
    "layer norm, vectors": (lambda: nn.LayerNorm(4, bias=False), lambda: floats(4)),
    "rms norm": (lambda: nn.RMSNorm(4), lambda: floats(5, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 4), lambda: floats(4, 3, 3)),
    "group norm, vectors": (lambda: nn.GroupNorm(2, 4), lambda: floats(4)),
    "instance norm": (lambda: nn.InstanceNorm2d(3, affine=True), lambda: floats(3, 4, 4)),
    "batch norm in evaluation": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3)).eval(),
        lambda: floats(2, 3, 3),
    ),
}  # fmt: skip


def loss_of(outputs: Tensor) -> Tensor:
    """One per example, none of them linear in the outputs."""
    return (outputs.flatten(1).sin() * torch.arange(1, 1 + outputs[0].numel())).sum(1)


def with_values(model: Model) -> Model:
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.double()


def one_by_one(model: nn.Module, parameters: list[nn.Parameter], inputs: Tensor) -> Tensor:
    """(N, parameters)"""
    rows = []
    for row in inputs.split(1):
        gradients = torch.autograd.grad(loss_of(model(row)).sum(), parameters, allow_unused=True)
        rows.append(torch.stack([torch.zeros(()) if g is None else g.square().sum() for g in gradients]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_norms_are_those_of_autograd(name: str) -> None:
    torch.manual_seed(0)
    build, draw = NETWORKS[name]
    model, inputs = with_values(build()), draw()
    norms = PerExampleNorms(model)
    assert set(norms.parameters) == {name for name, _ in model.named_parameters()}
    with norms.watching(len(inputs)):
        loss_of(model(inputs)).sum().backward()
    expected = one_by_one(model, list(norms.parameters.values()), inputs)
    torch.testing.assert_close(norms.squared(), expected, rtol=EXACT, atol=EXACT * float(expected.max()))
    assert bool((expected.sum(0) > 0).all())


def test_both_ways_and_all_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    left, right = torch.randn(2, 4, 3, 6, 5, dtype=torch.float64)
    one = layer_gradients.Outer(left, right)  # 6 positions, 5 x 5: directly
    expected = torch.einsum("ngto,ngtk->ngok", left, right).square().sum((1, 2, 3))
    for numbers in (2**22, 1):
        monkeypatch.setattr(layer_gradients, "CHUNK_NUMBERS", numbers)
        torch.testing.assert_close(one.squared(), expected, rtol=EXACT, atol=0)
        torch.testing.assert_close(one.inner(one), expected, rtol=EXACT, atol=0)


def test_frozen_parameters_are_left_out() -> None:
    torch.manual_seed(0)
    model = with_values(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)))
    as_a(Tensor, model[0].bias).requires_grad_(False)
    as_a(Tensor, model[2].weight).requires_grad_(False)
    norms, inputs = PerExampleNorms(model), floats(4)
    assert list(norms.parameters) == ["0.weight", "2.bias"]
    with norms.watching(EXAMPLES):
        loss_of(model(inputs)).sum().backward()
    expected = one_by_one(model, list(norms.parameters.values()), inputs)
    torch.testing.assert_close(norms.squared(), expected, rtol=EXACT, atol=0)


def test_the_pass_has_the_same_bits() -> None:
    torch.manual_seed(0)
    model, inputs = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(inplace=True)),
        torch.randn(5, 3, 6, 6),
    )
    other = copy.deepcopy(model)
    norms = PerExampleNorms(model)
    with norms.watching(5):
        loss_of(model(inputs)).sum().backward()
    loss_of(other(inputs)).sum().backward()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)  # type: ignore[arg-type]
    assert not any(module._forward_hooks for module in model.modules())


class Odd(nn.Module):
    """Layers that are used in ways of their own, beside one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.behind = nn.Linear(4, 4), nn.Linear(4, 4)
        self.positions = nn.Embedding(6, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.transposed = nn.Linear(6, 6)
        self.normed = weight_norm(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(x) + self.positions(torch.arange(6))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = self.transposed(x.transpose(0, 2)).transpose(0, 2) if len(x) == 6 else self.transposed(x.mT).mT
        x = self.normed(torch.nn.functional.linear(x, self.behind.weight, self.behind.bias))
        return x.mean(1)


def test_what_is_not_covered_is_found_out() -> None:
    torch.manual_seed(0)
    model = with_values(Odd()).float()
    inputs, labels = torch.randn(8, 6, 4), torch.randint(4, (8,))
    before, weights = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    norms = PerExampleNorms.covering(model, inputs, labels, load_task("classification"))
    assert set(norms.parameters) == {
        "plain.weight",
        "plain.bias",
        "transposed.weight",
        "transposed.bias",
        "normed.bias",
    }
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


SMALL = {"width": 8, "depth": 1}
OF_LSTM = {f"lstm.{part}_l0" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}


@pytest.mark.parametrize(
    ("network", "missing"),
    [
        (("mlp", (64,), {"widths": [8]}), set()),
        (("c1", (3, 32, 32), {"batch_norm": False}), set()),
        (("vit", (3, 8, 8), {**SMALL, "heads": 2}), {"class_token", "stack.positions.weight"}),
        (("gpt", (9,), {**SMALL, "heads": 2}), set()),
        (("lstm", (9,), {**SMALL, "embedding": 8}), OF_LSTM),
    ],
)
def test_the_networks_of_the_project(network: tuple[Any, ...], missing: set[str]) -> None:
    name, shape, options = network
    torch.manual_seed(0)
    of_tokens = len(shape) == 1 and shape[0] == 9
    input_dtype = torch.int64 if of_tokens else torch.float32
    model = build_model(name, shape, 10, input_dtype=input_dtype, **options)
    inputs = torch.randint(10, (4, *shape)) if of_tokens else torch.randn(4, *shape)
    labels = torch.randint(10, (4, *shape) if of_tokens else (4,))
    task = load_task("language" if of_tokens else "classification")
    norms = PerExampleNorms.covering(model, inputs, labels, task)
    assert {name for name, _ in model.named_parameters()} - set(norms.parameters) == missing
