"""How much work a sweep has left, in seconds of trials: a small batch takes many times longer than a large one."""

import math
from collections.abc import Iterable, Mapping


def mean_by_size(ended: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Return the mean seconds of the trials that ended at each batch size, given (batch size, seconds)."""
    by_size: dict[int, list[float]] = {}
    for size, seconds in ended:
        by_size.setdefault(size, []).append(seconds)
    return {size: math.fsum(known) / len(known) for size, known in by_size.items()}


def expected_seconds(batch_size: int, means: Mapping[int, float]) -> float:
    """Return the mean of `batch_size`; where none has ended the mean of the nearest size, by ratio."""
    return means[min(means, key=lambda known: abs(math.log(known / batch_size)))]


def work_left(missing: Iterable[tuple[int, int]], means: Mapping[int, float]) -> float:
    """Return the seconds of the missing trials, given (batch size, number of trials)."""
    return math.fsum(number * expected_seconds(size, means) for size, number in missing if number)
