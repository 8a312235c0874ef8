"""The Gauss-Newton matrix against explicit Jacobians and where it is H; blocks against those of the dense H."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import quadratic, random
from torch import Tensor, nn
from torch.func import functional_call

from trainables.sharpness.box import box_sharpness
from trainables.sharpness.gauss_newton import GaussNewton, Restricted, coordinates
from trainables.sharpness.hessian import hessian_eigenvalues
from trainables.sharpness.model_loss import ModelLoss
from trainables.sharpness.objective import Objective

EXAMPLES = 11


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(EXAMPLES, 4, dtype=torch.float64, generator=generator)
    return inputs, torch.randint(0, 3, (EXAMPLES,), generator=generator)


def network(unit: type[nn.Module] = nn.Tanh, batch_norm: bool = False) -> nn.Sequential:
    torch.manual_seed(1)
    norms = [nn.BatchNorm1d(3), nn.BatchNorm1d(2)] if batch_norm else [nn.Identity(), nn.Identity()]
    return nn.Sequential(nn.Linear(4, 3), norms[0], unit(), nn.Linear(3, 2), norms[1], unit(), nn.Linear(2, 3)).double()


def logits_of(model: nn.Module, inputs: Tensor) -> Callable[[Tensor], Tensor]:
    names, shapes = zip(*((name, own.shape) for name, own in model.named_parameters()), strict=True)

    def logits(params: Tensor) -> Tensor:
        pieces = params.split([shape.numel() for shape in shapes])
        weights = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        return functional_call(model, weights, (inputs,))  # type: ignore[no-any-return]

    return logits


def by_jacobians(logits: Callable[[Tensor], Tensor], params: Tensor) -> Tensor:
    """G = (1/N) sum_n J_n' (diag(p_n) - p_n p_n') J_n, (n, n)."""
    jacobians = torch.autograd.functional.jacobian(logits, params)
    total = torch.zeros(len(params), len(params), dtype=torch.float64)
    for jacobian, p in zip(jacobians, logits(params).softmax(1), strict=True):
        total += jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    return total / len(jacobians)


def dense(objective: Objective, params: Tensor) -> Tensor:
    product = objective.hessian(params)
    return torch.stack([product(axis) for axis in torch.eye(len(params), dtype=params.dtype)])


@pytest.mark.parametrize("chunk_size", [None, 1, 5, EXAMPLES])
def test_against_explicit_jacobians(chunk_size: int | None) -> None:
    model, (inputs, labels) = network(), data()
    loss = ModelLoss(model, inputs, labels, chunk_size=chunk_size)
    expected = by_jacobians(logits_of(model, inputs), loss.params)
    torch.testing.assert_close(dense(GaussNewton(loss), loss.params), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_norm": "batch", "batch_size": EXAMPLES},
        {"batch_norm": "recalibrated"},
        {"batch_norm": "recalibrated", "chunk_size": 4},
    ],
)
def test_through_the_statistics_of_batch_norm(options: dict[str, Any]) -> None:
    model, (inputs, labels) = network(batch_norm=True), data()
    loss = ModelLoss(model, inputs, labels, **options)
    expected = by_jacobians(logits_of(model.train(), inputs), loss.params)
    product, directions = GaussNewton(loss).hessian(loss.params), random(2, 5, len(loss.params))
    products = torch.stack([product(direction) for direction in directions])
    torch.testing.assert_close(products, directions @ expected, rtol=1e-9, atol=1e-12)


def test_it_is_the_hessian_of_softmax_regression() -> None:
    loss = ModelLoss(nn.Linear(4, 3).double(), *data())
    expected = dense(loss, loss.params)
    torch.testing.assert_close(dense(GaussNewton(loss), loss.params), expected, rtol=1e-11, atol=1e-14)


def test_it_is_the_hessian_where_every_residual_is_zero() -> None:
    """H - G = (1/N) sum (p - y) d^2 z, so with the model's own probabilities as labels they are the same."""
    model, (inputs, labels) = network(), data()
    own = model(inputs).detach().softmax(1)
    loss, hard = ModelLoss(model, inputs, own), ModelLoss(model, inputs, labels)
    matrix = dense(GaussNewton(loss), loss.params)
    torch.testing.assert_close(matrix, dense(loss, loss.params), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(matrix, dense(GaussNewton(hard), hard.params), rtol=1e-12, atol=1e-15)
    assert (matrix - dense(hard, hard.params)).abs().max() > 1e-2


def test_attention_has_both_products() -> None:
    """PyTorch's default attention has no second derivatives; with zero residuals both are the same matrix."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(4, 2, 3, activation="gelu", batch_first=True)
    model = nn.Sequential(nn.Embedding(5, 4), encoder, nn.Flatten(), nn.Linear(12, 3)).double().eval()
    tokens = torch.randint(0, 5, (EXAMPLES, 3))
    loss = ModelLoss(model, tokens, model(tokens).detach().softmax(1), chunk_size=5)
    vector = torch.randn_like(loss.params)
    products = (objective.hessian(loss.params)(vector) for objective in (loss, GaussNewton(loss)))
    torch.testing.assert_close(*products, rtol=1e-8, atol=1e-12)


def test_one_layer_of_a_relu_network_has_the_same_block() -> None:
    """With running batch norm the logits are piecewise linear in one layer, not in two together."""
    loss = ModelLoss(network(nn.ReLU, batch_norm=True), *data())
    hessian, matrix = dense(loss, loss.params), dense(GaussNewton(loss), loss.params)
    for layer in "036":
        where = coordinates(loss, layer)
        block = torch.meshgrid(where, where, indexing="ij")
        torch.testing.assert_close(matrix[block], hessian[block], rtol=1e-10, atol=1e-13)
    assert (hessian - matrix).abs().max() > 1e-2


def test_positive_semidefinite_where_the_hessian_is_not() -> None:
    loss = ModelLoss(network(), *data())
    flat = hessian_eigenvalues(GaussNewton(loss), loss.params, which="smallest")
    assert hessian_eigenvalues(loss, loss.params, which="smallest").values[0] < -1e-3
    assert float(torch.linalg.eigvalsh(dense(GaussNewton(loss), loss.params))[0]) > -1e-14
    assert float(flat.values[0]) > -1e-14


def test_eigenvalues_and_evaluations() -> None:
    loss = ModelLoss(network(), *data(), chunk_size=6)
    matrix = GaussNewton(loss)
    found = hessian_eigenvalues(matrix, loss.params, k=3, tol=1e-8)
    expected = torch.linalg.eigvalsh(dense(GaussNewton(loss), loss.params)).flip(0)[:3]
    torch.testing.assert_close(found.values, expected, rtol=1e-9, atol=1e-12)
    assert found.converged
    assert found.evaluations == matrix.evaluations > 3
    assert matrix.value(loss.params) == loss.value(loss.params)


@pytest.mark.parametrize("names", [("0",), ("3.weight",), ("0.bias", "6"), ("0", "3", "6")])
def test_blocks_against_the_dense_hessian(names: tuple[str, ...]) -> None:
    loss = ModelLoss(network(), *data())
    where = coordinates(loss, *names)
    hessian = dense(loss, loss.params)[where][:, where]
    part = Restricted(loss, loss.params, where)
    torch.testing.assert_close(dense(part, part.params), hessian, rtol=1e-12, atol=1e-15)
    for which, end in (("largest", -1), ("smallest", 0)):
        found = hessian_eigenvalues(part, part.params, which=which, tol=1e-8)  # type: ignore[arg-type]
        assert float(found.values[0]) == pytest.approx(float(torch.linalg.eigvalsh(hessian)[end]), rel=1e-8, abs=1e-12)
    matrix = Restricted(GaussNewton(loss), loss.params, where)
    expected = dense(GaussNewton(loss), loss.params)[where][:, where]
    torch.testing.assert_close(dense(matrix, part.params), expected, rtol=1e-12, atol=1e-15)


def test_a_part_is_the_same_function_with_the_rest_held() -> None:
    loss = ModelLoss(network(), *data())
    params = loss.params.clone()
    part = Restricted(loss, params, slice(3, 9))
    moved = params.clone()
    moved[3:9] += 0.1
    value, gradient = part.value_and_gradient(part.params + 0.1)
    expected, all_gradient = loss.value_and_gradient(moved)
    assert value == part.value(part.params + 0.1) == expected
    assert torch.equal(gradient, all_gradient[3:9])
    assert torch.equal(params, loss.params)


def test_box_sharpness_of_a_part() -> None:
    """A separable quadratic, f = 1 + sum h_i (p_i - x_i)^2 / 2: only the coordinates in the part count."""
    x, h = torch.tensor([[1.0, -2.0, 0.5], [3.0, 5.0, 7.0]], dtype=torch.float64)
    objective = Objective(quadratic(torch.diag(h), torch.zeros_like(x), x, 1.0))
    part = Restricted(objective, x, torch.tensor([2, 0]))
    widths = 1e-3 * (x.abs() + 1)
    expected = 100 * float((h * widths**2)[[0, 2]].sum()) / 2 / 2
    assert box_sharpness(part, part.params).value == pytest.approx(expected, rel=1e-6)


def test_coordinates_that_cannot_be() -> None:
    loss = ModelLoss(network(), *data())
    with pytest.raises(ValueError, match=r"must be among 0\.weight, .*got '9'"):
        coordinates(loss, "0", "9")
    with pytest.raises(ValueError, match="`where` must name every coordinate once"):
        Restricted(loss, loss.params, torch.tensor([1, 1]))


def test_one_label_per_token() -> None:
    """Logits (N, T, K) linear in the weights: G is the Hessian of the mean over all tokens."""
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(6, 4, 3, generator=generator), torch.randint(0, 5, (6, 4), generator=generator)
    loss = ModelLoss(nn.Linear(3, 5), inputs, labels, chunk_size=4)
    vector = torch.randn(len(loss.params), dtype=torch.float64, generator=generator)
    torch.testing.assert_close(GaussNewton(loss).hessian(loss.params)(vector), loss.hessian(loss.params)(vector))
