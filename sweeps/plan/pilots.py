"""How long one trial takes, found out by training for a moment: nothing is assumed of machine, model or data.

Where an epoch is short, the trial trains for a moment as it would in the sweep. If it ends, its time is known. If not,
its pace is carried on to its last epoch; with a target loss, to the epoch at which the training loss will get there. A
loss that falls like exp(-k e) in the epochs e gets there early and one that falls like a power e^-k late; trials are in
between, so the epoch is the geometric mean of the two, each fitted to the later half of the curve:

    log loss = a - k e    and    log loss = a - k log e

Where an epoch is long, a few examples do: epochs over 8, 64, 512, ... examples, until one takes SUBSET_SECONDS. An
update of a batch that is larger still is on the line through the last two. The loss says nothing then, and the trial is
taken to train for all of its epochs.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainables.brief_trials import with_few_examples
from trainables.config import LARGE_NETWORK, TrialConfig
from trainables.data import Source
from trainables.measures.by_name import loss_of
from trainables.sharpness import ModelLoss
from trainables.training.looks import is_test_always_due, times_tested
from trainables.training.loop import Training
from trainables.training.operation_list import operation_list
from trainables.training.schedule import batch_size_at
from trainables.trial import Trial
from trainables.units import steps_per_epoch

SHORT_EPOCH = 0.5  # seconds, of which a pilot takes at least FITTED
FIRST_EXAMPLES, TIMES_MORE = 8, 8
SUBSET_SECONDS = 0.5
FITTED = 4  # epochs of a curve, at least


@dataclass(frozen=True)
class Pilot:
    """The seconds and epochs of a trial's training; `is_bound` if they are an upper bound. `start`: seconds before."""

    seconds: float
    epochs: float
    is_bound: bool
    start: float = 0.0


@dataclass(frozen=True)
class Moment:
    """An epoch over `examples`, as many for training as for testing, in updates of `batch_size`: seconds of each."""

    examples: int
    batch_size: int
    update: float
    evaluation: float  # of one example


class Pilots:
    """Pilots of trials on `source`, each of at most `seconds` of training. What two trials share is timed once."""

    def __init__(self, source: Source, seconds: float) -> None:
        self._source = source
        self._seconds = seconds
        self._moments: dict[tuple[object, ...], Moment] = {}
        self._gradients: dict[tuple[object, ...], float] = {}

    def of(self, config: TrialConfig) -> Pilot:
        """The time of the training of `config`."""
        most = config.total_epochs
        epoch, evaluations = self._epoch(config)
        if epoch > SHORT_EPOCH * evaluations:
            return Pilot(epoch * most, most, is_bound=config.has_target)
        started = time.perf_counter()
        trial = Trial(
            dataclasses.replace(config, measure_every=None, measure_share=None), self._source, record=operation_list
        )
        start = time.perf_counter() - started
        if trial.train(self._seconds):
            return Pilot(trial.training.seconds, trial.training.epochs_done, is_bound=False, start=start)
        training, rows = trial.training, trial.training.epochs
        needed = most
        if config.target_loss is not None:
            epochs, losses = ([row[name] for row in rows] for name in ("epoch", "train_loss"))
            needed = epochs_to(config.target_loss, epochs, losses, most)
        later = rows[len(rows) // 2 :]
        begun = rows[len(rows) // 2 - 1]["epoch"] if len(rows) > 1 else 0
        pace = sum(row["seconds"] for row in later) / (training.epochs_done - begun)
        seconds = training.seconds + (needed - training.epochs_done) * pace
        return Pilot(seconds, needed, is_bound=config.has_target and needed == most, start=start)

    def gradient(self, config: TrialConfig) -> float:
        """The seconds of a gradient of the loss that is measured; 0 if the loss cannot be measured."""
        how = config.measure_examples, config.measure_dtype, config.measure_batch_norm, config.measure_batch_size
        key = config.model, config.model_options, *how
        if key not in self._gradients:
            training = Trial(with_few_examples(config, config.measure_examples), self._source).training
            try:
                self._gradients[key] = _seconds_of_gradient(config, training)
            except Exception:  # the check says why, and what is not measured takes no time
                self._gradients[key] = 0.0
        return self._gradients[key]

    def _epoch(self, config: TrialConfig) -> tuple[float, float]:
        """The seconds of an epoch, from as few examples as will do, and how often an epoch is evaluated."""
        batch_size = batch_size_at(config, config.total_epochs / 2)
        steps = steps_per_epoch(config.train_size, batch_size)
        every = config.every.as_bounds(config.train_size)
        evaluations = max(steps / every[0], config.train_size / every[1])
        examples = (config.train_loss_examples or config.train_size) + _share_tested(config) * config.test_size
        last: list[Moment] = []
        size, epoch = 0, 0.0
        while size < config.train_size:
            size = min(config.train_size, size * TIMES_MORE or FIRST_EXAMPLES)
            started = time.perf_counter()
            last.append(self._moment(config, size, min(batch_size, size)))
            update = last[-1].update
            if (further := batch_size - last[-1].batch_size) > 0:
                update += further * _slope(last)
            epoch = steps * update + evaluations * examples * last[-1].evaluation
            if len(last) > 1 and (epoch <= SHORT_EPOCH * evaluations or time.perf_counter() - started > SUBSET_SECONDS):
                break
        return epoch, evaluations

    def _moment(self, config: TrialConfig, size: int, batch_size: int) -> Moment:
        few = dataclasses.replace(
            with_few_examples(config, size),
            batch_size=batch_size,
            test_size=min(size, config.test_size),
            validation_size=None,
            measure_every=None,
            measure_share=None,
        ).canonical()
        key = tuple(value for name, value in vars(few).items() if name not in _OF_NO_MOMENT)
        if key not in self._moments:
            training = Trial(few, self._source).training
            started = time.perf_counter()
            training.pass_over_data()
            passed = time.perf_counter()
            training.evaluate()
            evaluated = time.perf_counter()
            update = (passed - started) / steps_per_epoch(size, batch_size)
            self._moments[key] = Moment(
                size, batch_size, update, (evaluated - passed) / (few.train_size + few.test_size)
            )
        return self._moments[key]


def _share_tested(config: TrialConfig) -> float:
    """The share of the logging points at which the test set is evaluated, too."""
    if is_test_always_due(config):
        return 1.0
    epochs = math.ceil(config.total_epochs)
    return times_tested(epochs, config.test_size, config.train_size) / epochs


_OF_NO_MOMENT = {"learning_rate", "seed", "split_seed", "weight_decay", "measures"} | {
    "target_loss",
    "target_metric",
    "target_test_loss",
}


def _seconds_of_gradient(config: TrialConfig, training: Training) -> float:
    times = [(0, 0.0)]
    size, took = config.measure_examples, 0.0
    while times[-1][0] < size and (len(times) < 3 or took < SUBSET_SECONDS):
        begun = time.perf_counter()
        loss = _measured_loss(config, training, min(size, times[-1][0] * TIMES_MORE or FIRST_EXAMPLES))
        loss.value_and_gradient(loss.params)
        started = time.perf_counter()
        loss.value_and_gradient(loss.params)
        ended = time.perf_counter()
        took = ended - begun
        times.append((loss.examples, ended - started))
    (fewer, before), (examples, seconds) = times[-2:]
    return seconds + (size - examples) * max(0.0, seconds - before) / (examples - fewer)


def _measured_loss(config: TrialConfig, training: Training, examples: int) -> ModelLoss:
    """The loss in the arithmetic in which measures spend their time; whether float32 agrees is not asked."""
    is_large = sum(parameter.numel() for parameter in training.model.parameters()) >= LARGE_NETWORK
    dtype = config.measure_dtype if config.measure_dtype != "auto" else "float32" if is_large else "float64"
    batch_size = config.canonical_measure_batch_size
    batch_size = None if batch_size is None else min(batch_size, examples)
    mode = config.measure_batch_norm
    loss = loss_of(
        training.model,
        training.data,
        examples=examples,
        dtype=dtype,
        task=training.task,
        batch_norm=mode,
        batch_size=batch_size,
    )
    return loss.single() or loss


def _slope(moments: Sequence[Moment]) -> float:
    """Seconds that an update takes for each further example, not below 0."""
    last = moments[-1]
    if len(moments) == 1:
        return last.update / last.batch_size
    before = moments[-2]
    return max(0.0, (last.update - before.update) / (last.batch_size - before.batch_size))


def epochs_to(target: float, epochs: Sequence[float], losses: Sequence[float], most: float) -> float:
    """The epoch at which a training loss, `losses` after `epochs`, reaches `target`; `most` if it is not falling."""
    if len(losses) < FITTED:
        return most
    later = slice(len(losses) // 2, None)
    places, heights = np.asarray(epochs[later], float), np.log(np.maximum(losses[later], 1e-30))
    found = []
    for of, back in ((lambda x: x, lambda x: x), (np.log, lambda x: math.exp(min(x, 700.0)))):
        slope, height = np.polyfit(of(places), heights, 1)
        if not slope < 0:
            return most
        found.append(min(most, max(epochs[-1], back((math.log(target) - height) / slope))))
    return math.sqrt(found[0] * found[1])
