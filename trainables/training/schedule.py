"""Which batch size and learning rate are in force.

Warmup is linear in the epochs done and starts from 0: the update that brings the count of epochs to e uses
peak * min(1, e / warmup_epochs), so the first update is never 0 and a fractional `warmup_epochs` works. The gradual
warmup of Goyal et al. 2017 (arXiv 1706.02677, section 2.2) differs: it starts from the small batch's rate, which is
peak / k at k times its batch size.

The peak is `learning_rate`, scaled by batch_size / base_batch_size where the trial has `learning_rate_scaling`. When
the batch size changes the rate is kept (`keep`), or multiplied by the ratio to the first batch size (`linear`) or by
its square root (`sqrt`). Warmup is not run again then.

Decay acts on top: `cosine` from the end of the warmup to the last epoch of the trial, or by `decay_factor` after each
of `decay_epochs`. With `decay_by` batch_size the batch grows by 1 / decay_factor instead (Smith et al. 2018), and once
it is the whole training set the learning rate takes what is left of the decay. With `same_steps` all of these epochs
are stretched like the trial itself (Hoffer et al. 2017).
"""

import math

from trainables.config import TrialConfig
from trainables.remedies import batch_schedule, decay_epochs


def batch_size_at(config: TrialConfig, epochs_done: int) -> int:
    """The batch size of the epoch that follows `epochs_done` completed ones."""
    if config.switch_batch_size is not None and config.switch_epoch is not None and epochs_done >= config.switch_epoch:
        return config.switch_batch_size
    if config.decay_by == "batch_size":
        return min(config.train_size, round(config.batch_size / _step_decay(config, epochs_done)))
    size = config.batch_size
    for epoch, scheduled in batch_schedule(config.batch_schedule):
        if epochs_done >= epoch * config.stretch:
            size = scheduled
    return size


def learning_rate_at(config: TrialConfig, epochs_done: float, batch_size: int) -> float:
    """The learning rate of the update that brings the epochs done to `epochs_done`, at `batch_size`."""
    rate = config.learning_rate
    if config.base_batch_size is not None:
        rate *= _ratio(config.learning_rate_scaling, config.batch_size / config.base_batch_size)
    before = max(0.0, epochs_done - batch_size / config.train_size)
    if config.decay_by == "batch_size":
        rate *= _step_decay(config, before) * batch_size / config.batch_size if batch_size == config.train_size else 1.0
    elif batch_size != config.batch_size:
        rate *= _ratio(config.switch_learning_rate, batch_size / config.batch_size)
    if config.decay == "step" and config.decay_by != "batch_size":
        rate *= _step_decay(config, before)
    warmup = config.warmup_epochs * config.stretch
    if epochs_done < warmup:
        return rate * epochs_done / warmup
    if config.decay == "cosine":
        rate *= (1 + math.cos(math.pi * max(0.0, before - warmup) / max(1.0, config.total_epochs - warmup))) / 2
    return rate


def _ratio(rule: str | None, ratio: float) -> float:
    return {"linear": ratio, "sqrt": math.sqrt(ratio)}.get(rule or "", 1.0)


def _step_decay(config: TrialConfig, epochs_done: float) -> float:
    """decay_factor to the power of the decays that lie behind."""
    passed = sum(epochs_done + 1e-9 >= epoch * config.stretch for epoch in decay_epochs(config.decay_epochs))
    return float((config.decay_factor or 1.0) ** passed)
