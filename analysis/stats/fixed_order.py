"""The largest size that is shown to be within a limit, and the first that is shown to be beyond it.

Sizes are tested in a fixed order that ends at the first that fails, so together the tests keep the level of one: within
the limit from the smallest size up, beyond it from the largest down (Maurer, Hothorn and Lehmacher 1995). A size is
within the limit where its 95 % interval ends below, and beyond it where the interval begins above. What lies between
the two is not decided.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analysis.stats.means import Mean


@dataclass(frozen=True)
class Boundary:
    """`within`: the largest batch size that passes (None: none). `beyond`: the smallest shown to fail (None: none).

    `best_guess`: the largest that passes by the means alone.
    """

    within: int | None
    beyond: int | None
    best_guess: int | None


def boundary(rows: Sequence[tuple[int, Mean | None]], most: float) -> Boundary:
    """Within: from the smallest size up, while intervals end below `most`. Beyond: from the largest down, while they
    begin above it; sizes that cannot be compared are passed over there, and are never what is named.
    """
    within = beyond = guess = None
    for size, mean in rows:
        if mean is None or mean.interval is None or not mean.interval.high < most:
            break
        within = size
    for size, mean in reversed(rows):
        if mean is None:
            continue
        if mean.interval is None or not mean.interval.low > most:
            break
        beyond = size
    for size, mean in rows:
        if mean is None or not mean.value < most:
            break
        guess = size
    return Boundary(within, beyond, guess)


def boundary_words(found: Boundary, batch: Callable[[int], str] = str) -> str:
    """The boundary as a clause that follows the limit and a colon; `batch` names a batch size."""
    guess, within, beyond = "no larger batch size", "significant for none", "none significantly beyond it"
    if found.best_guess is not None:
        guess = f"up to batch {batch(found.best_guess)}"
    if found.within is not None:
        within = f"significant up to batch {batch(found.within)}"
    if found.beyond is not None:
        beyond = f"significantly beyond it from batch {batch(found.beyond)} on"
    return f"{guess} by the means; {within}; {beyond}"
