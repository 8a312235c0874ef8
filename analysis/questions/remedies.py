"""Which remedy wins back the large-batch gap? Its gain, cost and effect on sharpness, at every large batch size.

A remedy is anything a trial does beyond plain training (column `remedy`), or a start at a smaller batch that switches
to the large one after some epochs. Each is compared with plain training at the same large batch and with plain
training at the smallest batch, paired inside replicates among trials that differ in batch size, switch and remedy
alone:

    gain = score(remedy, B) - score(plain, B),     gap = score(plain, smallest) - score(plain, B)
    share won back = gain / gap                       (Fieller's interval; None where the gap is not significant)
    remaining = score(plain, smallest) - score(remedy, B) = gap - gain

with the score of analysis.data.metric: the test accuracy, or the negative of a metric of which less is better.

All of them are over the same matched sets, those where the remedy, plain training at the large batch and plain training
at the smallest have all completed; if there is no such set, the gain alone is given, over those that it has. `diverged`
counts the trials of the remedy that diverged where plain training at the same batch completed.

Cost and flatness are ratios to plain training at the large batch: training seconds, steps, sharpness; geometric means.

The best of several remedies looks better than it is. The intervals of gain, share and remaining therefore hold together
with 95 % for all remedies and batch sizes tried (Bonferroni), so that the interval of whichever is named holds too; the
p-values of the gains are Holm's over the same. A ratio of seconds compares trials that may have shared a machine with
others. Remedies are ranked by their gain, at the largest batch first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import pandas as pd

from analysis.data.load import BOX_STRONG, MAX_EIG, NO_REMEDY, SWITCH, Sweep, attempted, comparable
from analysis.stats.means import Mean, differences_by_replicate, paired_difference, ratio_of_means, resolution
from analysis.stats.multiplicity import corrected

TRIED = ["batch_size", *SWITCH, "remedy", "is_switched", "is_plain", "remedy_set", "replicate", "status", "off_target",
         "test_size", "train_seconds", "steps", BOX_STRONG.column, MAX_EIG.column]  # fmt: skip
NEEDED = [*TRIED, "is_reference"]


@dataclass(frozen=True)
class Remedy:
    """One remedy at one large batch. Gains and gaps are of scores, above 0 where the remedy helps, or where the small
    batch is better (of accuracy fractions); ratios are to plain training at this batch.

    `reference`: the smallest batch size, which `gap`, `share` and `remaining` are measured from; None where nothing
    matches. `trials` of `attempted` completed, `diverged` diverged where plain training did not, and `off_target` of
    the completed ones are off target.
    """

    name: str
    batch_size: int
    reference: int
    trials: int
    attempted: int
    diverged: int
    off_target: int
    gain: Mean
    corrected_p: float | None
    gap: Mean | None
    share: Mean | None
    remaining: Mean | None
    seconds_ratio: Mean | None
    steps_ratio: Mean | None
    box_sharpness_ratio: Mean | None
    max_eig_ratio: Mean | None

    @property
    def helps(self) -> bool:
        """Whether the gain is significant after correction for all that was tried."""
        return self.corrected_p is not None and self.corrected_p < 0.05 and self.gain.value > 0


@lru_cache(maxsize=16)
def remedies(sweep: Sweep) -> tuple[Remedy, ...]:
    """All remedies that can be compared, those at the largest batch first, by gain; empty where none was tried."""
    score = sweep.metric.score
    frame, everything = comparable(sweep)[[*NEEDED, score]], attempted(sweep)[TRIED]
    plain = frame[frame["is_plain"]]
    if plain.empty:
        return ()
    smallest = int(plain["batch_size"].min())
    tried = {(name, size): rows for name, size, rows in _tried(everything, smallest)}
    found = []
    for name, size, rows in _tried(frame, smallest):
        alone = plain[plain["batch_size"] == size]
        compared = _same_sets(score, rows, alone, plain[plain["is_reference"]])
        gain = paired_difference(compared[0], compared[1], score, match="remedy_set")
        if gain is not None:
            lost = tried[name, size]
            diverged = lost["status"].eq("diverged") & lost["remedy_set"].isin(alone["remedy_set"])
            counts = {"trials": len(rows), "attempted": len(lost), "diverged": int(diverged.sum())}
            found.append((name, size, counts, rows, compared, gain))
    p_values = corrected([row[-1].p_value for row in found])
    comparisons = max(1, sum(p is not None for p in p_values))
    whole = []
    for (name, size, counts, rows, (helped, alone, small), gain), p in zip(found, p_values, strict=True):
        gap, remaining = (paired_difference(small, side, score, match="remedy_set") for side in (alone, helped))
        seconds, steps, box, eig = (
            paired_difference(helped, alone, column, match="remedy_set", scale="log")
            for column in ("train_seconds", "steps", BOX_STRONG.column, MAX_EIG.column)
        )
        whole.append(
            Remedy(
                name=name,
                batch_size=size,
                reference=smallest,
                **counts,
                off_target=int(rows["off_target"].sum()),
                gain=gain.simultaneous(comparisons),
                corrected_p=p,
                gap=gap,
                share=_share(score, helped, alone, small, comparisons),
                remaining=None if remaining is None else remaining.simultaneous(comparisons),
                seconds_ratio=seconds,
                steps_ratio=steps,
                box_sharpness_ratio=box,
                max_eig_ratio=eig,
            )
        )
    return tuple(sorted(whole, key=lambda remedy: (-remedy.batch_size, -remedy.gain.value)))


def never_completed(sweep: Sweep) -> list[str]:
    """The remedies of which no trial completed, as `NAME at batch B`."""
    frame = comparable(sweep)
    plain = frame[frame["is_plain"]]
    if plain.empty:
        return []
    smallest = int(plain["batch_size"].min())
    completed = {(name, size) for name, size, _ in _tried(frame, smallest)}
    everything = _tried(attempted(sweep), smallest)
    return [f"{name} at batch {size}" for name, size, _ in everything if (name, size) not in completed]


def _same_sets(score: str, *sides: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of the matched sets that all sides have; those of the first two where no set has all three."""
    known = [set(side.loc[side[score].notna(), "remedy_set"]) for side in sides]
    common = set.intersection(*known) or known[0] & known[1]
    return [side[side["remedy_set"].isin(common)] for side in sides]


def _share(score: str, helped: pd.DataFrame, alone: pd.DataFrame, small: pd.DataFrame, comparisons: int) -> Mean | None:
    """gain / gap, where the gap is significant."""
    gains, gaps = (differences_by_replicate(first, alone, score, match="remedy_set") for first in (helped, small))
    if gaps.empty:
        return None
    step = resolution(alone, score) / gaps["size"].min()
    share = ratio_of_means(gains["mean"], gaps["mean"], comparisons=comparisons, step=step)
    return share if share is not None and share.interval is not None else None


def _tried(frame: pd.DataFrame, smallest: int) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Name, large batch and trials of each remedy; those with a switch are named and counted by where they go on."""
    unswitched = frame[~frame["is_switched"] & (frame["remedy"] != NO_REMEDY) & (frame["batch_size"] > smallest)]
    for (name, size), rows in unswitched.groupby(["remedy", "batch_size"]):
        yield str(name), int(size), rows
    options = ["remedy", "batch_size", "switch_epoch", "switch_batch_size"]
    choices = [name for name in ("switch_learning_rate", "switch_optimizer_state") if frame[name].nunique() > 1]
    for (remedy, start, epoch, size, *chosen), rows in frame[frame["is_switched"]].groupby([*options, *choices]):
        name = f"batch {int(start)} for the first {epoch:g} epochs"
        name += "".join(
            f", {option.removeprefix('switch_')} {value}" for option, value in zip(choices, chosen, strict=True)
        )
        if size > smallest:
            yield name if remedy == NO_REMEDY else f"{name}, {remedy}", int(size), rows
