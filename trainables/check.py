"""Whether trials can run at all, found out on two examples of zeros before any of them starts.

A sweep asks by `main` (sweeps.check) in a process of its own: a user's model may hang or end the process, and PyTorch
would take the driver half a GiB.
"""

import contextlib
import dataclasses
import itertools
import os
import pickle
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

import torch
from torch import nn

from trainables.config import TrialConfig
from trainables.data import Dataset, Source
from trainables.errors import UserError
from trainables.time_limit import time_limit
from trainables.training.batches import epoch_batches
from trainables.training.loop import Training
from trainables.training.parallel import Workers
from trainables.training.parts import Parts
from trainables.training.schedule import batch_size_at
from trainables.trial import build


def check_trials(
    configs: Sequence[TrialConfig], source: Source, timeout: float | None, micro_batch_size: int | None, workers: int
) -> None:
    """Raises UserError where one of `configs` cannot run, or takes over `timeout` seconds for the two examples."""
    for config in {_parts(config): config for config in configs}.values():
        try:
            with time_limit(timeout, f"took more than the {timeout} s of --trial-timeout"):
                check_trial(config, source)
        except TimeoutError as error:
            raise UserError(f"`model` must train on two examples first, got {config.model}, which {error}") from error
    if micro_batch_size is not None:
        check_micro_batches(configs, source, micro_batch_size, workers)


def check_trial(config: TrialConfig, source: Source) -> None:
    """Raises UserError where the model or a remedy does not fit the data, by one update on two examples of zeros."""
    data = _zeros(source)
    few = dataclasses.replace(
        config,
        train_size=2,
        batch_size=2,
        measure_examples=2,
        switch_epoch=None,
        switch_batch_size=None,
        batch_schedule=None,
    )
    with torch.random.fork_rng(devices=[]):
        Training(few, build(config, data), data).train_epoch()


def check_micro_batches(
    configs: Iterable[TrialConfig], source: Source, micro_batch_size: int, workers: int = 1
) -> None:
    """Raises UserError where batch norm has to see more examples of a batch together than a micro-batch holds."""
    data = _zeros(source)
    models: dict[tuple[str, str], nn.Module] = {}
    for config in (config.canonical() for config in configs):
        key = config.model, config.model_options
        if key not in models:
            with torch.random.fork_rng(devices=[]):
                models[key] = build(config, data)
        for batch_size in {batch_size_at(config, epoch) for epoch in range(config.total_epochs)}:
            sizes = {len(batch) for batch in epoch_batches(config.train_size, batch_size, seed=0, epoch=0)}
            for rank, size in itertools.product(range(workers), sizes):
                Parts(models[key], Workers(rank, workers), micro_batch_size, config.ghost_batch_size).of(size)


def _parts(config: TrialConfig) -> tuple[object, ...]:
    """What decides whether a trial's parts fit its data and each other."""
    has_adversary = config.input_adversary is not None
    return config.model, config.model_options, config.augmentation, has_adversary, config.ghost_batch_size is not None


def _zeros(source: Source) -> Dataset:
    """Two examples of the source's shapes."""
    inputs = torch.zeros(2, *source.input_shape, dtype=torch.int64 if source.of_tokens else torch.float32)
    labels = torch.zeros(2, *source.labels.shape[1:], dtype=torch.int64)
    return Dataset(inputs, labels, inputs, labels, source.num_classes)


def main() -> NoReturn:
    """Reads the pickled arguments of `check_trials` from standard input, answers on standard output with the message of
    the UserError, or nothing, and ends the process at once: PyTorch would take half a second to be taken down.
    """
    arguments = pickle.load(sys.stdin.buffer)  # noqa: S301, from the sweep that started this process
    with contextlib.redirect_stdout(sys.stderr):  # what a user's model prints is no answer
        try:
            check_trials(*arguments)
            answer = ""
        except UserError as error:
            answer = str(error)
    sys.stdout.write(answer)
    sys.stdout.flush()
    os._exit(0)
