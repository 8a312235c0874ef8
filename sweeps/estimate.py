"""How long a sweep will take, from short pilots: nothing about the machine, the model or the data is assumed.

For each kind of trial (batch size, network, optimizer, remedy) one of the grid trains for a moment. If it comes to its
end, its time is known; if not, its pace is carried on to its last epoch, and the estimate is a bound from above where
a target loss may end trials earlier. The measures are counted in gradients of the loss they work on, and as often
as a trial measures along its run.
"""

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.remedies import REMEDIES
from trainables.sharpness import ModelLoss
from trainables.trial import Trial

PILOT_SECONDS = 1.0
MEASURE_GRADIENTS = 180  # of one trial's measures, typical: two boxes by two methods, and Lanczos
START_AND_REPORT_SECONDS = 20.0


@dataclass(frozen=True)
class Estimate:
    """Wall-clock `seconds` of a sweep on this machine; `is_bound` where trials may end earlier than assumed."""

    seconds: float
    trial_seconds: dict[str, float]
    is_bound: bool


def estimate(configs: Sequence[TrialConfig], source: Source, *, threads: int) -> Estimate:
    """Runs the pilots in this process, with the `threads` of a trial, on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pilots = {}
        for config in configs:
            if _kind(config) not in pilots:
                pilots[_kind(config)] = _pilot(config, source)
    finally:
        torch.set_num_threads(before)
    trial_seconds = {config.trial_id: pilots[_kind(config)][0] for config in configs}
    slots = max(1, len(os.sched_getaffinity(0)) // threads)
    return Estimate(
        seconds=START_AND_REPORT_SECONDS + sum(trial_seconds.values()) / min(slots, max(1, len(configs))),
        trial_seconds=trial_seconds,
        is_bound=any(not finished for _, finished in pilots.values()) and configs[0].target_loss is not None,
    )


def _kind(config: TrialConfig) -> tuple[object, ...]:
    """What a trial's time depends on: trials of one kind share a pilot."""
    remedies = tuple(getattr(config, name) for name in REMEDIES)
    return config.batch_size, config.model, config.model_options, config.optimizer, config.measures, *remedies


def _pilot(config: TrialConfig, source: Source) -> tuple[float, bool]:
    """The seconds of one trial, and whether its training came to its end in the pilot."""
    trial = Trial(dataclasses.replace(config, measure_every=None, measure_share=None), source)
    finished = trial.train(PILOT_SECONDS)
    training = trial.training.seconds
    if not finished:
        training *= config.total_epochs / trial.training.epochs_done
    data = trial.training.data
    examples = slice(config.measure_examples)
    loss = ModelLoss(
        trial.training.model,
        data.train_inputs[examples],
        data.train_labels[examples],
        dtype=getattr(torch, config.measure_dtype),
    )
    loss.value_and_gradient(loss.params)
    started = time.perf_counter()
    loss.value_and_gradient(loss.params)
    once = MEASURE_GRADIENTS * (time.perf_counter() - started)
    epochs = trial.training.epochs_done if finished else config.total_epochs
    along = once * ((epochs - 1) // config.measure_every) if config.measure_every else 0.0
    return training * (1 + (config.measure_share or 0.0)) + along + once, finished
