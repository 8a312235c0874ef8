"""The bound model: refused where it is not the caller's own, in float32 where it has to be, and weight_norm in full."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import dense_hessian
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

from trainables.sharpness import GaussNewton, ModelLoss, hessian_eigenvalues, model_loss

INPUTS = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 3


class Layers(nn.Module):
    """Two layers, and a forward pass that is given."""

    def __init__(self, forward: Callable[["Layers", Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 3)
        self.weights = [self.first.weight]
        self.closure: Callable[[Tensor], Tensor] = lambda inputs: self.first(inputs)
        self.given, self.table = forward, torch.eye(5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.given(self, inputs)


def plain(own: Layers, inputs: Tensor) -> Tensor:
    return own.last(torch.tanh(own.first(inputs)))  # type: ignore[no-any-return]


def by_list(own: Layers, inputs: Tensor) -> Tensor:
    return own.last(torch.tanh(linear(inputs, own.weights[0], own.first.bias)))  # type: ignore[no-any-return]


def by_closure(own: Layers, inputs: Tensor) -> Tensor:
    return own.last(torch.tanh(own.closure(inputs)))  # type: ignore[no-any-return]


def checkpointed(*, reentrant: bool) -> Callable[[Layers, Tensor], Tensor]:
    def forward(own: Layers, inputs: Tensor) -> Tensor:
        hidden = own.first(inputs)
        return checkpoint(lambda it: own.last(torch.tanh(it)), hidden, use_reentrant=reentrant)  # type: ignore[no-any-return]

    return forward


def checkpointed_module(own: Layers, inputs: Tensor) -> Tensor:
    return checkpoint(own.last, torch.tanh(own.first(inputs)), use_reentrant=False)  # type: ignore[no-any-return]


def keeping(own: Layers, inputs: Tensor) -> Tensor:
    own.hidden = torch.tanh(own.first(inputs))
    return own.last(own.hidden)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (by_list, r"but its forward pass reaches first.weight in another way"),
        (by_closure, r"but its forward pass reaches first.weight, first.bias in another way"),
        (checkpointed(reentrant=False), "must not use gradient checkpointing in eval mode"),
        (checkpointed(reentrant=True), "must not use gradient checkpointing in eval mode"),
        (checkpointed_module, "must not use gradient checkpointing in eval mode"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_that_would_be_measured_at_other_weights(
    forward: Callable[[Layers, Tensor], Tensor], message: str, dtype: torch.dtype
) -> None:
    model = Layers(forward)
    with pytest.raises(ValueError, match=message):
        ModelLoss(model, INPUTS, LABELS, dtype=dtype)


@pytest.mark.parametrize("forward", [plain, keeping, by_list, checkpointed(reentrant=True)])
def test_the_comparison_leaves_the_model_alone(forward: Callable[[Layers, Tensor], Tensor]) -> None:
    model = nn.Sequential(Layers(forward), nn.BatchNorm1d(3), nn.Dropout())
    cross_entropy(model(INPUTS), LABELS).backward()
    before, gradients = copy.deepcopy(model.state_dict()), [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
    objects, state = [dict(vars(module)) for module in model.modules()], torch.get_rng_state()
    buffers = list(model.buffers())
    try:
        ModelLoss(model, INPUTS, LABELS)
    except ValueError:
        assert forward not in (plain, keeping)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], own) for name, own in model.state_dict().items())
    assert all(torch.equal(a, p.grad) for a, p in zip(gradients, model.parameters(), strict=True))  # type: ignore[arg-type]
    assert all(a is b for a, b in zip(buffers, model.buffers(), strict=True))
    for module, expected in zip(model.modules(), objects, strict=True):
        assert vars(module).keys() == expected.keys()
        assert all(vars(module)[name] is own for name, own in expected.items())


def test_kept_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hidden layer kept from training has a graph, which a copy cannot have; in float32 nothing is copied."""
    model = Layers(keeping)
    model(INPUTS)
    loss, expected = ModelLoss(model, INPUTS, LABELS), ModelLoss(Layers(plain), INPUTS, LABELS)
    monkeypatch.setattr(model_loss, "LARGE", 0)
    for objective in (loss, GaussNewton(loss)):
        reference: Any = expected if objective is loss else GaussNewton(expected)
        found, wanted = (hessian_eigenvalues(one, loss.params).values for one in (objective, reference))
        torch.testing.assert_close(found, wanted)
    single = loss.single()
    assert single is not None
    assert single._model.module is loss._model.module


def with_float32_state(own: Layers, inputs: Tensor) -> Tensor:
    state = torch.zeros(len(inputs), 5)
    return plain(own, torch.nn.functional.bilinear(inputs, 1 + state, torch.eye(5)[:, :, None].repeat(1, 1, 5)))


def one_hot(own: Layers, inputs: Tensor) -> Tensor:
    return plain(own, torch.nn.functional.one_hot(inputs.argmax(-1), 5).float())


def with_table(own: Layers, inputs: Tensor) -> Tensor:
    return plain(own, inputs @ own.table)


@pytest.mark.parametrize("forward", [with_float32_state, one_hot, with_table])
def test_float32_where_the_forward_pass_makes_float32(forward: Callable[[Layers, Tensor], Tensor]) -> None:
    loss = ModelLoss(Layers(forward), INPUTS, LABELS)
    assert loss.params.dtype == torch.float32
    model = Layers(forward)
    expected = cross_entropy(model(INPUTS), LABELS)
    gradient = torch.autograd.grad(expected, list(model.parameters()))
    value, own_gradient = loss.value_and_gradient(loss.params)
    assert value == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(own_gradient, torch.cat([one.reshape(-1) for one in gradient]), rtol=1e-4, atol=1e-6)
    assert hessian_eigenvalues(loss, loss.params).converged


def test_an_error_that_is_not_of_the_type_is_raised() -> None:
    def failing(own: Layers, inputs: Tensor) -> Tensor:
        raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        ModelLoss(Layers(failing), INPUTS, LABELS)


def normed(layer: nn.Module, dim: int) -> nn.Module:
    found: nn.Module = torch.nn.utils.parametrizations.weight_norm(layer, dim=dim)
    return found


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("normalize", [normed, lambda layer, dim: nn.utils.weight_norm(layer, dim=dim)])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weight_norm(normalize: Callable[..., nn.Module], dim: int) -> None:
    """The Hessian of w = v g / ||v||, written out; that of PyTorch's fused operation is another one."""
    torch.manual_seed(0)
    model = nn.Sequential(normalize(nn.Linear(5, 4), dim), nn.Tanh(), nn.Linear(4, 3)).double()
    loss = ModelLoss(model, INPUTS, LABELS)
    own = dict(model.named_parameters())

    def weights(params: Tensor) -> dict[str, Tensor]:
        sizes = [one.numel() for one in own.values()]
        return {n: piece.view(own[n].shape) for n, piece in zip(own, params.split(sizes), strict=True)}

    def written_out(params: Tensor) -> Tensor:
        given = list(weights(params).items())
        (g, v) = sorted((piece for name, piece in given if name[:2] == "0." and "bias" not in name), key=Tensor.numel)
        bias = next(piece for name, piece in given if name == "0.bias")
        hidden = linear(INPUTS.double(), v * g / v.square().sum(1 - dim, keepdim=True).sqrt(), bias)
        last = dict(given)
        return cross_entropy(linear(hidden.tanh(), last["2.weight"], last["2.bias"]), LABELS)

    expected = dense_hessian(written_out, loss.params)
    product = loss.hessian(loss.params)
    found = torch.stack([product(axis) for axis in torch.eye(len(loss.params), dtype=torch.float64)])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    fused = dense_hessian(
        lambda params: cross_entropy(functional_call(model, weights(params), (INPUTS.double(),)), LABELS), loss.params
    )
    assert float((fused - expected).norm()) > 0.01 * float(expected.norm())  # else the replacement is no longer needed
    eigenvalues = torch.linalg.eigvalsh(expected)
    for which, value in (("largest", eigenvalues[-1]), ("smallest", eigenvalues[0])):
        result = hessian_eigenvalues(loss, loss.params, which=which)  # type: ignore[arg-type]
        assert float(result.values[0]) == pytest.approx(float(value), rel=1e-3)
        assert result.converged
