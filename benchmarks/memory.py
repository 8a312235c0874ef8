"""The peak memory of a trial beside a plain PyTorch loop: resident MiB of whole processes. Linux only.

    python benchmarks/memory.py [--networks mlp f1 c1] [--batch-size 256] [--json FILE]

Each process trains the same network on the same random examples for two epochs, evaluates it, and ends:

    plain      a DataLoader, PyTorch's default Adam, and the test set in batches, as tutorials write it
    trial      trainables.trial as Ray's worker runs it, Ray imported, without measures
    measured   the same with the default measures on 256 examples

`libraries` is what a process has before it makes data or network. `of plain` is the peak over that of the plain loop.
"""

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from ctypes import CDLL
from pathlib import Path
from typing import Any

import numpy as np

NETWORKS: dict[str, tuple[str, tuple[int, ...], str]] = {
    "mlp": ("mlp", (64,), '{"widths": [128, 128]}'),
    "f1": ("f1", (784,), "{}"),
    "c1": ("c1", (3, 32, 32), "{}"),
}
TRAIN_SIZE, TEST_SIZE, MEASURED, EPOCHS = 2560, 1000, 256, 2
SIDES = ("plain", "trial", "measured")
STATUS = Path("/proc/self/status")


def resident(field: str) -> float:
    """MiB that are resident now (`VmRSS`), or were at most (`VmHWM`)."""
    return int(STATUS.read_text().split(f"{field}:")[1].split()[0]) / 1024


def peak_beyond(run: Callable[[], object]) -> float:
    """The most MiB that `run` holds at once beyond what was there."""
    libc = CDLL("libc.so.6")
    libc.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: what is freed goes back at once
    gc.collect()
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM := VmRSS
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def examples(shape: tuple[int, ...]) -> tuple[Any, Any]:
    draw = np.random.default_rng(0)
    count = TRAIN_SIZE + TEST_SIZE
    return draw.random((count, *shape), dtype=np.float32), draw.integers(10, size=count)


def plain(network: str, batch_size: int) -> float:
    """Trains as tutorials do; returns the MiB before it begins."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, TensorDataset

    from trainables.models import build_model

    torch.set_num_threads(1)
    libraries = resident("VmRSS")
    name, shape, model_options = NETWORKS[network]
    whole = TensorDataset(*map(torch.from_numpy, examples(shape)))
    train, test = torch.utils.data.random_split(whole, (TRAIN_SIZE, TEST_SIZE))
    model = build_model(name, shape, 10, **json.loads(model_options))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        model.train()
        for inputs, labels in DataLoader(train, batch_size=batch_size, shuffle=True):
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for inputs, labels in DataLoader(test, batch_size=batch_size):
                cross_entropy(model(inputs), labels)
    return libraries


def trial(network: str, batch_size: int, *, measures: bool) -> float:
    """Trains, and measures if asked, as a worker does; returns the MiB before it begins."""
    import trainables.tune.tune_trial  # noqa: F401, with Ray
    from trainables.config import TrialConfig
    from trainables.data import Source
    from trainables.runtime.process import prepare_process
    from trainables.trial import Trial

    prepare_process(1)
    libraries = resident("VmRSS")
    name, shape, model_options = NETWORKS[network]
    source = Source("random", *examples(shape), None, None, 10)
    config = TrialConfig(dataset="random", data_fingerprint="", train_size=TRAIN_SIZE, test_size=TEST_SIZE,
        model=name, model_options=model_options, learning_rate=1e-3, batch_size=batch_size, epochs=EPOCHS,
        measure_examples=MEASURED)  # fmt: skip
    run = Trial(config, source)
    run.train()
    if measures:
        run.measure()
    return libraries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--only", choices=SIDES, help="run one side in this process and print its JSON")
    options = parser.parse_args()
    if options.only:
        network, batch_size = options.networks[0], options.batch_size
        measures = options.only == "measured"
        run = plain if options.only == "plain" else lambda *what: trial(*what, measures=measures)
        print(json.dumps({"libraries": run(network, batch_size), "peak": resident("VmHWM")}))
        return
    rows = []
    print(f"{'network':>8} {'':>9} {'libraries':>10} {'peak [MiB]':>11} {'of plain':>9}")
    for network in options.networks:
        peaks = {}
        for side in SIDES:
            command = [sys.executable, __file__, "--only", side, "--networks", network]
            done = subprocess.run(
                [*command, "--batch-size", str(options.batch_size)], check=True, stdout=subprocess.PIPE, text=True
            )
            found = json.loads(done.stdout)
            peaks[side] = found["peak"]
            row = {"network": network, "side": side, **found, "of_plain": found["peak"] / peaks["plain"]}
            rows.append(row)
            print(f"{network:>8} {side:>9} {row['libraries']:>10.0f} {row['peak']:>11.0f} {row['of_plain']:>9.2f}")
    if options.json:
        about = {"benchmark": "memory", "batch_size": options.batch_size}
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
