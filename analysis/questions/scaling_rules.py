"""The referee of scaling rules: what retuning at k B still gains over the setting that a rule carries from B to k B.

At batch size B and at every k B the learning rate is chosen on a grid, by the mean of the primary metric over seeds
that hold out validation examples (ties: the lower loss). Each rule (trainables/scaling_rules.py) carries the choice at
B to k B. Other seeds then train both on equally many examples and are judged on the test set at the end:

    g_k = score retuned at k B - score by the rule, paired by replicate       above 0: the rule loses

A rule is within the margin up to the largest k whose interval ends below it, and worse than retuning from the smallest
k on whose interval begins above 0. The k are tested in a fixed order (analysis/stats/fixed_order.py), so each of these
two claims is wrong in at most 2.5 % of sweeps. By Bonferroni's correction that holds for all rules together. Where a
rule leads to the very setting that retuning chose, the gain is exactly 0.

Traps: retuning chooses among the grid's learning rates alone. A rule that also changes betas or weight decay, or that
gives a learning rate between two of the grid, can be better than retuning. The intervals are for new seeds at the
settings that were chosen; with few tuning seeds the choice itself is uncertain. All is at equal examples, not at equal
steps.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.batch_unit import BatchUnit
from analysis.data.load import CONFIGURATION, REPLICATE, Sweep, number_of
from analysis.data.metric import Metric
from analysis.stats.fixed_order import boundary
from analysis.stats.means import Interval, Mean, mean_over_replicates, resolution
from trainables.config import MEASURING, TrialConfig
from trainables.records.saved import config_of
from trainables.records.tables import read_tables
from trainables.runtime.errors import UserError
from trainables.scaling_rules import SCALING_RULES, ScalingRule

CARRIED = ("learning_rate", "optimizer_options", "weight_decay", "average_decay")  # what rules change
_NOT_SHARED = {"batch_size", "validation_size", *CARRIED, *REPLICATE, *MEASURING}
SHARED = [name for name in CONFIGURATION if name not in _NOT_SHARED]


@dataclass(frozen=True)
class Choice:
    """The setting chosen at a batch size. `is_edge`: its learning rate is the lowest or highest of the grid."""

    config: TrialConfig
    is_edge: bool

    @property
    def batch_size(self) -> int:
        return self.config.batch_size


@dataclass(frozen=True)
class Tally:
    """How many of the `runs` that judge a setting `diverged`."""

    diverged: int
    runs: int

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "Tally":
        """Of rows with `score`, NaN where the run diverged."""
        return cls(int(rows["score"].isna().sum()), len(rows))


@dataclass(frozen=True)
class Verdict:
    """A setting at k B, and the runs by it and by `retuned`. `gain`: of retuning; None where runs of either diverged,
    or no seed has both."""

    batch_size: int
    config: TrialConfig
    gain: Mean | None
    carried: Tally
    retuned: Tally


@dataclass(frozen=True)
class JudgedRule:
    """A rule at every k B at which it has a setting.

    `within`: the largest batch size up to which it is shown to be within the margin; `worse`: the smallest from which
    on it is shown to be worse than retuning (None: none). `undefined`: batch sizes at which it has no setting.
    """

    rule: ScalingRule
    verdicts: tuple[Verdict, ...]
    within: int | None
    worse: int | None
    undefined: tuple[int, ...]


@dataclass(frozen=True)
class Referee:
    """`levels` and `tallies`: the primary metric and the runs of each choice, judged; `left_out`: rules that do not
    apply to the setting."""

    metric: Metric
    choices: tuple[Choice, ...]
    levels: tuple[Mean | None, ...]
    tallies: tuple[Tally, ...]
    rules: tuple[JudgedRule, ...]
    left_out: tuple[ScalingRule, ...]
    tuning_seeds: int
    rates: tuple[float, ...]
    batch_unit: BatchUnit

    @property
    def base(self) -> Choice:
        return self.choices[0]

    @property
    def replicates(self) -> int:
        """By how many seeds settings are judged; some values may lack a few."""
        return max(tally.runs for tally in self.tallies)

    def factor(self, batch_size: int) -> str:
        """`batch_size` in words: 8 B."""
        return f"{batch_size / self.base.batch_size:g} B"


def choices(sweep: Sweep) -> tuple[Choice, ...]:
    """The setting chosen at each batch size, the smallest first; batch sizes where all diverged have none.

    Raises UserError where there are no trials to choose by, trials of several studies, or the smallest batch has none.
    """
    return _choices(sweep, _study(sweep))


def _choices(sweep: Sweep, rows: pd.DataFrame) -> tuple[Choice, ...]:
    """`choices` of the rows of `_study`."""
    rows = rows[rows["validation_size"].notna()]
    stored = {row["trial_id"]: row for row in read_tables(sweep.folder).trials.to_pylist()}
    found = []
    for size, own in rows.groupby("batch_size"):
        best = _best(own)
        if best is not None:
            rates = own["learning_rate"]
            is_edge = rates.nunique() > 1 and best["learning_rate"] in (rates.min(), rates.max())
            config = dataclasses.replace(config_of(stored[best["trial_id"]]), validation_size=None)  # as it is judged
            found.append(Choice(config, is_edge))
        elif not found:
            raise UserError(
                f"`results` must hold a learning rate at which batch {size} trains, got none that ended in "
                f"{sweep.folder}; lower --learning-rates"
            )
    return tuple(found)


def to_judge(found: tuple[Choice, ...]) -> list[TrialConfig]:
    """All settings that are judged: the choice at every batch size, and what every rule carries from the first."""
    base, *larger = found
    carried = [rule.carried(base.config, one.batch_size) for one in larger for rule in SCALING_RULES]
    return [*(one.config for one in found), *(config for config in carried if config is not None)]


def referee(sweep: Sweep) -> Referee:
    """What retuning gains over every rule. Raises UserError as `choices`, for a metric without a margin, and where no
    larger batch size was tuned or nothing is judged yet.
    """
    if sweep.metric.margin is None:
        raise UserError(f"`margin` must be given for {sweep.metric.noun}, in the unit of the metric, got none")
    rows = _study(sweep)
    found = _choices(sweep, rows)
    if len(found) < 2:
        raise UserError(f"`results` must hold two tuned batch sizes or more, got one in {sweep.folder}")
    tuning = rows[rows["validation_size"].notna()]
    judged = rows[rows["validation_size"].isna()]
    retuned = [judged_rows(judged, one.config) for one in found]
    if judged.empty:
        raise UserError(
            f"`results` must hold trials that judge the chosen settings, got none in {sweep.folder}; "
            "python sweeps/scaling_rules.py --resume runs them"
        )
    rules = [rule for rule in SCALING_RULES if rule.applies(found[0].config)]
    return Referee(
        metric=sweep.metric,
        choices=found,
        levels=tuple(_level(own, sweep.metric) for own in retuned),
        tallies=tuple(Tally.of(own) for own in retuned),
        rules=tuple(judged_rule(rule, found, judged, sweep.metric.margin, len(rules)) for rule in rules),
        left_out=tuple(rule for rule in SCALING_RULES if rule not in rules),
        tuning_seeds=tuning["replicate"].nunique(),
        rates=tuple(sorted(tuning["learning_rate"].unique())),
        batch_unit=sweep.batch_unit,
    )


def judged_rule(
    rule: ScalingRule, found: tuple[Choice, ...], judged: pd.DataFrame, margin: float, comparisons: int
) -> JudgedRule:
    """One rule at every batch size of the choices `found` but the first.

    Args:
        judged: rows of trials.parquet with `replicate`, `score` (NaN: diverged) and `step`, its resolution.
        margin: in the unit of the scores.
        comparisons: how many rules hold together.
    """
    base, *larger = found
    verdicts, undefined = [], []
    for choice in larger:
        config = rule.carried(base.config, choice.batch_size)
        if config is None:
            undefined.append(choice.batch_size)
            continue
        sides = judged_rows(judged, choice.config), judged_rows(judged, config)
        mean = gain(*sides, is_same=_setting(config) == _setting(choice.config))
        mean = mean and mean.simultaneous(comparisons)
        retuned, carried = map(Tally.of, sides)
        verdicts.append(Verdict(choice.batch_size, config, mean, carried, retuned))
    means = [(verdict.batch_size, verdict.gain) for verdict in verdicts]
    return JudgedRule(
        rule, tuple(verdicts), boundary(means, margin).within, boundary(means, 0.0).beyond, tuple(undefined)
    )


def judged_rows(judged: pd.DataFrame, config: TrialConfig) -> pd.DataFrame:
    """The rows of a setting, one for each replicate."""
    same = judged["batch_size"] == config.batch_size
    for name, value in _setting(config).items():
        same &= judged[name].isna() if value is None else judged[name] == value
    return judged[same].drop_duplicates("replicate")


def gain(retuned: pd.DataFrame, carried: pd.DataFrame, *, is_same: bool = False) -> Mean | None:
    """The mean of score retuned minus carried over the replicates of both; exactly 0 for one setting.

    None where a run of either diverged, and without a replicate of both.
    """
    if retuned["score"].isna().any() or carried["score"].isna().any():
        return None
    sides = retuned.set_index("replicate"), carried.set_index("replicate")["score"]
    both = sides[0].join(sides[1].rename("carried"), how="inner").reset_index()
    if both.empty:
        return None
    if is_same:
        return Mean(0.0, Interval(0.0, 0.0), len(both), len(both))
    return mean_over_replicates(
        both.assign(gain=both["score"] - both["carried"]), "gain", step=float(both["step"].max())
    )


def _study(sweep: Sweep) -> pd.DataFrame:
    """The trials that ended, with `replicate`, `score` and `step`."""
    trials = sweep.trials[sweep.trials["status"].isin(["completed", "diverged"])]
    metric = sweep.metric
    trials = trials.assign(
        replicate=number_of(trials, REPLICATE),
        study=number_of(trials, SHARED),
        score=np.where(trials["status"] == "completed", metric.sign * trials[metric.column].astype("float64"), np.nan),
        step=resolution(trials, metric.column),
    )
    tuning = trials[trials["validation_size"].notna()]
    if tuning.empty:
        raise UserError(
            f"`results` must hold settings that are chosen on validation examples, got none in {sweep.folder}; "
            "python sweeps/scaling_rules.py makes them"
        )
    others = [name for name in CARRIED if name != "learning_rate"]
    if tuning.groupby(["study", "validation_size", number_of(tuning, others)]).ngroups > 1:
        raise UserError(
            f"`results` must hold one model, optimizer and length of training, got several in {sweep.folder}; give "
            "each a --name of its own"
        )
    return trials[trials["study"] == tuning["study"].iloc[0]]


def _best(rows: pd.DataFrame) -> Mapping[str, Any] | None:
    """A row of the learning rate with the best mean score, of those with all seeds and none that diverged."""
    settings = rows.groupby("learning_rate").agg(
        score=("score", "mean"),
        known=("score", "count"),
        loss=("test_loss", "mean"),
        seeds=("replicate", "nunique"),
        trial_id=("trial_id", "first"),
    )
    settings = settings[(settings["known"] == settings["seeds"]) & (settings["seeds"] == settings["seeds"].max())]
    if settings.empty:
        return None
    best = settings.reset_index().sort_values(["score", "loss"], ascending=[False, True])
    return dict(best.iloc[0])


def _setting(config: TrialConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in CARRIED}


def _level(rows: pd.DataFrame, metric: Metric) -> Mean | None:
    return None if rows["score"].isna().any() else mean_over_replicates(rows, metric.column)
