"""Examples per second of the training loop, beside loops that a user would write and beside the arithmetic alone.

    python benchmarks/training.py [--networks mlp f1 c1 c2 gpt] [--batch-sizes 16 64 256 1000 5000]
                                  [--precision bfloat16] [--compiled] [--json FILE]

In one process, in turn, on random data of the right shapes, on a GPU where there is one:

    ours        trainables.training.loop, its pass over the data without the evaluation that follows; updates of small
                batches are recorded, as in a sweep
    bare        forward, backward and fused update on one batch that lies ready: what PyTorch can do from Python
    plain       a loop over in-memory tensors with a permutation and PyTorch's default Adam
    dataloader  TensorDataset and DataLoader in the same process, the fastest setting for data in memory
    compiled    with `--compiled`, in the manner of the fast CIFAR-10 loops: torch.compile, fused Adam, the precision of
                ours; on a GPU TF32 and CUDA graphs

All are in a process set as a trial's is (trainables.runtime.process), and have convolutional networks in channels-last
layout; ours and bare have the products of trainables.runtime.float32. With `--precision bfloat16` ours and compiled
train so, the others in float32. A figure is the median over rounds, after one to warm up. `of bare` is ours over bare,
in float32 above 1 only where updates are recorded; `against plain` and the like are ours over
theirs. `of matrix rate` is the floating-point operations of ours, those of its products and convolutions, over those of
a product of large matrices in that time (on a GPU in TF32 or bfloat16).
"""

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from trainables.config import PRECISIONS, TrialConfig
from trainables.data import Dataset
from trainables.models import build_model
from trainables.runtime.float32 import large_products
from trainables.runtime.process import prepare_process
from trainables.training.loop import Training
from trainables.training.recording import Recorder, recorder_for

NETWORKS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "mlp": ("mlp", (64,), {"widths": [128, 128]}),
    "f1": ("f1", (784,), {}),
    "c1": ("c1", (3, 32, 32), {}),
    "c2": ("c2", (3, 32, 32), {}),
    "gpt": ("gpt", (128,), {"width": 256}),
}
CLASSES = {"gpt": 65}  # of characters
Pass = Callable[[], int]  # trains on some batches; returns on how many examples
BATCH_SIZES = (16, 64, 256, 1000, 5000)
SECONDS = 1.0  # of one round of one loop, at least one step
ROUNDS = 3
MOST_EXAMPLES = 5000
MATRIX = {"cpu": 2048, "cuda": 8192}  # rows and columns of the large matrices


def examples_per_second(run: Callable[[], int], device: torch.device, seconds: float = SECONDS) -> float:
    """`run` trains on so many examples; repeated for `seconds`."""
    begun, examples = time.perf_counter(), 0
    while not examples or time.perf_counter() - begun < seconds:
        examples += run()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return examples / (time.perf_counter() - begun)


def matrix_rate(device: torch.device, precision: str, size: int | None = None, seconds: float = SECONDS) -> float:
    """Floating-point operations per second in a product of large matrices, `size` rows and columns."""
    size, dtype = size or MATRIX[device.type], getattr(torch, precision)
    matrix = torch.rand(size, size, device=device).to(dtype)

    def product() -> int:
        with large_products([matrix], size), tf32_products():
            matrix @ matrix
        return 1

    rates = [examples_per_second(product, device, seconds) for _ in range(ROUNDS)]
    return 2 * size**3 * statistics.median(rates)


def operations_per_example(network: str) -> float:
    """Floating-point operations of forward and backward in products and convolutions."""
    examples, device = 8, torch.device("cpu")
    model, (inputs, labels) = network_on(network, device), batch_of(network, examples, device)
    with FlopCounterMode(display=False) as counter:
        mean_loss(model(inputs), labels).backward()
    return float(counter.get_total_flops()) / examples


def network_on(network: str, device: torch.device) -> nn.Module:
    name, shape, options = NETWORKS[network]
    dtype = torch.int64 if network in CLASSES else torch.float32
    return build_model(name, shape, CLASSES.get(network, 10), input_dtype=dtype, **options).to(device).train()


def batch_of(network: str, examples: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random inputs and labels; of a language model a label for each token."""
    shape = NETWORKS[network][1]
    if network in CLASSES:
        inputs, labels = torch.randint(CLASSES[network], (2, examples, *shape), device=device)
        return inputs, labels
    return torch.rand(examples, *shape, device=device), torch.randint(10, (examples,), device=device)


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits.flatten(0, -2), labels.flatten())


def made_when_called(maker: Callable[[], Pass]) -> Pass:
    """The pass that `maker` makes, once it is asked for: a network that nobody times costs nothing."""
    made: list[Pass] = []

    def run() -> int:
        if not made:
            made.append(maker())
        return made[0]()

    return run


def loops(
    network: str, batch_size: int, device: torch.device, precision: str, record: Recorder | None, backend: str | None
) -> tuple[dict[str, Pass], Training]:
    """The contestants, each with a model of its own, and our training.

    `backend` is torch.compile's, None without that contestant.
    """
    examples = batch_size * max(1, min(20, MOST_EXAMPLES // batch_size))
    torch.manual_seed(0)
    inputs, labels = batch_of(network, examples, device)
    task = "language" if network in CLASSES else "classification"
    data = Dataset(inputs, labels, inputs[:1], labels[:1], CLASSES.get(network, 10), task)
    model = partial(network_on, network, device)

    config = TrialConfig(
        dataset="random",
        data_fingerprint="",
        train_size=examples,
        test_size=1,
        learning_rate=1e-3,
        batch_size=batch_size,
        epochs=1,
        precision=precision,
        measure_examples=1,
    )
    training = Training(config, model(), data, record=record)

    def ours() -> int:
        training.pass_over_data()
        return examples

    def bare() -> Pass:
        network, batch, targets = model(), inputs[:batch_size].clone(), labels[:batch_size].clone()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)

        def run() -> int:
            with large_products(network.parameters(), batch_size):
                optimizer.zero_grad()
                mean_loss(network(batch), targets).backward()
                optimizer.step()
            return batch_size

        return run

    def plain() -> Pass:
        network = model()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

        def run() -> int:
            for chosen in torch.randperm(examples, device=device).split(batch_size):
                optimizer.zero_grad()
                mean_loss(network(inputs[chosen]), labels[chosen]).backward()
                optimizer.step()
            return examples

        return run

    def dataloader() -> Pass:
        network = model()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        loader = DataLoader(TensorDataset(inputs.cpu(), labels.cpu()), batch_size=batch_size, shuffle=True)

        def run() -> int:
            for part, part_labels in loader:
                optimizer.zero_grad()
                mean_loss(network(part.to(device)), part_labels.to(device)).backward()
                optimizer.step()
            return examples

        return run

    def compiled() -> Pass:
        assert backend is not None
        network = model()
        fast = torch.compile(network, backend=backend, mode="reduce-overhead" if device.type == "cuda" else None)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)

        def run() -> int:
            with tf32_products():
                for chosen in torch.randperm(examples, device=device).split(batch_size):
                    optimizer.zero_grad()
                    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                        loss = mean_loss(fast(inputs[chosen]), labels[chosen])
                    loss.backward()
                    optimizer.step()
            return examples

        return run

    makers = [bare, plain, dataloader, *([] if backend is None else [compiled])]
    contestants = {"ours": ours, **{maker.__name__: made_when_called(maker) for maker in makers}}
    return contestants, training


@contextlib.contextmanager
def tf32_products() -> Iterator[None]:
    """Inside, a GPU's products in float32 are in TF32."""
    products = torch.backends.cuda.matmul
    before, products.fp32_precision = products.fp32_precision, "tf32"
    try:
        yield
    finally:
        products.fp32_precision = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=list(BATCH_SIZES))
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    prepare_process(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    record, backend = recorder_for(device), "inductor" if options.compiled else None
    rows = []
    most = matrix_rate(device, options.precision)
    print(f"a product of large matrices: {most / 1e9:.0f} GFLOP/s")
    others = ["bare", "plain", "dataloader", *(["compiled"] if options.compiled else [])]
    columns = ["of bare", *(f"against {other}" for other in others[1:]), "of matrix rate"]
    print(f"{'network':>8} {'batch':>6} {'ours [1/s]':>11} " + " ".join(f"{column:>18}" for column in columns))
    for network in options.networks:
        operations = operations_per_example(network)
        for batch_size in options.batch_sizes:
            contestants, training = loops(network, batch_size, device, options.precision, record, backend)
            rounds = [
                {name: examples_per_second(run, device) for name, run in contestants.items()} for _ in range(ROUNDS + 1)
            ][1:]
            speed = {name: statistics.median(figures[name] for figures in rounds) for name in contestants}
            ratio = {
                name: statistics.median(figures["ours"] / figures[name] for figures in rounds) for name in contestants
            }
            of_rate = speed["ours"] * operations / most
            recorded = batch_size in training.recorded
            row = {"network": network, "batch_size": batch_size, **speed}
            rows.append({**row, "of_matrix_rate": of_rate, "recorded": recorded})
            ratios = " ".join(f"{one:>18.2f}" for one in (*(ratio[name] for name in others), of_rate))
            note = "  recorded" if recorded else ""
            print(f"{network:>8} {batch_size:>6} {speed['ours']:>11.0f} {ratios}{note}", flush=True)
    if options.json:
        about = {
            "benchmark": "training",
            "device": str(device),
            "threads": options.threads,
            "precision": options.precision,
            "matrix_rate": most,
        }
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
