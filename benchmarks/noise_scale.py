"""What `--noise-scale` adds to a training step, in CPU time: the ratios of one run.

    python benchmarks/noise_scale.py [--networks NAME ...] [--rounds 9] [--json FILE]

In one process, in turn, with one thread on random data: trainables.training.loop without the noise scale, with that of
the normalization layers, and with that of all layers. `normalization` and `all` are their time over that without, the
median over rounds: 1.05 is 5 % more. CPU time, not time, is counted, so that other processes of the machine do not.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.data import Dataset
from trainables.measuring import NOISE_SCALES
from trainables.models import build_model
from trainables.runtime.process import prepare_process
from trainables.training.loop import Training
from trainables.training.noise_scale import EVERY, FIRST

SECONDS = 0.3  # of a round, about
STEPS = 4  # of a pass over the data
GPT = {"depth": 2, "heads": 4, "positions": "learned"}
NETWORKS: dict[str, tuple[str, tuple[int, ...], dict[str, Any], int]] = {
    "mlp 128 x 128": ("mlp", (64,), {"widths": [128, 128]}, 64),
    "gpt of width 64": ("gpt", (64,), {"width": 64, **GPT}, 16),
    "gpt of width 128": ("gpt", (64,), {"width": 128, **GPT}, 16),
    "gpt of width 256": ("gpt", (128,), {"width": 256, **GPT}, 8),
    "vit of width 64": ("vit", (3, 32, 32), {"depth": 2}, 32),
    "c1, no batch norm": ("c1", (3, 32, 32), {"batch_norm": False}, 64),
}


def training_of(name: str, noise_scale: str | None) -> Training:
    model, shape, options, batch_size = NETWORKS[name]
    torch.manual_seed(0)
    examples, of_tokens = STEPS * batch_size, model == "gpt"
    inputs: Tensor = torch.randint(65, (examples, *shape)) if of_tokens else torch.rand(examples, *shape)
    labels = torch.randint(65, (examples, *shape)) if of_tokens else torch.randint(10, (examples,))
    task, classes = ("language", 65) if of_tokens else ("classification", 10)
    data = Dataset(inputs, labels, inputs[:1], labels[:1], classes, task)
    network: nn.Module = build_model(model, shape, data.num_classes, input_dtype=inputs.dtype, **options)
    config = TrialConfig(
        dataset="random",
        data_fingerprint="",
        train_size=examples,
        test_size=1,
        learning_rate=1e-4,
        batch_size=batch_size,
        epochs=10**6,
        measure_examples=1,
        noise_scale=noise_scale,
    )
    return Training(config, network, data)


def ratios(name: str, rounds: int) -> dict[str, Any]:
    """CPU time with a noise scale over that without."""
    named = (None, *NOISE_SCALES) if name.startswith(("gpt", "vit")) else (None, "all")  # others have no norms
    trainings = {which: training_of(name, which) for which in named}
    for training in trainings.values():
        for _ in range(FIRST // STEPS):  # of which every one is watched
            training.pass_over_data()
    started = time.process_time()
    trainings[None].pass_over_data()
    trainings[None].pass_over_data()
    passes = EVERY * max(1, round(SECONDS / EVERY / ((time.process_time() - started) / 2)))
    times: dict[str | None, list[float]] = {which: [] for which in trainings}
    for _ in range(rounds + 1):
        for which, training in trainings.items():
            started = time.process_time()
            for _ in range(passes):
                training.pass_over_data()
            times[which].append(time.process_time() - started)
    plain = times[None][1:]
    found: dict[str, Any] = {"network": name, "milliseconds": 1000 * statistics.median(plain) / passes / STEPS}
    for which in NOISE_SCALES:
        own = times.get(which)
        found[which] = own and statistics.median(one / two for one, two in zip(own[1:], plain, strict=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    prepare_process(1)
    rows = []
    print(f"{'network':20} {'ms a step':>10} {'normalization':>14} {'all':>6}")
    for name in options.networks:
        rows.append(row := ratios(name, options.rounds))
        shown = [f"{row[which]:.3f}" if row[which] else "-" for which in NOISE_SCALES]
        print(f"{name:20} {row['milliseconds']:10.2f} {shown[0]:>14} {shown[1]:>6}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
