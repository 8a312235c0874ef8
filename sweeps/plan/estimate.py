"""How long a sweep will take, from a pilot of each kind of trial (batch size, network, optimizer, remedy, rate).

The measures are counted in gradients of the loss they work on (trainables.measures.costs), and as often as a trial
measures along its run. The estimate is an upper bound where trials have a target loss whose moment no pilot foresees.
"""

import contextlib
import math
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from sweeps.plan.pilots import Pilots
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.measures.costs import gradients
from trainables.measuring import ALONG_THE_RUN
from trainables.remedies import REMEDIES
from trainables.runtime.errors import UserError, reason_of
from trainables.runtime.process_end import told_if_ended
from trainables.training.schedule import batch_size_at

PILOTS_SECONDS = 10.0  # of training, all together
LONGEST_PILOT = 1.0
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
    """Run the pilots in this process, with the `threads` of a trial, on the CPU.

    The trials of the keys `kept_weights` need no training, unless something is measured along the run. Raises UserError
    where a pilot fails, by a user's own code that has passed the check, say; where it ends the process, a line says so.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        kinds = {config.trial_id: (*_kind(config), config.trial_id in kept_weights) for config in configs}
        pilots = Pilots(source, min(LONGEST_PILOT, PILOTS_SECONDS / max(1, len(set(kinds.values())))))
        times: dict[tuple[object, ...], _Time] = {}
        for config in configs:
            if (kind := kinds[config.trial_id]) not in times:
                with _refused(config.label):
                    times[kind] = _time(config, pilots, is_trained=config.trial_id in kept_weights)
    finally:
        torch.set_num_threads(before)
    found = {key: times[kind] for key, kind in kinds.items()}
    trial_seconds = {key: time.training + time.measuring for key, time in found.items()}
    slots = max(1, len(os.sched_getaffinity(0)) // threads)
    return Estimate(
        seconds=START_AND_REPORT_SECONDS + sum(trial_seconds.values()) / min(slots, max(1, len(configs))),
        trial_seconds=trial_seconds,
        measure_seconds={key: time.measuring for key, time in found.items()},
        is_bound=any(time.is_bound for time in times.values()),
    )


@contextlib.contextmanager
def _refused(label: str) -> Iterator[None]:
    """Turns what is raised by the pilot of the trial of this `label` into a UserError."""
    must = "each kind of trial must train for a moment to be timed"
    try:
        with told_if_ended(f"{must}, but {label} has ended the process"):
            yield
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException as error:  # a user's code may raise any
        raise UserError(f"{must}, got {reason_of(error)} from {label}") from error


@dataclass(frozen=True)
class _Time:
    """Seconds of one trial; `is_bound` if they are an upper bound."""

    training: float
    measuring: float
    is_bound: bool


def _kind(config: TrialConfig) -> tuple[object, ...]:
    """What a trial's time depends on: trials of one kind share a pilot."""
    remedies = tuple(getattr(config, name) for name in REMEDIES)
    rate = config.learning_rate if config.has_target else None  # it decides when the target is reached
    batch_size = batch_size_at(config, config.total_epochs / 2)
    optimizer = config.optimizer, config.optimizer_options
    return (
        batch_size,
        rate,
        config.model,
        config.model_options,
        *optimizer,
        config.measures,
        config.noise_scale,
        *remedies,
    )


def _time(config: TrialConfig, pilots: Pilots, *, is_trained: bool) -> _Time:
    once = gradients(config.measures) * pilots.gradient(config) if config.measures else 0.0
    at_end = 2 * once if config.average is not None else once  # the raw weights are measured beside the average
    if is_trained and all(getattr(config, name) is None for name in (*ALONG_THE_RUN, "noise_scale")):
        return _Time(0.0, once, is_bound=False)
    pilot = pilots.of(config)
    along = once * ((math.ceil(pilot.epochs) - 1) // config.measure_every) if config.measure_every else 0.0
    measuring = pilot.seconds * (config.measure_share or 0.0) + along + at_end
    return _Time(pilot.start + pilot.seconds, measuring, pilot.is_bound)
