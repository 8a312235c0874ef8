"""Our measures beside each peer library: one process, trained network, data and tolerance. Reports, asserts nothing.

    python benchmarks/measures.py [--only trace box] [--json FILE]

A network of 85 002 parameters is trained on 300 digits. Ours and a peer then run in turn, each from the model to the
number, a new seed every round: seconds are medians, errors root mean squares over the rounds. A peer without a stopping
rule is given the least budget that meets the tolerance, looked for beforehand and untimed ("oracle"), and no peer
spends what ours does on seeing that the loss is deterministic. In float64 ours search in float32 (docs/measures.md).
Errors are relative: of eigenvalues (the worst of k) to SciPy's eigsh in float64 at rounding level; of the trace to
(1/N) sum_n sum_c p_c ||grad log p_c(x_n)||^2, which is tr(H) for ReLU networks, linear in each weight; of the density
the Wasserstein distance to a longer run over the mean |eigenvalue|; of the box metric what `strong` finds beyond.
`size`: F1 with 1.5 million parameters, float64: seconds of the box search beside those of its gradients, and peak
memory in parameter vectors.

Traps: PyHessian stops where two estimates agree, not at a residual, and knows the largest magnitude only; on a shared
machine only ratios mean something. Nothing is ever installed: a library that cannot be imported is named and left out.
"""

import argparse
import dataclasses
import importlib
import json
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from memory import peak_beyond
from peers import (
    DENSITY_PEERS,
    EPSILON,
    STEPS,
    TRACE_PEERS,
    Peer,
    Problem,
    Run,
    eigenvalue_peers,
    ours,
    scipy_box,
)
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.stats import wasserstein_distance
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn
from torch import Tensor
from torch.nn import CrossEntropyLoss

from trainables.config import TrialConfig
from trainables.data import load_source
from trainables.data.rows import tensor_of
from trainables.models import build_model
from trainables.sharpness import ModelLoss, box_sharpness, hessian_eigenvalues
from trainables.sharpness.spectrum import spectral_density
from trainables.sharpness.trace import hessian_trace
from trainables.trial import Trial

ROUNDS, SECONDS_PER_PAIR = 7, 10.0  # no further round begins after so long
COLUMNS = ("ratio", "ours_seconds", "peer_seconds", "ours_error", "peer_error", "ours_evaluations", "peer_evaluations")


def exact_eigenvalues(problem: Problem, k: int) -> Any:
    loss = problem.loss()
    product, n = loss.hessian(loss.params), len(loss.params)
    operator = LinearOperator((n, n), lambda v: product(torch.from_numpy(v.ravel())).numpy(), dtype=np.float64)
    return eigsh(operator, k, which="LA", tol=0, return_eigenvectors=False)[::-1]


def exact_trace(problem: Problem) -> float:
    model, (inputs, _) = problem.model_and_data()
    total = 0.0
    for example in inputs:
        for log_p in model(example[None])[0].log_softmax(0):
            parts = torch.autograd.grad(log_p, list(model.parameters()), retain_graph=True)
            total += float(log_p.exp()) * sum(float((part**2).sum()) for part in parts)
    return total / len(inputs)


def relative_error(reference: Any, found: Any) -> float:
    return float(np.max(np.abs(np.asarray(found) / reference - 1)))


def distance(reference: Any, found: Any) -> float:
    nodes, weights = found if isinstance(found, tuple) else (found.nodes, found.weights)
    scale = float(reference.nodes.abs() @ reference.weights)
    return float(wasserstein_distance(nodes, reference.nodes, weights, reference.weights)) / scale


def measure_named(name: str, problem: Problem) -> tuple[Run, Callable[[Any], float], float, list[Peer]]:
    """How we do it, the error of an answer, the tolerance where there is one, and the peers."""
    if name == "trace":
        run = partial(ours, measure=hessian_trace, field="value", samples=400, tol=0.01)
        return run, partial(relative_error, exact_trace(problem)), 0.01, list(TRACE_PEERS)
    if name == "density":
        run = partial(ours, measure=spectral_density, field="", steps=STEPS)
        longer, _ = ours(problem, 12345, spectral_density, "", samples=4, steps=200)
        return run, partial(distance, longer), np.inf, list(DENSITY_PEERS)
    if name == "box":
        run = partial(ours, measure=box_sharpness, field="value", epsilon=EPSILON, method="paper")
        best, _ = run(problem, 0, method="strong")
        return run, partial(relative_error, best), np.inf, [Peer("scipy: minimize", scipy_box)]
    k = {"max_eig": 1, "top5": 5}[name]
    run = partial(ours, measure=hessian_eigenvalues, field="values", k=k, tol=1e-3)
    return run, partial(relative_error, exact_eigenvalues(problem, k)), 1e-3, list(eigenvalue_peers(k))


def rms(errors: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))


def least_budget(problem: Problem, error: Callable[[Any], float], tolerance: float, peer: Peer) -> tuple[int, ...]:
    """The first budget that meets the tolerance over 12 seeds, or else the last; () for a peer without budgets."""
    for budget in peer.budgets[:-1]:
        if rms([error(peer.run(problem, seed, budget)[0]) for seed in range(100, 112)]) <= tolerance:
            return (budget,)
    return peer.budgets[-1:]


def compare(
    problem: Problem, our_run: Run, error: Callable[[Any], float], peer: Peer, budget: tuple[int, ...]
) -> dict[str, Any]:
    """Both in turn, after one round to warm up."""
    seen: dict[str, list[float]] = {column: [] for column in COLUMNS}
    begun = time.perf_counter()
    for seed in range(ROUNDS + 1):
        for side, run, extra in (("ours", our_run, ()), ("peer", peer.run, budget)):
            started = time.perf_counter()
            answer, evaluations = run(problem, seed, *extra)
            seen[f"{side}_seconds"].append(time.perf_counter() - started)
            seen[f"{side}_error"].append(error(answer))
            seen[f"{side}_evaluations"].append(evaluations)
        if seed >= 2 and time.perf_counter() - begun > SECONDS_PER_PAIR:
            break
    seen["ratio"] = list(np.divide(seen["peer_seconds"], seen["ours_seconds"]))
    return {name: rms(all_[1:]) if "error" in name else float(np.median(all_[1:])) for name, all_ in seen.items()}


def peak_vectors(run: Callable[[], object], n: int) -> float:
    """The most memory that `run` holds at once beyond what was there, in float64 vectors (n,); Linux only."""
    return peak_beyond(run) * 2**20 / (8 * n)


def at_size(examples: int = 1000) -> dict[str, float]:
    """F1 on images like MNIST's, after 40 steps of Adam."""
    torch.manual_seed(0)
    labels = torch.arange(examples) % 10
    inputs = torch.rand(10, 1, 28, 28)[labels] + 0.3 * torch.randn(examples, 1, 28, 28)
    network = build_model("f1", (1, 28, 28), 10)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for batch in torch.arange(examples).repeat(4).split(examples // 10):
        optimizer.zero_grad()
        CrossEntropyLoss()(network(inputs[batch]), labels[batch]).backward()
        optimizer.step()
    problem = Problem(network, inputs, labels)
    loss = problem.loss()
    n, found = len(loss.params), {"parameters": float(len(loss.params))}
    inner, spent = ModelLoss.value_and_gradient, []

    def timed(self: ModelLoss, params: Tensor) -> tuple[float, Tensor]:
        started = time.perf_counter()
        result = inner(self, params)
        spent.append(time.perf_counter() - started)
        return result

    box = partial(ours, measure=box_sharpness, field="value", epsilon=EPSILON, method="paper")
    for name, run in (("ours", box), ("scipy", scipy_box)):
        spent.clear()
        started = time.perf_counter()
        with mock.patch.object(ModelLoss, "value_and_gradient", timed):
            found[f"box_{name}_value"], found[f"box_{name}_evaluations"] = run(problem, 0)
        found[f"box_{name}_seconds"] = time.perf_counter() - started
        found[f"box_{name}_gradient_seconds"] = sum(spent)
        found[f"box_{name}_overhead"] = 1 - sum(spent) / found[f"box_{name}_seconds"]
    found["memory_gradient"] = peak_vectors(lambda: loss.value_and_gradient(loss.params), n)
    found["memory_box_ours"] = peak_vectors(lambda: box_sharpness(loss, loss.params, method="paper"), n)
    found["memory_box_scipy"] = peak_vectors(lambda: scipy_box(problem, 0, iterations=2), n)
    found["memory_product"] = peak_vectors(lambda: loss.hessian(loss.params)(loss.params), n)
    before = loss.evaluations
    found["memory_lanczos"] = peak_vectors(lambda: hessian_eigenvalues(loss, loss.params), n)
    found["lanczos_steps"] = loss.evaluations - before - 2  # a loss and the graph
    return found


def main() -> None:
    names = ["max_eig", "top5", "trace", "density", "box", "size"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--json", type=Path, help="write the same numbers here")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    source = load_source("digits")
    config = TrialConfig(dataset="digits", data_fingerprint=source.fingerprint, train_size=300, test_size=1497,
        split_seed=0, model_options='{"widths": [256, 256]}', learning_rate=1e-3, batch_size=32, epochs=20,
        measure_examples=300)  # fmt: skip
    training = Trial(config, source).training
    while not training.finished:
        training.train_epoch()
    data = training.data
    problem = Problem(training.model, tensor_of(data.train_inputs), tensor_of(data.train_labels))
    rows: list[dict[str, Any]] = []
    print("measure   dtype    peer" + " " * 35 + "  ".join(f"{column.replace('_', ' '):>16}" for column in COLUMNS))
    for name in [name for name in names[:-1] if name in arguments.only]:
        our_run, error, tolerance, peers = measure_named(name, problem)
        for peer in peers:
            try:
                importlib.import_module(peer.name.split(":")[0])
            except ImportError as missing:
                print(f"{name:9} {'':8} {peer.name:38} is absent: {missing}")
                continue
            budget = least_budget(dataclasses.replace(problem, dtype=torch.float32), error, tolerance, peer)
            for dtype in (torch.float32, torch.float64):
                row = compare(dataclasses.replace(problem, dtype=dtype), our_run, error, peer, budget)
                rows.append({"measure": name, "dtype": str(dtype)[6:], "peer": peer.name, **row})
                numbers = "  ".join(f"{row[column]:16.3g}" for column in COLUMNS)
                print(f"{name:9} {str(dtype)[6:]:8} {peer.name:38} {numbers}", flush=True)
    if rows:
        print(f"median ratio peer / ours: {np.median([row['ratio'] for row in rows]):.2f}")
    size = at_size() if "size" in arguments.only else {}
    for name, number in size.items():
        print(f"size      {name:28} {number:.4g}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "size": size}, indent=1))


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
