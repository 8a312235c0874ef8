"""How each peer library and SciPy are asked for a measure: from the model to the number, and what that took.

A library is imported when it is asked, so that those that are absent can be left out.
"""

import copy
import dataclasses
import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy.optimize import Bounds, minimize
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor
from torch.nn import CrossEntropyLoss, Flatten, Module, Sequential

from trainables.sharpness import ModelLoss

EPSILON = 1e-3
STEPS, PROBES = 60, 5  # of the spectral density
TRACE_BUDGETS = tuple(range(30, 300, 12))  # products: divisible by 3, as Hutch++ wants, and by 2, as XTrace does

Answer = tuple[Any, int]  # what was asked for, and its Hessian-vector products or gradients
Run = Callable[..., Answer]  # of a problem, a seed and, for a peer that has budgets, one of them


@dataclasses.dataclass(frozen=True)
class Problem:
    network: Module
    inputs: Tensor
    labels: Tensor
    dtype: torch.dtype = torch.float64

    def loss(self) -> ModelLoss:
        return ModelLoss(self.network, self.inputs, self.labels, dtype=self.dtype)

    def model_and_data(self) -> tuple[Module, tuple[Tensor, Tensor]]:
        """As peers take them: logits (N, K) and labels (N,), also of tokens."""
        model = copy.deepcopy(self.network).to(self.dtype).eval()
        inputs = self.inputs.to(self.dtype) if self.inputs.is_floating_point() else self.inputs
        if self.labels.ndim > 1:
            model = Sequential(model, Flatten(0, 1))
        return model, (inputs, self.labels.flatten())


@dataclasses.dataclass(frozen=True)
class Peer:
    name: str  # begins with the module's
    run: Run
    budgets: tuple[int, ...] = ()


def ours(problem: Problem, seed: int, measure: Callable[..., Any], field: str, **options: Any) -> Answer:
    loss = problem.loss()
    found = measure(loss, loss.params, seed=seed, **options)
    return getattr(found, field, found), found.evaluations


def scipy_box(problem: Problem, seed: int, iterations: int = 10) -> Answer:
    """Metric 2.1 by `scipy.optimize.minimize`, 10 iterations from 0 without tolerances; the best point counts."""
    loss, visited = problem.loss(), []
    widths = (EPSILON * (loss.params.abs() + 1)).double().numpy()

    def negative(offset: Any) -> tuple[float, Any]:
        value, gradient = loss.value_and_gradient(loss.params + torch.from_numpy(offset).to(loss.params))
        visited.append(value)
        return -value, -gradient.double().numpy()

    options = {"maxiter": iterations, "ftol": 0.0, "gtol": 0.0}
    minimize(negative, 0 * widths, jac=True, method="L-BFGS-B", bounds=Bounds(-widths, widths), options=options)
    return 100 * (max(visited) - visited[0]) / (1 + visited[0]), len(visited)


def pyhessian(problem: Problem, seed: int, budget: int = 0, k: int = 0) -> Answer:
    """The k eigenvalues of largest magnitude by power iteration, or else the trace from `budget` vectors."""
    library = importlib.import_module("pyhessian").hessian
    torch.manual_seed(seed)
    model, data = problem.model_and_data()
    hessian = library(model, CrossEntropyLoss(), data=data, cuda=False)
    scope = library.eigenvalues.__globals__
    product = mock.Mock(wraps=scope["hessian_vector_product"])
    with mock.patch.dict(scope, hessian_vector_product=product):
        found = hessian.eigenvalues(top_n=k, tol=1e-3)[0] if k else np.mean(hessian.trace(maxIter=budget, tol=0))
    model.zero_grad()  # .grad and its graph keep each other alive
    return found, product.call_count


def curvlinops(problem: Problem, seed: int, budget: int = 0, what: str = "eigsh", k: int = 0) -> Answer:
    """`eigsh` for k eigenvalues, `xtrace` or `hutchpp_trace` of `budget` products, or `fast_lanczos`."""
    library = importlib.import_module("curvlinops")
    torch.manual_seed(seed)
    model, data = problem.model_and_data()
    parameters = list(model.parameters())
    hessian = library.HessianLinearOperator(model, CrossEntropyLoss(), parameters, [data], check_deterministic=False)
    if what == "eigsh":
        operator = hessian.to_scipy(dtype=data[0].numpy().dtype)
        product = mock.Mock(wraps=operator.matvec)
        start = np.random.default_rng(seed).standard_normal(hessian.shape[0]).astype(operator.dtype)
        counted = LinearOperator(operator.shape, product, dtype=operator.dtype)
        return eigsh(counted, k, which="LA", tol=1e-3, v0=start, return_eigenvectors=False)[::-1], product.call_count
    if what == "fast_lanczos":
        lanczos = importlib.import_module("curvlinops.papyan2020traces.spectrum").fast_lanczos
        runs = [lanczos(hessian, STEPS) for _ in range(PROBES)]
        return (torch.cat([run[0] for run in runs]), torch.cat([run[1][0] ** 2 for run in runs])), STEPS * PROBES
    return float(getattr(library, what)(hessian, budget)), budget


def eigenthings(problem: Problem, seed: int, budget: int = 0, what: str = "lanczos", k: int = 0) -> Answer:
    """`lanczos` of `budget` steps, or else of twice as many until it converges; `hutch++`; `spectral_density`."""
    library = importlib.import_module("hessian_eigenthings")
    model, data = problem.model_and_data()
    hessian = library.HessianOperator(model, [data], library.supervised_loss(CrossEntropyLoss()))
    if what == "lanczos":
        options = {"k": k, "tol": 1e-3, "which": "LA", "reorthogonalize": True, "seed": seed}
        for steps in [budget] if budget else [2 * k * 2**i for i in range(8)]:  # 2 k is its default
            found = library.lanczos(hessian, max_iter=steps, **options)
            if found.converged.all():
                break
        return found.eigenvalues.where(found.converged, torch.inf), budget or 2 * steps - 2 * k
    if what == "spectral_density":
        density = library.spectral_density(hessian, num_runs=PROBES, lanczos_steps=STEPS, seed=1000 * seed)
        return (density.raw_eigenvalues.flatten(), density.raw_weights.flatten()), STEPS * PROBES
    return library.trace(hessian, num_matvecs=budget, method=what, seed=seed).estimate, budget


EIGENVALUE_PEERS: dict[str, Run] = {
    "pyhessian: power iteration": pyhessian,
    "curvlinops: SciPy's eigsh": curvlinops,
    "hessian_eigenthings: Lanczos, doubled": eigenthings,
    "hessian_eigenthings: Lanczos, oracle": eigenthings,
}
TRACE_PEERS = (
    Peer("pyhessian: Hutchinson, 1200 products", pyhessian, (1200,)),  # twice that for 1 %
    Peer("curvlinops: XTrace, oracle", partial(curvlinops, what="xtrace"), TRACE_BUDGETS),
    Peer("curvlinops: Hutch++, oracle", partial(curvlinops, what="hutchpp_trace"), TRACE_BUDGETS),
    Peer("hessian_eigenthings: Hutch++, oracle", partial(eigenthings, what="hutch++"), TRACE_BUDGETS),
)
DENSITY_PEERS = (
    Peer("curvlinops: fast_lanczos", partial(curvlinops, what="fast_lanczos")),
    Peer("hessian_eigenthings: SLQ", partial(eigenthings, what="spectral_density")),
)


def eigenvalue_peers(k: int) -> Iterator[Peer]:
    for name, run in EIGENVALUE_PEERS.items():
        budgets = tuple(range(k + 3, 99)) if "oracle" in name else ()
        yield Peer(name, partial(run, k=k), budgets)
