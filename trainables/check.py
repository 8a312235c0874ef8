"""Checks before the first trial: whether trials can train, on two examples of zeros.

What is odd about trials that can is found out on a few examples of the data (trainables.brief_trials).

A sweep runs `main` (sweeps.execution.preflight) in a separate process: a user's model may hang or crash, and importing
PyTorch would cost the driver half a GiB.
"""

import dataclasses
import itertools
import json
import math
import pickle
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainables.brief_trials import doubts, who, with_few_examples
from trainables.config import TrialConfig
from trainables.data import Dataset, Source
from trainables.data.dataset import EXAMPLES
from trainables.data.rows import tensor_of
from trainables.data.streams import StreamSource
from trainables.measures.placebo import rescaled_network
from trainables.models.of_config import build
from trainables.models.watched import watched
from trainables.optimizer_settings import OPTIMIZERS
from trainables.runtime.compiled import uncompiled
from trainables.runtime.errors import UserError, quoted, reason_of, text_of
from trainables.runtime.in_place import kept
from trainables.runtime.own_process import answer_file, end_at_once
from trainables.runtime.seeds import preserve_rng
from trainables.runtime.time_limit import time_limit
from trainables.tasks.by_name import load_task
from trainables.tasks.names import require_level
from trainables.training.batches import epoch_batches
from trainables.training.loop import Training
from trainables.training.optimizers.by_name import check_optimizer, through_a_file
from trainables.training.own_step import build_network, check_whole_batches, training_of
from trainables.training.parallel import Workers
from trainables.training.parts import Parts
from trainables.training.schedule import batch_sizes
from trainables.training.shifts import SEVERITIES, shifted
from trainables.training.weight_averaging import require_one_average


def check_trials(
    configs: Sequence[TrialConfig],
    source: Source,
    timeout: float | None,
    micro_batch_size: int | None,
    workers: int,
    labels: Sequence[NDArray[Any] | None] = (),
    *,
    begin: Callable[[TrialConfig], object] = lambda config: None,
) -> None:
    """Raises UserError where one of `configs` cannot run, or takes over `timeout` seconds for the two examples.

    `labels` are all of the dataset, of training and test: what no trial could learn or be judged by is refused, too.
    `begin` is called before each network is tried.
    """
    for name in {config.task or source.task for config in configs}:
        task = load_task(name)
        for part, known in zip(("training", "test"), labels, strict=False):
            if known is not None and task.checks_labels:
                try:
                    task.check_labels(torch.from_numpy(np.array(known)), part)
                except UserError:
                    raise
                except Exception as error:
                    raise UserError(f"`--task` {name} cannot check the {part} labels: {reason_of(error)}") from error
    for config in configs:
        if config.target_metric is not None and config.trial is None:  # whose step may have a metric of its own
            task = load_task(config.task or source.task)
            require_level("target_metric", config.target_metric, metric=task.metric, unit=task.unit)
        check_whole_batches(config, micro_batch_size, workers)
    for config in {_parts(config): config for config in configs}.values():
        begin(config)
        try:
            with time_limit(timeout, f"took more than the {timeout} s of --trial-timeout"):
                check_trial(config, source)
        except TimeoutError as error:
            raise UserError(f"{who(config, source)} cannot train on two examples: it {error}") from error
        except UserError:
            raise
        except Exception as error:
            few = "at batch size 1" if _smallest_batch(config) == 1 else "on two examples"
            reason = f"{type(error).__name__}: {quoted(next(iter(text_of(error).splitlines()), ''))}"
            raise UserError(f"{who(config, source)} cannot train {few}: it raises {reason}") from error
    if micro_batch_size is not None or workers > 1:
        check_parts(configs, source, micro_batch_size, workers)


def check_trial(config: TrialConfig, source: Source) -> None:
    """Raises UserError where the model or a remedy does not fit the data, by one update on two examples of zeros."""
    data = _zeros(source)
    few = dataclasses.replace(with_few_examples(config, 2), batch_size=min(2, _smallest_batch(config)))
    with torch.random.fork_rng(devices=[]):
        if few.trial is None and few.optimizer not in OPTIMIZERS:
            check_optimizer(few, build(few, data))
        training = training_of(few, build_network(few, data), data)
        require_one_average(config, training.optimizer)  # `few` has no local workers
        with uncompiled(), watched(training.model):
            training.check()
            training.train_epoch()
            _check_numbers(training, source)
            _check_state(training)
            for name in config.shift_names:
                shifted(training.data.test_inputs[:2], name, SEVERITIES[name][1][0])
            if config.rescaling is not None:
                rescaled_network(training.model, config.rescaling, training.data.train_inputs[:2])


def _check_numbers(training: Training, source: Source) -> None:
    """Raises UserError where the network changes inputs that are not zeros, also where PyTorch does not count it."""
    if source.of_tokens or training.config.trial is not None:
        return
    inputs = torch.linspace(0.25, 0.75, 2 * math.prod(source.input_shape)).view(2, *source.input_shape)
    training.task.evaluation_mode(training.model)
    with preserve_rng(inputs.device), torch.no_grad(), kept("`model`", "inputs", inputs, exact=True):
        training.model(inputs)


def _check_state(training: Training) -> None:
    """Raises UserError where a user's own trial has a state that no checkpoint can hold."""
    if training.config.trial is not None:
        try:
            through_a_file(training.state_dict())
        except Exception as error:
            raise UserError(
                f"`trial` {training.config.trial} must have a `state_dict` of tensors, numbers, text, lists and "
                f"dictionaries, got {quoted(reason_of(error))}"
            ) from error


def check_parts(configs: Iterable[TrialConfig], source: Source, micro_batch_size: int | None, workers: int = 1) -> None:
    """Raises UserError where batch norm has to see more examples of a batch together than a micro-batch holds, or is
    of a type that workers cannot share."""
    data = _zeros(source)
    models: dict[tuple[str, str], nn.Module] = {}
    for config in configs:
        key = config.model, config.model_options
        if key not in models:
            with torch.random.fork_rng(devices=[]):
                models[key] = build(config, data)
        for batch_size in batch_sizes(config):
            sizes = {len(batch) for batch in epoch_batches(config.train_size, batch_size, seed=0, epoch=0)}
            for rank, size in itertools.product(range(workers), sizes):
                Parts(models[key], Workers(rank, workers), micro_batch_size, config.ghost_batch_size).of(size)


def _smallest_batch(config: TrialConfig) -> int:
    """The fewest examples of a whole batch that the network sees at once: those of a worker with local steps."""
    return min(batch_sizes(config)) // (config.local_workers or 1)


def _parts(config: TrialConfig) -> tuple[object, ...]:
    """What decides whether a trial's parts fit its data and each other."""
    has_adversary = config.input_adversary is not None
    has_ghosts, is_single = config.ghost_batch_size is not None, _smallest_batch(config) == 1
    step = config.trial, config.task, config.label_smoothing > 0
    optimizer = (
        config.optimizer,
        config.optimizer_options,
        config.parameter_groups,
        config.layer_adaptation,
        config.momentum,
    )
    what = (
        config.shifts,
        config.rescaling,
        config.noise_scale,
        config.gradient_penalty is not None,  # which needs second derivatives
        config.svrg_every is not None,
        config.average is not None,
        config.local_workers is not None,
        config.model,
        config.model_options,
        config.augmentation,
        has_adversary,
        has_ghosts,
        is_single,
    )
    return *what, *step, *optimizer


def _few(configs: Iterable[TrialConfig], source: Source) -> Source:
    """The first examples of a split, after decoding the images of all splits; other sources as they are, but streams.

    Raises UserError for an image that cannot be decoded.
    """
    if source.decoded is None and not isinstance(source, StreamSource):
        return source
    splits = {(c.train_size, c.test_size, c.split_seed, c.validation_size or 0) for c in configs}
    for split in sorted(splits, key=str):
        data = source.split(*split)
    inputs, labels = (tensor_of(part[:EXAMPLES]).numpy() for part in (data.train_inputs, data.train_labels))
    own = None if source.task == source.dataset_task else source.dataset_task
    about = source.name, inputs, labels, None, None, source.num_classes
    return Source(*about, task=source.task, own_task=own, is_checked=True)


def _zeros(source: Source) -> Dataset:
    """Two examples of the source's shapes."""
    inputs = torch.zeros(2, *source.input_shape, dtype=torch.int64 if source.of_tokens else torch.float32)
    kind = torch.float32 if np.issubdtype(source.labels.dtype, np.floating) else torch.int64
    labels = torch.zeros(2, *source.labels.shape[1:], dtype=kind)
    return Dataset(inputs, labels, inputs, labels, source.num_classes, source.task)


def main() -> NoReturn:
    """Reads the pickled arguments of `check_trials` from standard input and answers, in a process of `own_process`.

    The answer is a line of JSON with the message of the UserError, or "", and then one for each of `doubts`.
    Between them are objects with the `model` that is tried next, for whoever finds that it has ended the process.
    """
    arguments = pickle.load(sys.stdin.buffer)  # noqa: S301, from the sweep that started this process
    configs, source, timeout, *others = arguments
    answer = answer_file()

    def say(text: str | dict[str, str]) -> None:
        answer.write(json.dumps(text) + "\n")
        answer.flush()

    def begin(config: TrialConfig) -> None:
        say({"model": config.model})

    try:
        source = _few(configs, source)
        check_trials(configs, source, timeout, *others, begin=begin)
    except UserError as error:
        say(str(error))
    else:
        say("")
        for line in doubts(configs, source, timeout, begin):
            say(line)
    end_at_once()
