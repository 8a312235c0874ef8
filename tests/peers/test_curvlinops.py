"""Against curvlinops 3.0: right for products, with SciPy's eigsh, and for the trace of a Hessian of full rank."""

from typing import Any

import pytest
import torch
from networks import Network, Quadratic, trained_network, with_an_outlier
from scipy.sparse.linalg import eigsh
from torch import nn

from trainables.sharpness import hessian_eigenvalues
from trainables.sharpness.spectrum import spectral_density
from trainables.sharpness.trace import hessian_trace

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
curvlinops = pytest.importorskip("curvlinops")


def of_network(network: Network, reduction: str = "mean") -> Any:
    """In batches of 16 and 5."""
    batches = list(zip(network.inputs.split(16), network.labels.split(16), strict=True))
    parameters = list(network.model.parameters())
    return curvlinops.HessianLinearOperator(
        network.model, nn.CrossEntropyLoss(reduction=reduction), parameters, batches
    )


def test_products_in_unequal_batches() -> None:
    """It weights batches by their examples, as we do; the 'sum' of its loss is N times the mean."""
    network = trained_network()
    vector = torch.randn(len(network.hessian), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    chunked = type(network.loss)(network.model, network.inputs, network.labels, chunk_size=16)
    ours = chunked.hessian(chunked.params)(vector)
    torch.testing.assert_close(of_network(network) @ vector, ours, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(of_network(network, "sum") @ vector, 21 * ours, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("which", "theirs"), [("largest", "LA"), ("smallest", "SA")])
def test_five_eigenvalues(which: str, theirs: str) -> None:
    """Both stop at a residual of tol |value| or less: the eigenvalues are nearer than that."""
    network = trained_network()
    ours = hessian_eigenvalues(network.loss, network.loss.params, k=5, which=which, tol=1e-8)  # type: ignore[arg-type]
    operator = of_network(network).to_scipy()
    values = torch.from_numpy(eigsh(operator, 5, which=theirs, tol=1e-8, return_eigenvectors=False))
    values = values.sort(descending=which == "largest").values
    assert ours.converged
    torch.testing.assert_close(ours.values, values, rtol=2e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["hutchinson_trace", "hutchpp_trace", "xtrace"])
def test_trace(name: str) -> None:
    """Means of 30 runs of 24 products lie within 4 of their own standard errors."""
    network = trained_network()
    exact = float(network.hessian.trace())
    torch.manual_seed(0)
    theirs = torch.stack([getattr(curvlinops, name)(network.hessian, 24) for _ in range(30)])
    assert abs(float(theirs.mean()) - exact) <= 4 * float(theirs.std()) / 30**0.5
    ours = hessian_trace(network.loss, network.loss.params, samples=24, tol=0)
    assert abs(ours.value - exact) <= 4 * ours.stderr


def test_its_xtrace_fails_beside_dead_parameters() -> None:
    """It inverts the triangular factor of H Z, exactly singular where more probes than parameters with any curvature
    are asked for (dead units, a linear loss); ours is exact there."""
    hessian = torch.diag(torch.cat([torch.linspace(1, 2, 12), torch.zeros(48)])).double()
    torch.manual_seed(0)
    with pytest.raises(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        curvlinops.xtrace(hessian, 40)
    ours = hessian_trace(Quadratic(hessian).loss, torch.ones(60, dtype=torch.float64), samples=40)
    assert ours.value == pytest.approx(18, rel=1e-12)


def test_its_lanczos_copies_eigenvalues() -> None:
    """`fast_lanczos` does not reorthogonalize: converged eigenvalues come back ("ghosts"). Ours finds 1000 once."""
    outlier = with_an_outlier()
    fast_lanczos = pytest.importorskip("curvlinops.papyan2020traces.spectrum").fast_lanczos
    torch.manual_seed(0)
    theirs, _ = fast_lanczos(outlier, 60)
    params = torch.ones(len(outlier), dtype=torch.float64)
    ours = spectral_density(Quadratic(outlier).loss, params, steps=60, samples=1)
    assert int((theirs > 999.9).sum()) > 1
    assert int((ours.nodes > 999.9).sum()) == 1
