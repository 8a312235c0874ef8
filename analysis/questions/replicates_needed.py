"""How many replicates an answer needs, from the results of a pilot: by batch size, with the time that they take.

The answer is that of analysis/questions/free_batch.py, matched: a batch size is free when the upper end of the 95 %
interval of its loss is below the margin. Two true losses are assumed in turn:

    0            the replicates that show a batch size to be free
    the pilot's  the replicates that show it to be free, or, if the pilot's mean loss is above the margin, not to be

With d = |margin - loss| and sigma the standard deviation of the replicates' losses, the power is that of
analysis/stats/power.py at d / sigma. Each number is given for the pilot's own sigma (`plug_in`) and for its upper limit
(`safe`): with the second, the power is at least the promised one in 80 % of all pilots.

This is the power for one batch size. "Free up to B" needs every smaller batch size to be free too, so its power is
lower: at least 1 minus the sum of the probabilities that one of them is not shown to be free (Bonferroni).

Traps: the observed loss is itself uncertain, most of all from a few replicates. The pilot's results have been seen, so
its replicates do not count for the test: take fresh seeds, or a sequential sweep.
"""

from dataclasses import dataclass

import pandas as pd

from analysis.data.load import Sweep, comparable
from analysis.questions.free_batch import free_batch
from analysis.stats.means import Mean
from analysis.stats.power import cap_for, power_of_all, replicates_for, replicates_for_all, upper_limit_of_deviation
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
    """One batch size: what it lost in the pilot, sigma with its upper limit, the replicates, the seconds of each (None:
    unknown)."""

    batch_size: int
    lost: Mean
    deviation: float
    safe_deviation: float
    if_nothing: Needed
    as_observed: Needed
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """The plan of all batch sizes; `reference_seconds`: of the smallest batch size, of a replicate.

    `diverged`: by batch size, how many of how many trials diverged in the pilot where the smallest batch completed.
    These batch sizes cannot be free, and those without any comparable trial are not among `rows`. Nor are those
    `without_spread`, by the reason: sigma is unknown from one replicate, or from replicates that agree exactly.
    """

    margin: float
    power: float
    reference: int
    reference_seconds: float | None
    rows: tuple[SizePlan, ...]
    diverged: dict[int, tuple[int, int]]
    without_spread: dict[int, str]

    def seconds(self, counts: dict[int, int]) -> float | None:
        """Seconds of trials, one after another, for so many replicates by batch size, each with its reference.

        None where the pilot does not say how long its trials took.
        """
        each = {row.batch_size: row.seconds for row in self.rows}
        parts = [(max(counts.values()), self.reference_seconds), *((n, each[size]) for size, n in counts.items())]
        known = [count * seconds for count, seconds in parts if seconds is not None]
        return sum(known) if len(known) == len(parts) else None


@dataclass(frozen=True)
class FreeUpTo:
    """The claim that all of `batch_sizes` are free: its power is at least `power` with `replicates`, for no true loss
    and the upper limits of sigma. `needed`: replicates for the plan's power, None where more than MOST_REPLICATES."""

    batch_sizes: tuple[int, ...]
    replicates: int
    power: float
    needed: int | None


def free_up_to(plan: Plan) -> FreeUpTo | None:
    """The largest claim "free up to" that the plan can support, with the replicates of its most demanding batch size.

    It ends before the first batch size that diverged, or has no plan. None where it is of fewer than two batch sizes,
    so that the powers of the plan say everything.
    """
    unplanned = [row.batch_size for row in plan.rows if row.if_nothing.safe is None]
    end = min([*plan.diverged, *plan.without_spread, *unplanned], default=None)
    rows = [row for row in plan.rows if end is None or row.batch_size < end]
    counts = [row.if_nothing.safe for row in rows if row.if_nothing.safe is not None]
    if len(rows) < 2:
        return None
    effects = [plan.margin / row.safe_deviation for row in rows]
    return FreeUpTo(
        batch_sizes=tuple(row.batch_size for row in rows),
        replicates=max(counts),
        power=power_of_all(max(counts), effects),
        needed=replicates_for_all(effects, plan.power),
    )


def replicates_needed(sweep: Sweep, wanted: float, first: int) -> Plan:
    """The replicates for the power `wanted`; `first`: those of a sequential sweep before its first look.

    Raises UserError where the pilot has no two batch sizes to compare, no standard deviation of any, or no margin.
    """
    found = free_batch(sweep, "matched")
    if found is None:
        raise UserError(f"the pilot must have two batch sizes that can be compared, got {sweep.folder}")
    if found.margin is None:
        unit = f" in {sweep.metric.unit}" if sweep.metric.unit else ""
        raise UserError(f"`--margin` must be given{unit}: {sweep.metric.noun} has no default")
    frame = comparable(sweep)
    plain = frame[frame["is_plain"]]
    rows, without = [], {}
    for row in found.rows:
        if row.lost is None:
            continue
        if row.lost.standard_error is None:
            is_one = row.lost.replicates == 1
            without[row.batch_size] = "has one replicate" if is_one else "has replicates that agree exactly"
            continue
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
    if not rows:
        why = "; ".join(f"batch {size} {reason}" for size, reason in without.items()) or "no batch size has any"
        raise UserError(f"the pilot must have two or more replicates that differ, but {why}")
    diverged = {row.batch_size: (row.diverged, row.attempted) for row in found.rows if row.diverged}
    reference_seconds = _seconds(plain, found.reference)
    return Plan(found.margin, wanted, found.reference, reference_seconds, tuple(rows), diverged, without)


def _needed(distance: float, deviation: float, safe: float, wanted: float, first: int) -> Needed:
    effect = distance / safe
    return Needed(
        replicates_for(distance / deviation, wanted), replicates_for(effect, wanted), cap_for(effect, wanted, first)
    )


def _seconds(plain: pd.DataFrame, batch_size: int) -> float | None:
    """The mean time of a replicate: all settings of a batch size, training and measuring; None where it is unknown."""
    rows = plain[plain["batch_size"] == batch_size]
    if rows["train_seconds"].isna().any():
        return None
    seconds = rows["train_seconds"].fillna(0.0) + rows["sharpness_seconds"].fillna(0.0)
    return float(seconds.sum() / rows["replicate"].nunique())
