"""Examples per second of the training loop, beside loops that a user would write and beside the arithmetic alone.

    python benchmarks/training.py [--networks mlp f1 c1 c2] [--batch-sizes 16 64 256 1000 5000]
                                  [--precision bfloat16] [--json FILE]

In one process, in turn, on random data of the right shapes, on a GPU where there is one:

    ours        trainables.training.loop, its pass over the data without the evaluation that follows
    bare        forward, backward and fused update on one batch that lies ready: what the hardware can do
    plain       a loop over in-memory tensors with a permutation and PyTorch's default Adam
    dataloader  TensorDataset and DataLoader in the same process, the fastest setting for data in memory

All keep freed memory (trainables.memory), as a trial does; ours and bare have the products of trainables.float32. With
`--precision bfloat16` ours trains so, and the others in float32. A figure is the median over rounds, after one to warm
up. `of bare` is ours over bare, in float32 at best 1; `against plain` and `against dataloader` are ours over theirs.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from trainables.config import PRECISIONS, TrialConfig
from trainables.data import Dataset
from trainables.float32 import large_products
from trainables.memory import keep_freed_memory
from trainables.models import build_model
from trainables.training.loop import Training

NETWORKS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "mlp": ("mlp", (64,), {"widths": [128, 128]}),
    "f1": ("f1", (784,), {}),
    "c1": ("c1", (3, 32, 32), {}),
    "c2": ("c2", (3, 32, 32), {}),
}
BATCH_SIZES = (16, 64, 256, 1000, 5000)
SECONDS = 1.0  # of one round of one loop, at least one step
ROUNDS = 3
MOST_EXAMPLES = 5000


def examples_per_second(run: Callable[[], int], device: torch.device) -> float:
    """`run` trains on so many examples; repeated for SECONDS."""
    begun, examples = time.perf_counter(), 0
    while not examples or time.perf_counter() - begun < SECONDS:
        examples += run()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return examples / (time.perf_counter() - begun)


def loops(network: str, batch_size: int, device: torch.device, precision: str) -> dict[str, Callable[[], int]]:
    """The contestants, each with a model of its own; a call is one pass over a few batches."""
    name, shape, options = NETWORKS[network]
    examples = batch_size * max(1, min(20, MOST_EXAMPLES // batch_size))
    torch.manual_seed(0)
    inputs, labels = torch.rand(examples, *shape, device=device), torch.randint(10, (examples,), device=device)
    data = Dataset(inputs, labels, inputs[:1], labels[:1], 10)

    def model() -> nn.Module:
        return build_model(name, shape, 10, **options).to(device).train()

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
    training = Training(config, model(), data)

    def ours() -> int:
        training.pass_over_data()
        return examples

    bare_model = model()
    bare_optimizer = torch.optim.Adam(bare_model.parameters(), lr=1e-3, fused=True)
    batch, targets = inputs[:batch_size].clone(), labels[:batch_size].clone()

    def bare() -> int:
        with large_products(bare_model.parameters(), batch_size):
            bare_optimizer.zero_grad()
            cross_entropy(bare_model(batch), targets).backward()
            bare_optimizer.step()
        return batch_size

    plain_model = model()
    plain_optimizer = torch.optim.Adam(plain_model.parameters(), lr=1e-3)

    def plain() -> int:
        for chosen in torch.randperm(examples, device=device).split(batch_size):
            plain_optimizer.zero_grad()
            cross_entropy(plain_model(inputs[chosen]), labels[chosen]).backward()
            plain_optimizer.step()
        return examples

    loader_model = model()
    loader_optimizer = torch.optim.Adam(loader_model.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(inputs.cpu(), labels.cpu()), batch_size=batch_size, shuffle=True)

    def dataloader() -> int:
        for part, part_labels in loader:
            loader_optimizer.zero_grad()
            cross_entropy(loader_model(part.to(device)), part_labels.to(device)).backward()
            loader_optimizer.step()
        return examples

    return {"ours": ours, "bare": bare, "plain": plain, "dataloader": dataloader}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=list(BATCH_SIZES))
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    columns = ("of bare", "against plain", "against dataloader")
    print(f"{'network':>8} {'batch':>6} {'ours [1/s]':>11} " + " ".join(f"{column:>18}" for column in columns))
    for network in options.networks:
        for batch_size in options.batch_sizes:
            contestants = loops(network, batch_size, device, options.precision)
            rounds = [
                {name: examples_per_second(run, device) for name, run in contestants.items()} for _ in range(ROUNDS + 1)
            ][1:]
            speed = {name: statistics.median(figures[name] for figures in rounds) for name in contestants}
            ratio = {
                name: statistics.median(figures["ours"] / figures[name] for figures in rounds) for name in contestants
            }
            rows.append({"network": network, "batch_size": batch_size, **speed})
            ratios = " ".join(f"{ratio[name]:>18.2f}" for name in ("bare", "plain", "dataloader"))
            print(f"{network:>8} {batch_size:>6} {speed['ours']:>11.0f} {ratios}", flush=True)
    if options.json:
        about = {
            "benchmark": "training",
            "device": str(device),
            "threads": options.threads,
            "precision": options.precision,
        }
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
