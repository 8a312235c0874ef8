"""Pairs of minima to draw between: a small-batch and a large-batch trial that differ in batch size alone.

By default the smallest and the largest batch size of the sweep, one pair for every learning rate, warmup, seed and
split (`matched_set` of analysis.data.load) that has both; or the two trials that are named, which may differ in
anything but the network and the data: then the first takes the place of the small batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.data.load import Sweep, comparable, number_of
from trainables.records.matching import SAME_STUDY
from trainables.runtime.errors import UserError

SAME_NETWORK = (
    "data_fingerprint", "train_size", "test_size", "split_seed", "validation_size",
    "model", "model_options", "model_fingerprint",
)  # fmt: skip


@dataclass(frozen=True)
class MinimumPair:
    """The trial ids of two minima, SB and LB; `replicate` numbers the seed and split of SB."""

    small: str
    large: str
    replicate: int


def minimum_pairs(sweep: Sweep, chosen: Sequence[str] | None = None) -> list[MinimumPair]:
    """The pairs of `sweep`, or the one of the two trials `chosen`.

    Raises UserError where the sweep has no two minima to compare, and for trials that are unknown, without a minimum,
    or of different networks or data.
    """
    frame = comparable(sweep)
    if chosen is not None:
        if isinstance(chosen, str) or len(chosen) != 2:
            raise UserError(f"`pair` must be two trial IDs, got {chosen!r}")
        return [_chosen(sweep, frame.set_index("trial_id"), *chosen)]
    plain = frame[frame["is_plain"]]
    sizes = plain.groupby(number_of(plain, SAME_STUDY))["batch_size"]
    smallest, largest = (
        plain[(plain["batch_size"] == sizes.transform(end)) & (sizes.transform("nunique") > 1)].set_index("matched_set")
        for end in ("min", "max")
    )
    both = smallest.join(largest["trial_id"].rename("large"), how="inner")
    pairs = [MinimumPair(row.trial_id, row.large, row.replicate) for row in both.itertuples()]
    if not pairs:
        raise UserError(
            "`results` must hold two completed trials that differ in batch size alone, to draw between, "
            f"got {len(plain)} trials of {plain['batch_size'].nunique()} batch sizes in {sweep.folder}"
        )
    return pairs


def _chosen(sweep: Sweep, frame: pd.DataFrame, first: str, second: str) -> MinimumPair:
    if first == second:
        raise UserError(f"`pair` must name two trials, got {first} twice")
    for trial_id in (first, second):
        if trial_id not in frame.index:
            known = trial_id in set(sweep.trials["trial_id"])
            what = "which has not completed" if known else "which is not among its trials"
            raise UserError(f"`pair` must name completed trials of {sweep.folder}, got {trial_id}, {what}")
    rows = frame.loc[[first, second]]
    for name in SAME_NETWORK:
        if rows[name].nunique(dropna=False) > 1:
            raise UserError(
                f"`pair` must name trials of one network and one split of the data, "
                f"got {name} {rows[name].iloc[0]} and {rows[name].iloc[1]}"
            )
    return MinimumPair(first, second, int(rows["replicate"].iloc[0]))
