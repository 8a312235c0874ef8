"""When a training is looked at: the loss between steps of the first epochs, and the test set.

The training loss of every logging point is evaluated, since it decides when a training ends. The test set decides
nothing (unless there is a target for it) and may take more than the training itself: an update is about three forward
passes over its examples, and a full batch of 300 beside 1000 test examples would spend a third of its time on them. So
it is evaluated where that takes at most SHARE of the training, else at the points 1, 2, 3, 4, 6, 8, 11, ... of a curve;
and always at the end, before a change of the batch size, at moments of measures along the run, and wherever
`evaluate_every` asks for logging points.
"""

import math

from trainables.config import TrialConfig
from trainables.measuring import ALONG_THE_RUN

SHARE = 0.1
PASSES = 3  # forward passes that an update takes as long as


def is_look(number: int) -> bool:
    """Whether `number` is a power of the square root of 2, rounded: 1, 2, 3, 4, 6, 8, 11, 16, 23, ..."""
    return number == round(2 ** (round(2 * math.log2(number)) / 2))


def is_test_always_due(config: TrialConfig) -> bool:
    """Whether the test set is evaluated at every logging point."""
    along = any(getattr(config, name) is not None for name in ALONG_THE_RUN)
    return along or config.evaluate_every is not None or config.has_held_out_target


def is_test_due(point: int, looked: int, test_size: int, examples: int) -> bool:
    """Whether to evaluate the test set at logging point `point`, from 1 on, after it was `looked` times before.

    is_look(point)  or  (looked + 1) test_size <= SHARE PASSES examples     examples: used in training so far
    """
    return is_look(point) or (looked + 1) * test_size <= SHARE * PASSES * examples


def times_tested(points: int, test_size: int, examples: float) -> int:
    """How often the test set is evaluated in `points` logging points with `examples` training examples each."""
    looked = 0
    for point in range(1, points + 1):
        looked += point == points or is_test_due(point, looked, test_size, round(point * examples))
    return looked
