"""Against PyHessian 0.1: right for products, for a dominant positive eigenvalue, and for a trace without early stop."""

import copy
import math
from typing import Any

import pytest
import torch
from networks import Network, Quadratic, first, trained_network
from torch import Tensor, nn

from trainables.sharpness import ModelLoss, hessian_eigenvalues
from trainables.sharpness.spectrum import spectral_density
from trainables.sharpness.trace import hessian_trace

pyhessian = pytest.importorskip("pyhessian")
pytestmark = pytest.mark.filterwarnings("ignore:Using backward")

DUMMY = torch.zeros(1), torch.zeros(1)


def of_network(network: Network) -> Any:
    model, data = copy.deepcopy(network.model), (network.inputs, network.labels)
    return pyhessian.hessian(model, nn.CrossEntropyLoss(), data=data, cuda=False)


def of_quadratic(hessian: Tensor) -> Any:
    return pyhessian.hessian(Quadratic(hessian), first, data=DUMMY, cuda=False)


def test_products() -> None:
    network = trained_network()
    theirs = of_network(network)
    vector = torch.randn(len(network.hessian), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pieces = vector.split([parameter.numel() for parameter in theirs.params])
    like = [piece.view_as(parameter) for piece, parameter in zip(pieces, theirs.params, strict=True)]
    product = pyhessian.hessian_vector_product(theirs.gradsH, theirs.params, like)
    ours = network.loss.hessian(network.loss.params)(vector)
    torch.testing.assert_close(ours, network.hessian @ vector, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.cat([piece.reshape(-1) for piece in product]), ours, rtol=1e-10, atol=1e-12)


def test_largest_eigenvalue_where_it_is_the_largest_in_magnitude() -> None:
    """Each iteration shrinks the error by r^2, r = |lambda_2 / lambda_1|, and it returns the last estimate but one,
    off by the change, tol, over 1 - r^2. Its unit vectors, v / (||v|| + 1e-6), add 2e-6 / lambda_1."""
    network = trained_network()
    torch.manual_seed(0)
    (theirs,), _ = of_network(network).eigenvalues(maxIter=1000, tol=1e-5)
    ours = float(hessian_eigenvalues(network.loss, network.loss.params, tol=1e-8).values[0])
    second, largest = network.eigenvalues.abs().sort().values[-2:].tolist()
    assert ours == pytest.approx(float(network.eigenvalues[-1]), rel=1e-8)
    ratio = (second / largest) ** 2
    assert theirs == pytest.approx(ours, rel=1e-5 / (1 - ratio) + 2e-6 / largest)


def test_its_eigenvalue_is_the_largest_in_magnitude() -> None:
    """Power iteration goes to the largest |eigenvalue|: at an indefinite point, here -5, which is not sharpness."""
    hessian = torch.diag(torch.tensor([-5.0, 3.0, 1.0]))
    torch.manual_seed(0)
    (theirs,), _ = of_quadratic(hessian).eigenvalues(maxIter=1000, tol=1e-6)
    loss = Quadratic(hessian).loss
    assert theirs == pytest.approx(-5, rel=1e-4)
    for which, value in (("largest", 3), ("smallest", -5)):
        ours = hessian_eigenvalues(loss, torch.ones(3), which=which)  # type: ignore[arg-type]
        assert float(ours.values[0]) == pytest.approx(value, rel=1e-5)


def test_trace() -> None:
    """Its Rademacher samples have variance 2 sum_{i != j} H_ij^2; with tol=0 it takes them all."""
    network = trained_network()
    torch.manual_seed(0)
    samples = torch.tensor(of_network(network).trace(maxIter=500, tol=0)).double()
    off_diagonal = network.hessian - torch.diag(network.hessian.diag())
    stderr = math.sqrt(2 * float((off_diagonal**2).sum()) / 500)
    exact = float(network.hessian.trace())
    ours = hessian_trace(network.loss, network.loss.params, samples=len(network.hessian))  # n products: exact
    assert len(samples) == 500
    assert ours.value == pytest.approx(exact, rel=1e-10)
    assert abs(float(samples.mean()) - exact) <= 4 * stderr


def test_its_trace_stops_at_a_coincidence() -> None:
    """It stops when two running means agree, divided by the mean with its sign: below zero after the second sample.

    Here z' H z is 9 or -11, with mean -1: two samples tell next to nothing, and its result does not say so.
    Ours has a standard error, and computes a trace that costs no more than its samples exactly.
    """
    hessian = torch.tensor([[-0.5, 5.0], [5.0, -0.5]])
    runs = []
    for seed in range(20):
        torch.manual_seed(seed)
        runs.append(of_quadratic(hessian).trace())
    early = [run for run in runs if len(run) == 2]
    assert any(abs(sum(run) / 2 + 1) > 5 for run in early)
    ours = hessian_trace(Quadratic(hessian).loss, torch.ones(2))
    assert ours.value == pytest.approx(-1, abs=1e-5)
    assert ours.stderr == 0


def test_its_density_needs_a_function_that_torch_has_removed() -> None:
    """`torch.eig` was removed in torch 1.13; so the density is compared with other libraries only."""
    network = trained_network()
    with pytest.raises(RuntimeError, match=r"torch\.linalg\.eig"):
        of_network(network).density(iter=5)
    assert float(spectral_density(network.loss, network.loss.params).weights.sum()) == pytest.approx(1, rel=1e-12)


def test_it_changes_the_model_and_ours_does_not() -> None:
    """It leaves the model in eval mode, with gradients (and their graph) in .grad."""
    network = trained_network()
    model, data = copy.deepcopy(network.model).train(), (network.inputs, network.labels)
    hessian_eigenvalues(ModelLoss(model, *data), network.loss.params)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    pyhessian.hessian(model, nn.CrossEntropyLoss(), data=data, cuda=False)
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is not None for parameter in model.parameters())
