"""What is said of accuracy gaps: the interval of the largest batch's loss, and that it is free."""

from analysis.free_batch import free_batch
from analysis.load import Sweep
from simulations import Design, Statement

LUCK = tuple(
    Design(name=f"replicates differ by {100 * luck:g} points", gap=0.008, luck=luck) for luck in (0.0, 0.002, 0.004)
)


def matched_gap(sweep: Sweep, design: Design) -> bool | None:
    found = free_batch(sweep, "matched")
    assert found is not None
    lost = found.rows[-1].lost
    return None if lost.interval is None else lost.interval.holds(design.gap)


STATEMENTS = (Statement("gap at the same settings", "gap", "coverage", LUCK, matched_gap),)
