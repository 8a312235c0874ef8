"""How many replicates an answer needs, from the results of a pilot: by batch size, with the time that they take.

The answer is that of analysis/questions/free_batch.py, matched: a batch size is free when the upper end of the 95 %
interval of its loss is below the margin. Two true losses are assumed in turn:

    0            the replicates that show a batch size to be free
    the pilot's  the replicates that show it to be free, or, if the pilot's mean loss is above the margin, not to be

With d = |margin - loss| and sigma the standard deviation of the replicates' losses, the power is that of
analysis/stats/power.py at d / sigma. Each number is given for the pilot's own sigma (`plug_in`) and for its upper limit
(`safe`): with the second, the power is at least the promised one in 80 % of all pilots.

Traps: the observed loss is itself uncertain, most of all from a few replicates. The pilot's results have been seen, so
its replicates do not count for the test: take fresh seeds, or a sequential sweep.
"""

from dataclasses import dataclass

import pandas as pd

from analysis.data.load import Sweep, comparable
from analysis.questions.free_batch import free_batch
from analysis.stats.means import Mean
from analysis.stats.power import cap_for, replicates_for, upper_limit_of_deviation
from trainables.runtime.errors import UserError


@dataclass(frozen=True)
class Needed:
    """Replicates for one assumed loss; None where more than MOST_REPLICATES of analysis.stats.power are needed.

    `safe_cap`: the cap of a sequential sweep, for the upper limit of sigma.
    """

    plug_in: int | None
    safe: int | None
    safe_cap: int | None


@dataclass(frozen=True)
class SizePlan:
    """One batch size: what it lost in the pilot, sigma with its upper limit, the replicates, the seconds of each."""

    batch_size: int
    lost: Mean
    deviation: float
    safe_deviation: float
    if_nothing: Needed
    as_observed: Needed
    seconds: float


@dataclass(frozen=True)
class Plan:
    """The plan of all batch sizes; `reference_seconds`: of the smallest batch size, of a replicate.

    `diverged`: by batch size, how many of how many trials diverged in the pilot where the smallest batch completed.
    These batch sizes cannot be free, and those without any comparable trial are not among `rows`.
    """

    margin: float
    power: float
    reference: int
    reference_seconds: float
    rows: tuple[SizePlan, ...]
    diverged: dict[int, tuple[int, int]]

    def seconds(self, counts: dict[int, int]) -> float:
        """Seconds of trials, one after another, for so many replicates by batch size, each with its reference."""
        each = {row.batch_size: row.seconds for row in self.rows}
        return max(counts.values()) * self.reference_seconds + sum(count * each[size] for size, count in counts.items())


def replicates_needed(sweep: Sweep, wanted: float, first: int) -> Plan:
    """The replicates for the power `wanted`; `first`: those of a sequential sweep before its first look.

    Raises UserError where the pilot has no two batch sizes to compare, fewer than two replicates, or no margin.
    """
    found = free_batch(sweep, "matched")
    if found is None:
        raise UserError(f"the pilot must have two batch sizes that can be compared, got {sweep.folder}")
    if found.margin is None:
        raise UserError(f"`--margin` must be given in {sweep.metric.unit}: {sweep.metric.noun} has no default")
    frame = comparable(sweep)
    plain = frame[frame["is_plain"]]
    rows = []
    for row in found.rows:
        if row.lost is None:
            continue
        if row.lost.standard_error is None:
            why = "one replicate" if row.lost.replicates == 1 else "replicates that agree exactly"
            raise UserError(f"the pilot must have two or more replicates, got {why} of batch {row.batch_size}")
        count = row.lost.replicates
        deviation = row.lost.standard_error * count**0.5
        safe = upper_limit_of_deviation(deviation, count)
        rows.append(
            SizePlan(
                batch_size=row.batch_size,
                lost=row.lost,
                deviation=deviation,
                safe_deviation=safe,
                if_nothing=_needed(found.margin, deviation, safe, wanted, first),
                as_observed=_needed(abs(found.margin - row.lost.value), deviation, safe, wanted, first),
                seconds=_seconds(plain, row.batch_size),
            )
        )
    diverged = {row.batch_size: (row.diverged, row.attempted) for row in found.rows if row.diverged}
    return Plan(found.margin, wanted, found.reference, _seconds(plain, found.reference), tuple(rows), diverged)


def _needed(distance: float, deviation: float, safe: float, wanted: float, first: int) -> Needed:
    effect = distance / safe
    return Needed(
        replicates_for(distance / deviation, wanted), replicates_for(effect, wanted), cap_for(effect, wanted, first)
    )


def _seconds(plain: pd.DataFrame, batch_size: int) -> float:
    """The mean time of a replicate: all settings of a batch size, training and measuring."""
    rows = plain[plain["batch_size"] == batch_size]
    seconds = rows["train_seconds"].fillna(0.0) + rows["sharpness_seconds"].fillna(0.0)
    return float(seconds.sum() / rows["replicate"].nunique())
