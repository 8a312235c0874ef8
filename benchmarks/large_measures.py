"""Largest eigenvalue and box sharpness of a ResNet-18, a ViT and a small GPT: CPU seconds and peak memory.

    python benchmarks/large_measures.py [--networks resnet18 vit gpt] [--examples 200 2000] [--dtype float64]
                                        [--json FILE]

Each network takes a few steps of Adam on made-up images (3, 16, 16) or tokens. Then every contestant goes once, from
the model to the number, on one thread, after a warm-up on two examples: hessian_eigenvalues beside PyHessian,
curvlinops and hessian-eigenthings, all to 1e-3, and box_sharpness (`paper`) beside `scipy.optimize.minimize`.
benchmarks/peers.py says how each is asked.

`of ours` is a contestant's CPU time over ours: above 1, ours is faster. `peak` is what it held at once beyond what was
there, with freed memory given back at once, which costs all of them some time. A library that cannot be imported is
named and left out.

Trap: PyHessian stops where two estimates agree, which may be before the value is right; the values are printed.
"""

import argparse
import dataclasses
import importlib
import json
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import peak_beyond
from peers import EPSILON, Answer, Problem, eigenvalue_peers, ours, scipy_box
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from trainables.models import build_model
from trainables.sharpness import box_sharpness, hessian_eigenvalues

IMAGE, CLASSES = (3, 16, 16), 10
CONTEXT, VOCABULARY = (32,), 65
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": ("torchvision:resnet18", {}),
    "vit": ("vit", {}),
    "gpt": ("gpt", {"width": 64, "depth": 2, "heads": 4}),
}
STEPS, BATCH = 20, 50


def data_of(network: str, examples: int) -> tuple[Tensor, Tensor]:
    """Noisy patterns, one per class; or text in which each character mostly follows from the one before."""
    if network != "gpt":
        labels = torch.arange(examples) % CLASSES
        return torch.rand(CLASSES, *IMAGE)[labels] + 0.3 * torch.randn(examples, *IMAGE), labels
    text = torch.randint(VOCABULARY, (examples, CONTEXT[0] + 1))
    for place in range(CONTEXT[0]):
        follows = torch.rand(examples) < 0.9
        text[follows, place + 1] = (3 * text[follows, place] + 1) % VOCABULARY
    return text[:, :-1], text[:, 1:]


def problem_of(network: str, examples: int, dtype: torch.dtype) -> Problem:
    """The network after STEPS steps of Adam, with the data it was trained on."""
    torch.manual_seed(0)
    inputs, labels = data_of(network, examples)
    name, options = NETWORKS[network]
    is_text = network == "gpt"
    shape, classes = (CONTEXT, VOCABULARY) if is_text else (IMAGE, CLASSES)
    model = build_model(name, shape, classes, input_dtype=inputs.dtype, **options).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for chosen in torch.randint(examples, (STEPS, BATCH)):
        optimizer.zero_grad()
        cross_entropy(model(inputs[chosen]).flatten(0, -2), labels[chosen].flatten()).backward()
        optimizer.step()
    return Problem(model, inputs, labels, dtype)


def contestants() -> Iterator[tuple[str, str, Callable[[Problem, int], Answer]]]:
    """(measure, name, run): ours first in each measure."""
    yield "max_eig", "ours", partial(ours, measure=hessian_eigenvalues, field="values", k=1, tol=1e-3)
    for peer in eigenvalue_peers(1):
        if not peer.budgets:
            yield "max_eig", peer.name, peer.run
    yield "box", "ours", partial(ours, measure=box_sharpness, field="value", epsilon=EPSILON, method="paper")
    yield "box", "scipy: minimize", scipy_box


def measured(problem: Problem, run: Callable[[Problem, int], Answer]) -> dict[str, float]:
    """CPU seconds, peak MiB, the value and its gradients or Hessian-vector products."""
    found: list[Answer] = []
    started = time.process_time()
    with sdpa_kernel(SDPBackend.MATH):  # of the attention kernels only this one has second derivatives
        peak = peak_beyond(lambda: found.append(run(problem, 0)))
    seconds = time.process_time() - started
    answer, evaluations = found[0]
    value = float(np.ravel(answer)[0])
    return {"cpu_seconds": seconds, "peak_mib": peak, "value": value, "evaluations": evaluations}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--examples", type=int, nargs="+", default=[200])
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    print(f"{'network':9} {'examples':>8} {'measure':8} {'contestant':38}", end="")
    print(f"{'CPU s':>9} {'of ours':>8} {'peak MiB':>9} {'value':>10} {'evaluations':>12}")
    for network in options.networks:
        for examples in options.examples:
            problem = problem_of(network, examples, getattr(torch, options.dtype))
            parameters = sum(parameter.numel() for parameter in problem.network.parameters())
            few = dataclasses.replace(problem, inputs=problem.inputs[:2], labels=problem.labels[:2])  # to warm up
            our_seconds: dict[str, float] = {}
            for measure, name, run in contestants():
                try:
                    if ":" in name:
                        importlib.import_module(name.split(":")[0])
                except ImportError as missing:
                    print(f"{network:9} {examples:>8} {measure:8} {name:38} is absent: {missing}")
                    continue
                measured(few, run)
                found = measured(problem, run)
                ratio = found["cpu_seconds"] / our_seconds.setdefault(measure, found["cpu_seconds"])
                about = {"network": network, "parameters": parameters, "examples": examples, "measure": measure}
                rows.append({**about, "contestant": name, **found, "of_ours": ratio})
                print(
                    f"{network:9} {examples:>8} {measure:8} {name:38}{found['cpu_seconds']:>9.2f} {ratio:>8.2f}", end=""
                )
                print(f"{found['peak_mib']:>10.0f} {found['value']:>10.4g} {found['evaluations']:>12}", flush=True)
    if options.json:
        about = {"benchmark": "large_measures", "dtype": options.dtype}
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1))


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
