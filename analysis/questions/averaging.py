"""What does averaging the weights alone change? Each average against the raw weights of the same trial.

    gain_t = score(average of trial t) - score(raw weights of trial t)

The raw weights are the last ones of the training that the average is of, so both have seen the same batches: each trial
is its own pair, and no plain trial is needed. With a target loss the average ends the training, and the raw weights may
have another training loss, which the ratio of losses says. Sharpness at another loss is not comparable.

Gains are means over replicates of all completed trials with the same average and batch size; their intervals hold
together with 95 % (Bonferroni). Ratios are average over raw, geometric means, with an interval for each alone.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

from analysis.data.load import BOX_STRONG, MAX_EIG, Sweep, comparable, rows_of
from analysis.stats.means import Mean, mean_over_replicates, resolution
from trainables.remedies import OFF, remedy_of

AVERAGE = ["average", "average_decay", "average_from", "average_last"]


@dataclass(frozen=True)
class Averaging:
    """One average at one batch size. `gain` is of scores (of accuracy fractions), above 0 where the average is better;
    ratios are average over raw, None where a side was not measured."""

    name: str
    batch_size: int
    trials: int
    trial_ids: tuple[str, ...]
    gain: Mean
    train_loss_ratio: Mean | None
    box_sharpness_ratio: Mean | None
    max_eig_ratio: Mean | None


@lru_cache(maxsize=16)
def averaging(sweep: Sweep) -> tuple[Averaging, ...]:
    """All averages whose raw weights are known, by name and batch size; empty where there is none."""
    metric, frame = sweep.metric, comparable(sweep)
    frame = frame[frame["raw_test_metric"].notna() & ~frame["is_switched"]]
    raw = replace(sweep, measures=sweep.raw_measures)
    ratios = {"train_loss": frame["train_loss"] / frame["raw_train_loss"]} | {
        measure.column: frame[measure.column] / frame["trial_id"].map(rows_of(raw, measure)["value"]).astype("float64")
        for measure in (BOX_STRONG, MAX_EIG)
    }
    gain = metric.sign * (frame[metric.column] - frame["raw_test_metric"])
    paired = frame.assign(gain=gain, **{f"{name}_ratio": ratio for name, ratio in ratios.items()})
    found = [
        Averaging(
            name=remedy_of(OFF | rows[AVERAGE].iloc[0].dropna().to_dict(), OFF),
            batch_size=int(size),
            trials=len(rows),
            trial_ids=tuple(rows["trial_id"]),
            gain=mean,
            train_loss_ratio=mean_over_replicates(rows, "train_loss_ratio", scale="log"),
            box_sharpness_ratio=mean_over_replicates(rows, f"{BOX_STRONG.column}_ratio", scale="log"),
            max_eig_ratio=mean_over_replicates(rows, f"{MAX_EIG.column}_ratio", scale="log"),
        )
        for (*_, size), rows in paired.groupby([*AVERAGE, "batch_size"], dropna=False)
        if (mean := mean_over_replicates(rows, "gain", step=resolution(rows, metric.score))) is not None
    ]
    return tuple(replace(row, gain=row.gain.simultaneous(len(found))) for row in found)
