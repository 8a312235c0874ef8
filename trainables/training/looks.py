"""When to evaluate: the training loss between the first steps, and the test set.

The training loss is evaluated at every logging point, because it decides when training ends. The test set decides
nothing, unless it has a target, and can cost more than training: an update costs about three forward passes over its
examples, so with 300 training and 1000 test examples the test set would cost more than training. It is therefore
evaluated if this takes at most SHARE of the training time, and otherwise only at logging points 1, 2, 3, 4, 6, 8, ...
It is always evaluated at the end, before a change of the batch size, if measures are taken along the run, and if
`evaluate_every` is given.
"""

import math

from trainables.config import TrialConfig
from trainables.measuring import ALONG_THE_RUN

SHARE = 0.1
PASSES = 3  # cost of an update, in forward passes


def is_look(number: int) -> bool:
    """Whether `number` is a power of the square root of 2, rounded: 1, 2, 3, 4, 6, 8, 11, 16, 23, ..."""
    return number == round(2 ** (round(2 * math.log2(number)) / 2))


def is_test_always_due(config: TrialConfig) -> bool:
    """Whether the test set is evaluated at every logging point."""
    along = any(getattr(config, name) is not None for name in ALONG_THE_RUN)
    return along or config.evaluate_every is not None or config.has_held_out_target


def is_test_due(point: int, looked: int, test_size: int, examples: int) -> bool:
    """Whether to evaluate the test set at logging point `point` (1, 2, ...), after `looked` evaluations before it.

    is_look(point)  or  (looked + 1) test_size <= SHARE PASSES examples     examples: used in training so far
    """
    return is_look(point) or (looked + 1) * test_size <= SHARE * PASSES * examples


def evaluation_line(config: TrialConfig) -> str:
    """Return in one line what the evaluations of a trial cost, where that is more than its training; else ""."""
    between, trained = config.examples_of(config.every), config.examples_of(config.length)
    points, seen = math.ceil(trained / between), config.train_loss_examples or config.train_size
    tested = points if is_test_always_due(config) else times_tested(points, config.test_size, between)
    work = (points * seen + tested * config.test_size) / (PASSES * trained)
    if work <= 1:
        return ""
    return (
        f"Evaluations of each trial: about {work:.2g} times the work of its training, {points} on {seen} training "
        f"examples and {tested} on {config.test_size} test examples (see --evaluate-every, --test-size)"
    )


def times_tested(points: int, test_size: int, examples: float) -> int:
    """The number of test evaluations in `points` logging points of `examples` training examples each."""
    looked = 0
    for point in range(1, points + 1):
        looked += point == points or is_test_due(point, looked, test_size, round(point * examples))
    return looked
