"""Which batch size and learning rate are in force.

Warmup is linear in the epochs done (Goyal et al. 2017): the update that brings the count of epochs to e uses
learning_rate * min(1, e / warmup_epochs), so the first update is never 0 and a fractional `warmup_epochs` works.
At the switch the learning rate is kept (`keep`), or multiplied by the ratio of the batch sizes (`linear`, Goyal
et al. 2017) or by its square root (`sqrt`, Hoffer et al. 2017). Warmup is not run again at the switch.
"""

import math

from trainables.config import TrialConfig


def batch_size_at(config: TrialConfig, epochs_done: int) -> int:
    """The batch size of the epoch that follows `epochs_done` completed ones."""
    if config.switch_batch_size is not None and config.switch_epoch is not None and epochs_done >= config.switch_epoch:
        return config.switch_batch_size
    return config.batch_size


def learning_rate_at(config: TrialConfig, epochs_done: float, batch_size: int) -> float:
    """The learning rate of the update that brings the epochs done to `epochs_done`, at `batch_size`."""
    rate = config.learning_rate
    if batch_size != config.batch_size:
        ratio = batch_size / config.batch_size
        rate *= {"keep": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[config.switch_learning_rate or "keep"]
    if epochs_done < config.warmup_epochs:
        rate *= epochs_done / config.warmup_epochs
    return rate
