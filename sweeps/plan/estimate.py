"""How long a sweep will take, from short pilots: nothing about the machine, the model or the data is assumed.

For each kind of trial (batch size, network, optimizer, remedy) one of the grid trains for a moment. If it comes to its
end, its time is known; if not, its pace is carried on to its last epoch, and the estimate is a bound from above where
a target loss may end trials earlier. The measures are counted in gradients of the loss they work on
(trainables.measures.costs), and as often as a trial measures along its run.
"""

import dataclasses
import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.measures.costs import gradients
from trainables.remedies import REMEDIES
from trainables.trial import Trial

PILOT_SECONDS = 1.0
START_AND_REPORT_SECONDS = 20.0


@dataclass(frozen=True)
class Estimate:
    """Wall-clock `seconds` of a sweep on this machine; `is_bound` where trials may end earlier than assumed.

    `measure_seconds` are the part of each trial's `trial_seconds` that its measures take.
    """

    seconds: float
    trial_seconds: dict[str, float]
    measure_seconds: dict[str, float]
    is_bound: bool


def estimate(
    configs: Sequence[TrialConfig], source: Source, *, threads: int, kept_weights: Collection[str] = ()
) -> Estimate:
    """Runs the pilots in this process, with the `threads` of a trial, on the CPU.

    The trials of the keys `kept_weights` need no training, unless something is measured along the run.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        kinds = {config.trial_id: (*_kind(config), config.trial_id in kept_weights) for config in configs}
        pilots = {}
        for config in configs:
            if (kind := kinds[config.trial_id]) not in pilots:
                pilots[kind] = _pilot(config, source, is_trained=config.trial_id in kept_weights)
    finally:
        torch.set_num_threads(before)
    found = {key: pilots[kind] for key, kind in kinds.items()}
    trial_seconds = {key: pilot.training + pilot.measuring for key, pilot in found.items()}
    slots = max(1, len(os.sched_getaffinity(0)) // threads)
    return Estimate(
        seconds=START_AND_REPORT_SECONDS + sum(trial_seconds.values()) / min(slots, max(1, len(configs))),
        trial_seconds=trial_seconds,
        measure_seconds={key: pilot.measuring for key, pilot in found.items()},
        is_bound=any(not pilot.finished for pilot in pilots.values()) and configs[0].target_loss is not None,
    )


@dataclass(frozen=True)
class _Pilot:
    """Seconds of one trial, and whether its training came to its end."""

    training: float
    measuring: float
    finished: bool


def _kind(config: TrialConfig) -> tuple[object, ...]:
    """What a trial's time depends on: trials of one kind share a pilot."""
    remedies = tuple(getattr(config, name) for name in REMEDIES)
    return config.batch_size, config.model, config.model_options, config.optimizer, config.measures, *remedies


def _pilot(config: TrialConfig, source: Source, *, is_trained: bool) -> _Pilot:
    trial = Trial(dataclasses.replace(config, measure_every=None, measure_share=None), source)
    finished = trial.train(PILOT_SECONDS)
    training = trial.training.seconds
    if not finished:
        training /= trial.training.share_done
    once = gradients(config.measures) * trial.seconds_of_gradient() if config.measures else 0.0
    if is_trained and config.measure_every is None and config.measure_share is None:
        return _Pilot(0.0, once, finished=True)
    epochs = trial.training.epochs_done if finished else config.total_epochs
    along = once * ((math.ceil(epochs) - 1) // config.measure_every) if config.measure_every else 0.0
    return _Pilot(training, training * (config.measure_share or 0.0) + along + once, finished)
