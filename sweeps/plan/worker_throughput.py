"""Steps of several workers on this machine, to check and fit the model of analysis/questions/data_parallel.py.

In each repeat one worker trains alone with its share of a batch, then all workers train with the whole batch, then they
sum messages of several sizes. They take turns because a busy machine slows down and speeds up, and the fastest step of
each repeat counts, because what else runs on the machine can only add time.
"""

import dataclasses
import json
import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from sweeps.plan.throughput import REPEATS, Passes
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.runtime.errors import UserError
from trainables.training.parallel import CPU, Workers

FRACTIONS = (1, 4, 16, 64)  # messages are the gradient, and parts of it
SUMS = 10  # of each message in a repeat


@dataclass(frozen=True)
class WorkerTimes:
    """`steps` and `all_reduces` as `check_lines` takes them."""

    steps: pd.DataFrame
    all_reduces: pd.DataFrame


def measure_workers(
    configs: Sequence[TrialConfig],
    source: Source,
    counts: Sequence[int],
    gradient_bytes: int,
    seconds: float,
    threads: int,
) -> WorkerTimes:
    """Times of `counts` CPU processes with `threads` each.

    `seconds`: about as long is measured for each of `configs`, together and alone. Every count is at least 2 and no
    larger than the smallest batch size. Raises UserError where a worker fails.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    steps, sums = [], []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            try:
                spawn(_work, (count, folder, configs, source, gradient_bytes, seconds, threads), nprocs=count)
            except (ProcessRaisedException, ProcessExitedException) as error:
                reason = str(error).strip().splitlines()[-1]
                raise UserError(f"`--measure-workers {count}`: training failed with {reason}") from None
            found = json.loads((Path(folder) / "times.json").read_text())
        more = {"workers": count, "stretch": max(1.0, count * threads / cores)}
        steps += [row | more for row in found["steps"]]
        sums += [row | more for row in found["sums"]]
    return WorkerTimes(pd.DataFrame(steps), pd.DataFrame(sums))


def _work(
    rank: int,
    count: int,
    folder: str,
    configs: Sequence[TrialConfig],
    source: Source,
    gradient_bytes: int,
    seconds: float,
    threads: int,
) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if Path("/sys/class/net/lo").exists() else "lo0")
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=count)
    workers = Workers.of_process_group(CPU)
    steps: list[dict[str, float]] = []
    for config in configs:
        steps += _steps(config, source, workers, seconds)
    sums = _sums(gradient_bytes)
    if rank == 0:
        (Path(folder) / "times.json").write_text(json.dumps({"steps": steps, "sums": sums}))
    dist.destroy_process_group()


def _steps(config: TrialConfig, source: Source, workers: Workers, seconds: float) -> list[dict[str, float]]:
    own = dataclasses.replace(config, batch_size=math.ceil(config.batch_size / workers.count))
    alone = Passes(own, source, CPU, updates=1) if workers.rank == 0 else None
    together = Passes(config, source, CPU, workers, updates=1)
    passes = int(workers.sum(torch.tensor(alone.passes_in(seconds / REPEATS) if alone else 0)))
    steps = []
    for repeat in range(REPEATS):
        took = min(alone.run_once() for _ in range(passes)) if alone else 0.0
        dist.barrier()
        both = min(together.run_once() for _ in range(passes))
        steps.append({"batch_size": config.batch_size, "replicate": repeat, "alone": took, "seconds": both})
    return steps


def _sums(gradient_bytes: int) -> list[dict[str, float]]:
    messages = [torch.zeros(max(1, gradient_bytes // 4 // fraction)) for fraction in FRACTIONS]
    return [
        {"bytes": 4 * len(message), "seconds": min(_sum_once(message) for _ in range(SUMS))}
        for _ in range(REPEATS)
        for message in messages
    ]


def _sum_once(message: Tensor) -> float:
    dist.barrier()
    started = time.perf_counter()
    dist.all_reduce(message)
    return time.perf_counter() - started
