"""Which batch size and learning rate are in force.

Warmup is linear in the epochs done and starts from 0: the update that brings the count of epochs to e uses
peak * min(1, e / warmup_epochs), so the first update is never 0 and a fractional `warmup_epochs` works; with
`warmup_steps` W update k uses peak * min(1, k / W). The gradual warmup of Goyal et al. 2017 (arXiv 1706.02677, section
2.2) differs: it starts from the small batch's rate, which is peak / k at k times its batch size.

The peak is `learning_rate`, scaled by batch_size / base_batch_size where the trial has `learning_rate_scaling`. When
the batch size changes the rate is kept (`keep`), or multiplied by the ratio to the first batch size (`linear`) or by
its square root (`sqrt`). Warmup is not run again then.

Decay acts on top. With d done before the update, in epochs, or in steps where the trial's length is in steps, W the end
of the warmup, L the end of the trial, progress p = (d - W) / (L - W) and floor f (`decay_floor`), the factor is

    cosine       f + (1 - f) (1 + cos(pi p)) / 2
    linear       f + (1 - f) (1 - p)
    wsd          1 up to d = (1 - s) L, then linear in d from 1 to f at L; s is `decay_share`
    a function   its value at p
    step         decay_factor after each of `decay_epochs`

With `decay_by` batch_size the batch grows by 1 / decay_factor instead (Smith et al. 2018), and once it is the whole
training set the learning rate takes what is left of the decay. With `seesaw` (Meterez et al. 2025, arXiv 2510.14717)
the batch grows so too, and the rate is the peak times the decay times the root of the batch's growth. With `same_steps`
all of these epochs are stretched like the trial itself (Hoffer et al. 2017).
"""

import functools
import math
import sys
from collections.abc import Callable

from trainables.config import TrialConfig
from trainables.remedies import DECAY_SHARE, GROWING, at_least_zero, batch_schedule, decay_epochs
from trainables.runtime.errors import UserError, one_line
from trainables.runtime.importing import is_import_path, load_callable
from trainables.runtime.sources import source_fingerprint
from trainables.units import ROUNDING


def batch_size_at(config: TrialConfig, epochs_done: float, step: int = 0) -> int:
    """The batch size of the update that follows `epochs_done` epochs and `step` updates."""
    switch = config.switch_epoch
    if config.switch_batch_size is not None and switch is not None and epochs_done + ROUNDING >= switch:
        return config.switch_batch_size
    if config.decay_by in GROWING:
        return min(config.train_size, round(config.batch_size / _step_decay(config, epochs_done, step)))
    size = config.batch_size
    for done, scheduled in batch_schedule(config.batch_schedule):
        if done.is_reached(step, epochs_done, config.train_size, config.stretch):
            size = scheduled
    return size


def batch_sizes(config: TrialConfig) -> set[int]:
    """All batch sizes that the trial may come to."""
    sizes = {config.batch_size, config.switch_batch_size, *(size for _, size in batch_schedule(config.batch_schedule))}
    if config.decay_by in GROWING:
        factors = [(config.decay_factor or 1.0) ** times for times in range(len(decay_epochs(config.decay_epochs)) + 1)]
        sizes |= {min(config.train_size, round(config.batch_size / factor)) for factor in factors}
    return {size for size in sizes if size is not None}


class Schedule:
    """The learning rate of every update of a trial."""

    def __init__(self, config: TrialConfig) -> None:
        self._config = config
        self._peak = config.learning_rate
        if config.base_batch_size is not None:
            self._peak *= _ratio(config.learning_rate_scaling, config.batch_size / config.base_batch_size)
        self._warmup = config.warmup_epochs * config.stretch
        length = config.length
        self._is_in_steps = length.unit == "steps"
        self._length = config.in_length(length)
        self._start = config.warmup_end * (config.stretch if config.warmup_steps is None else 1.0)
        # of a decay that begins where the trial ends: an epoch or step of a trial of whole ones
        least = 1.0 if isinstance(length.value, int) and length.unit != "examples" else sys.float_info.min
        self._whole = max(least, self._length - self._start)

    def __call__(self, epochs_done: float, batch_size: int, step: int = 1) -> float:
        """The rate of update number `step`, which brings the epochs done to `epochs_done`, at `batch_size`."""
        config, rate = self._config, self._peak
        before = max(0.0, epochs_done - batch_size / config.train_size)
        if config.decay_by == "batch_size":
            decay = _step_decay(config, before, step - 1)
            rate *= decay * batch_size / config.batch_size if batch_size == config.train_size else 1.0
        elif config.decay_by == "seesaw":
            rate *= _step_decay(config, before, step - 1) * math.sqrt(batch_size / config.batch_size)
        elif batch_size != config.batch_size:
            rate *= _ratio(config.switch_learning_rate, batch_size / config.batch_size)
        if config.decay == "step" and config.decay_by not in GROWING:
            rate *= _step_decay(config, before, step - 1)
        if config.warmup_steps is not None:
            if step < config.warmup_steps:
                return rate * step / config.warmup_steps
        elif epochs_done < self._warmup:
            return rate * epochs_done / self._warmup
        if config.has_decay_length:
            rate *= self._decay(step - 1 if self._is_in_steps else before)
        return rate

    def _decay(self, done: float) -> float:
        """The factor where the decay has a length, with `done` in the unit of `TrialConfig.length`."""
        floor, decay = self._config.decay_floor, self._config.decay or ""
        if decay == "wsd":
            share = self._config.decay_share or DECAY_SHARE
            past = max(0.0, done - (1 - share) * self._length)
            return 1 - (1 - floor) * min(1.0, past / (share * self._length))
        past = max(0.0, done - self._start)
        if is_import_path(decay):
            return _factor(decay, min(1.0, past / self._whole))
        if decay == "linear":
            return floor + (1 - floor) * (1 - min(1.0, past / self._whole))
        return floor + (1 - floor) * (1 + math.cos(math.pi * past / self._whole)) / 2


def learning_rate_at(config: TrialConfig, epochs_done: float, batch_size: int, step: int = 1) -> float:
    """The learning rate of update number `step`, which brings the epochs done to `epochs_done`, at `batch_size`."""
    return Schedule(config)(epochs_done, batch_size, step)


def check_decay_function(decay: str | None) -> None:
    """Raises UserError unless `decay` is built in, or a function with a finite factor at 0, 1/2 and 1."""
    if decay is not None and is_import_path(decay):
        for progress in (0.0, 0.5, 1.0):
            _factor(decay, progress)


def fingerprint_of_decay(path: str) -> str:
    """Hash the source of the function at `path`. Raises UserError as `check_decay_function` does."""
    return source_fingerprint(path, "decay", check_decay_function)


@functools.lru_cache(maxsize=8)
def _function(path: str) -> Callable[[float], float]:
    return load_callable(path, "decay")


def _factor(path: str, progress: float) -> float:
    """The value of a user's function; raises UserError for one that is not a finite factor of 0 or more."""
    try:
        factor = float(_function(path)(progress))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"`decay` {path} raises {type(error).__name__} at {progress:g}: {one_line(error)}") from error
    if not at_least_zero(factor):
        raise UserError(f"`decay` {path} must return a finite factor of 0 or more, got {factor} at {progress:g}")
    return factor


def _ratio(rule: str | None, ratio: float) -> float:
    return {"linear": ratio, "sqrt": math.sqrt(ratio)}.get(rule or "", 1.0)


def _step_decay(config: TrialConfig, epochs_done: float, step: int) -> float:
    """decay_factor to the power of the decays that lie behind."""
    amounts = decay_epochs(config.decay_epochs)
    passed = sum(amount.is_reached(step, epochs_done, config.train_size, config.stretch) for amount in amounts)
    return float((config.decay_factor or 1.0) ** passed)
