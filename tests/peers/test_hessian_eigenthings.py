"""Against hessian-eigenthings 1.0.0a5: right for one batch, with `which`, steps and reorthogonalization asked for."""

from typing import Any

import pytest
import torch
from networks import Network, Quadratic, trained_network, with_an_outlier
from torch import Tensor, nn

from trainables.sharpness import hessian_eigenvalues
from trainables.sharpness.spectrum import spectral_density
from trainables.sharpness.trace import hessian_trace

eigenthings = pytest.importorskip("hessian_eigenthings", minversion="1.0.0a5")


def of_network(network: Network, batch_size: int = 21) -> Any:
    batches = list(zip(network.inputs.split(batch_size), network.labels.split(batch_size), strict=True))
    return eigenthings.HessianOperator(network.model, batches, eigenthings.supervised_loss(nn.CrossEntropyLoss()))


def of_matrix(hessian: Tensor) -> Any:
    return eigenthings.LambdaOperator(lambda vector: hessian @ vector, len(hessian), dtype=hessian.dtype)


def test_products() -> None:
    network = trained_network()
    vector = torch.randn(len(network.hessian), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours = network.loss.hessian(network.loss.params)(vector)
    torch.testing.assert_close(of_network(network) @ vector, ours, rtol=1e-10, atol=1e-12)


def test_its_batches_are_averaged_without_weights() -> None:
    """Of batches of 16 and 5 it takes the plain mean: the 5 examples count 3.2 times as much as the others."""
    network = trained_network()
    vector = torch.randn(len(network.hessian), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parts = []
    for part in (slice(16), slice(16, None)):
        loss = type(network.loss)(network.model, network.inputs[part], network.labels[part])
        parts.append(loss.hessian(loss.params)(vector))
    theirs = of_network(network, 16) @ vector
    torch.testing.assert_close(theirs, (parts[0] + parts[1]) / 2, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close((16 * parts[0] + 5 * parts[1]) / 21, network.hessian @ vector, rtol=1e-10, atol=1e-12)
    assert float((theirs - network.hessian @ vector).norm() / theirs.norm()) > 0.01


@pytest.mark.parametrize(("which", "theirs"), [("largest", "LA"), ("smallest", "SA")])
def test_three_eigenvalues(which: str, theirs: str) -> None:
    """Both stop at a residual of tol |value| or less: the eigenvalues are nearer than that."""
    network = trained_network()
    ours = hessian_eigenvalues(network.loss, network.loss.params, k=3, which=which, tol=1e-8)  # type: ignore[arg-type]
    steps = len(network.hessian)
    found = eigenthings.lanczos(
        of_network(network), k=3, max_iter=steps, tol=1e-8, which=theirs, reorthogonalize=True, seed=0
    )
    assert ours.converged
    torch.testing.assert_close(ours.values, found.eigenvalues, rtol=2e-8, atol=1e-12)


def test_its_default_is_the_largest_magnitude_after_two_steps_for_each() -> None:
    """`which` is "LM": of an indefinite Hessian it returns the negative end. `max_iter` is 2 k: rarely enough, as its
    `converged` then says."""
    hessian = torch.diag(torch.tensor([-5.0, *torch.linspace(0, 3, 50).tolist()])).double()
    operator = of_matrix(hessian)
    theirs = eigenthings.lanczos(operator, k=1, max_iter=30, seed=0)
    assert float(theirs.eigenvalues[0]) == pytest.approx(-5, rel=1e-6)
    assert not eigenthings.lanczos(operator, k=1, seed=0).converged[0]
    ours = hessian_eigenvalues(Quadratic(hessian).loss, torch.ones(51, dtype=torch.float64))
    assert float(ours.values[0]) == pytest.approx(3, rel=1e-3)
    assert ours.converged


def test_its_long_runs_return_copies_as_converged() -> None:
    """Above 50 steps it does not reorthogonalize unless asked to: the top 2 are then one eigenvalue twice."""
    outlier = with_an_outlier()
    theirs = eigenthings.lanczos(of_matrix(outlier), k=2, max_iter=60, which="LA", seed=0)
    ours = hessian_eigenvalues(Quadratic(outlier).loss, torch.ones(200, dtype=torch.float64), k=2)
    exact = outlier.diag()
    assert theirs.eigenvalues.tolist() == pytest.approx([1000, 1000], rel=1e-9)
    assert theirs.converged.all()
    assert ours.values.tolist() == pytest.approx([1000, float(exact[-2])], rel=1e-3)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_trace(method: str) -> None:
    network = trained_network()
    theirs = eigenthings.trace(of_network(network), num_matvecs=60, method=method, seed=0)
    ours = hessian_trace(network.loss, network.loss.params, samples=24, tol=0)
    exact = float(network.hessian.trace())
    assert abs(theirs.estimate - exact) <= 4 * theirs.stderr + 1e-9 * exact
    assert abs(ours.value - exact) <= 4 * ours.stderr


def test_spectral_density() -> None:
    """Mean eigenvalue and its square from 60 probes each, within 4 standard errors; their ends are eigenvalues."""
    network = trained_network()
    theirs = eigenthings.spectral_density(of_network(network), num_runs=60, lanczos_steps=20, seed=0)
    ours = spectral_density(network.loss, network.loss.params, samples=60, steps=20)
    for power in (1, 2):
        exact = float((network.eigenvalues**power).mean())
        value, stderr = ours.mean(lambda nodes, power=power: nodes**power)  # type: ignore[misc]
        runs = (theirs.raw_weights * theirs.raw_eigenvalues**power).sum(1)
        assert abs(value - exact) <= 4 * stderr
        assert abs(float(runs.mean()) - exact) <= 4 * float(runs.std()) / 60**0.5
    for nodes in (ours.nodes, theirs.raw_eigenvalues):
        assert float(nodes.max()) == pytest.approx(float(network.eigenvalues[-1]), rel=1e-8)
