"""A training step of `gpt` beside plain PyTorch loops, in CPU time: the ratios of one run.

    python benchmarks/gpt.py [--widths 64 128] [--batch-sizes 8 32] [--json FILE]

In one process, in turn, on random tokens, with one thread:

    ours      trainables.training.loop, its pass over the data without the evaluation that follows
    plain     the same network in a loop over tensors in memory, with a permutation and torch.optim.Adam
    nanogpt   the same loop with a network written as nanoGPT's: one matrix for queries, keys and values

`against plain` and `against nanogpt` are the speed of ours over theirs, the median over rounds: 0.9 or more is within
10 %. CPU time, not time, is counted, so that other processes of the machine do not.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.data import Dataset
from trainables.models import build_model
from trainables.runtime.process import prepare_process
from trainables.training.loop import Training

VOCABULARY, CONTEXT, DEPTH, HEADS = 65, 64, 2, 4
STEPS = 6  # of a pass
ROUNDS = 5


class NanoBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.together, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        parts = self.together(self.first(x)).split(width, dim=2)
        query, key, value = (part.view(n, t, HEADS, width // HEADS).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, width))
        change: Tensor = self.down(F.gelu(self.up(self.second(x))))
        return x + change


class NanoGPT(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(NanoBlock(width) for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


def contestants(width: int, batch_size: int) -> dict[str, Callable[[], object]]:
    """Each is a pass over the same tokens with a network of its own."""
    torch.manual_seed(0)
    tokens, labels = torch.randint(VOCABULARY, (2, STEPS * batch_size, CONTEXT))
    data = Dataset(tokens, labels, tokens[:1], labels[:1], VOCABULARY, "language")
    options: dict[str, Any] = {"width": width, "depth": DEPTH, "heads": HEADS, "positions": "learned"}

    def network() -> nn.Module:
        return build_model("gpt", (CONTEXT,), VOCABULARY, input_dtype=torch.int64, **options).train()

    config = TrialConfig(
        dataset="random",
        data_fingerprint="",
        train_size=len(tokens),
        test_size=1,
        learning_rate=1e-3,
        batch_size=batch_size,
        epochs=1,
        measure_examples=1,
    )
    training = Training(config, network(), data)

    def loop(model: nn.Module) -> Callable[[], object]:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

        def plain() -> None:
            for chosen in torch.randperm(len(tokens)).split(batch_size):
                optimizer.zero_grad()
                logits = model(tokens[chosen])
                F.cross_entropy(logits.flatten(0, 1), labels[chosen].flatten()).backward()
                optimizer.step()

        return plain

    return {"ours": training.pass_over_data, "plain": loop(network()), "nanogpt": loop(NanoGPT(width))}


def seconds_of(run: Callable[[], object]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    prepare_process(1)
    rows = []
    print(f"{'width':>6} {'batch':>6} {'ms a step':>10} {'against plain':>14} {'against nanogpt':>16}")
    for width in options.widths:
        for batch_size in options.batch_sizes:
            runs = contestants(width, batch_size)
            rounds = [{name: seconds_of(run) for name, run in runs.items()} for _ in range(ROUNDS + 1)][1:]
            step = statistics.median(figures["ours"] for figures in rounds) / STEPS
            ratios = {
                name: statistics.median(figures[name] / figures["ours"] for figures in rounds)
                for name in ("plain", "nanogpt")
            }
            rows.append({"width": width, "batch_size": batch_size, "seconds": step, **ratios})
            against = f"{ratios['plain']:>14.2f} {ratios['nanogpt']:>16.2f}"
            print(f"{width:>6} {batch_size:>6} {1000 * step:>10.1f} {against}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"benchmark": "gpt", "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
