"""Part 4: trials per minute of 1, 2, 4 and 8 processes on one GPU: what `--gpus-per-trial` should be.

Every process trains trials one after another, as a sweep's workers do (trainables.runtime.process, a share of the
memory), with recorded updates and without measures. All begin together once each has trained one epoch. The epochs of
WINDOW seconds are counted, as parts of a trial, the last one by its share.
"""

import multiprocessing
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch

from gpu_parts import Row, Setting, synchronize
from gpu_parts.images import patterns
from trainables.config import TrialConfig
from trainables.data import Source, load_source
from trainables.runtime.memory import limit_memory
from trainables.runtime.process import prepare_process
from trainables.training.cuda_graph import cuda_graph
from trainables.trial import Trial

TITLE = "Packing: processes on one GPU"
COLUMNS = ("network", "processes", "trials_per_minute", "of_one_process", "gpus_per_trial", "note")
NOTE = "Trials are of 30 epochs, without measures; the digits MLP at batch 64, C1 on 2000 images at batch 256."

PROCESSES = (1, 2, 4, 8)
WINDOW = 4.0  # seconds
START = 60.0  # seconds that processes may take to be ready


def run(setting: Setting) -> Iterator[Row]:
    for network in ("mlp", "c1"):
        alone = 0.0
        for count in PROCESSES[: 2 if network == "mlp" else 1] if setting.smoke else PROCESSES:
            row: Row = {"network": network, "processes": count, "gpus_per_trial": 1 / count}
            try:
                rate = trials_per_minute(network, count, setting)
            except RuntimeError as error:  # a card too small for so many
                yield {**row, "note": str(error)}
                break
            alone = alone or rate
            yield {**row, "trials_per_minute": rate, "of_one_process": rate / alone if alone else None}


def trial_of(network: str, smoke: bool) -> tuple[TrialConfig, Source]:
    source = load_source("digits") if network == "mlp" else patterns(40 if smoke else 2400, 8 if smoke else 32)
    train = 300 if network == "mlp" else len(source.inputs) * 5 // 6
    config = TrialConfig(
        dataset=source.name,
        data_fingerprint=source.fingerprint,
        train_size=train,
        test_size=len(source.inputs) - train,
        model=network,
        model_options='{"width": 4}' if smoke and network == "c1" else "{}",
        learning_rate=1e-3,
        batch_size=min(train, 64 if network == "mlp" else 256),
        epochs=30,
        measure_examples=train,
    )
    return config, source


def trials_per_minute(network: str, count: int, setting: Setting) -> float:
    """Of `count` processes together. Raises RuntimeError where one of them failed."""
    context = multiprocessing.get_context("spawn")
    barrier, counts = context.Barrier(count + 1), context.Queue()
    window = 1.0 if setting.smoke else WINDOW
    arguments = (network, setting.smoke, str(setting.device), count, window, barrier, counts)
    processes = [context.Process(target=work, args=(*arguments, rank), daemon=True) for rank in range(count)]
    for process in processes:
        process.start()
    try:
        barrier.wait(START)
        epochs = sum(counts.get(timeout=window + START) for _ in processes)
    except (queue.Empty, threading.BrokenBarrierError) as error:
        raise RuntimeError(f"{count} processes of {network} did not all train: {type(error).__name__}") from error
    finally:
        for process in processes:
            process.join(timeout=5)
            process.terminate()
    return float(epochs) / 30 / window * 60


def work(
    network: str, smoke: bool, device: str, count: int, window: float, barrier: Any, counts: Any, rank: int
) -> None:
    """One process: counts its epochs within the window."""
    prepare_process(1)
    place = torch.device(device)
    limit_memory(place, gib=None, gpu_share=1 / count)
    config, source = trial_of(network, smoke)
    record = cuda_graph if place.type == "cuda" else None
    try:
        trial = Trial(config, source, place, record=record)
        trial.training.train_epoch()
        synchronize(place)
    except BaseException:
        barrier.abort()  # for which the others would wait
        raise
    barrier.wait(START)
    now = time.monotonic()
    end, epochs = now + window, 0.0
    while now < end:
        if trial.training.finished:
            trial = Trial(config, source, place, record=record)
        begun = now
        trial.training.train_epoch()
        now = time.monotonic()
        epochs += min(1.0, (end - begun) / (now - begun))
    counts.put(epochs)
