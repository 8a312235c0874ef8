"""Which measure predicts the gap? A leaderboard of all measures, with batch size and other baselines for comparison.

It has a row per measure and setting, and baselines that are not sharpness (training loss, batch size, learning rate,
epochs, distance from the start): a measure that does not beat the batch size adds nothing to what was known before
training. The columns, each worked out in docs/statistics.md:

- matched: Spearman's rank correlation inside sets that differ in batch size and switch alone, the headline;
- matched tau: the same as Kendall's coefficient, and at matched loss only over pairs within 0.1 decades of loss;
- partial: what is left of Spearman's when all hyperparameters and their interactions are taken out of both sides;
- psi: granulated Kendall; sign error: in the worst environment, where 0.5 is a coin;
- p: of the matched correlation, by Holm corrected for all rows; seconds: mean cost of measuring one trial.

All intervals and p-values are t over replicates (analysis.stats.rank_correlation): they speak of new seeds and splits.

On target trials without a remedy only (all of them at matched loss, which is what the window is for). Ranked by the
size of the matched correlation: a measure that predicts with the wrong sign stands high, with its sign.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from analysis.cli.text_table import text_table
from analysis.data.load import Sweep, measures_of, rows_of
from analysis.questions.association import GAP, beyond_hyperparameters, compared, hyperparameters, matched_correlation
from analysis.stats.kendall import SignError, granulated_correlation, kendall_correlation, sign_error
from analysis.stats.means import Interval
from analysis.stats.multiplicity import corrected
from analysis.stats.rank_correlation import Correlation, GranulatedKendall, granulated_kendall
from analysis.stats.wording import plain_number
from trainables.runtime.errors import UserError

COMPARISONS = {
    "train_loss": "training loss",
    "batch_size": "batch size",
    "learning_rate": "learning rate",
    "epochs_done": "epochs trained",
    "distance": "distance from the start",
}
LOSS_WINDOW = 0.1  # decades of training loss within which two trials count as equally far trained: a factor of 1.26


@dataclass(frozen=True)
class Standing:
    """How well one predictor does; see the top of the file. `seconds` is None where no time was recorded."""

    name: str
    column: str
    is_measure: bool
    matched: Correlation
    matched_tau: Correlation
    at_matched_loss: Correlation
    partial: Correlation
    granulated: GranulatedKendall
    psi: Correlation
    sign_error: SignError
    corrected_p: float | None
    seconds: float | None


@dataclass(frozen=True)
class Leaderboard:
    """The standings, best first, over `trials` trials, for the column `target`, which `target_label` names;
    `off_target_too` where too few were on target.
    """

    target: str
    target_label: str
    trials: int
    off_target_too: bool
    axes: tuple[str, ...]
    standings: tuple[Standing, ...]


def target_labels(sweep: Sweep) -> dict[str, str]:
    """What can be predicted: the column, and how it is called."""
    return {
        GAP: "large-batch gap",
        "generalization_gap": "generalization gap",
        "test_loss": "test loss",
        "test_error": sweep.metric.error,
    }


def leaderboard(sweep: Sweep, target: str = GAP) -> Leaderboard:
    """The standings of all measures and comparisons for a column of `target_labels`.

    Raises UserError for another target, and where fewer than two trials may be compared.
    """
    return _leaderboard(sweep, target)


@lru_cache(maxsize=8)
def _leaderboard(sweep: Sweep, target: str) -> Leaderboard:
    labels = target_labels(sweep)
    if target not in labels:
        raise UserError(f"`target` must be one of {', '.join(labels)}, got {target}")
    everything = compared(sweep)
    everything = everything[everything[target].notna()]
    frame = everything[~everything["off_target"]]
    off_target_too = frame["matched_set"].duplicated().sum() == 0
    frame = everything if off_target_too else frame
    if len(frame) < 2:
        raise UserError(
            f"`results` must hold at least two completed trials with a {labels[target]}, "
            f"got {len(frame)} in {sweep.folder}"
        )
    names, within = hyperparameters(frame)
    predictors = [(m.column, m.label, rows_of(sweep, m)["seconds"].mean()) for m in measures_of(sweep)]
    predictors += [(column, label, np.nan) for column, label in COMPARISONS.items()]
    predictors = [each for each in predictors if frame[each[0]].notna().sum() >= 2]
    matched = [matched_correlation(frame, column, target) for column, *_ in predictors]
    partial = beyond_hyperparameters(frame, [column for column, *_ in predictors], target)
    p_values = corrected([found.p_value for found in matched])
    loss = np.log10(everything["train_loss"].astype("float64").where(everything["train_loss"] > 0))
    ordered = "test_error" if target == GAP else target  # the gap's reference changes with the learning rate
    standings = [
        Standing(
            name=label,
            column=column,
            is_measure=column not in COMPARISONS,
            matched=matched[place],
            matched_tau=_tau(frame, column, target),
            at_matched_loss=_tau(everything, column, target, window=(loss, LOSS_WINDOW)),
            partial=partial[place],
            granulated=granulated_kendall(frame, column, ordered, names, within=within),
            psi=granulated_correlation(frame, column, ordered, names, within=within),
            sign_error=sign_error(frame, column, ordered, names, within=within),
            corrected_p=p_values[place],
            seconds=None if pd.isna(seconds) else float(seconds),
        )
        for place, (column, label, seconds) in enumerate(predictors)
    ]
    standings.sort(key=lambda standing: abs(standing.matched.value or 0.0), reverse=True)
    return Leaderboard(target, labels[target], len(frame), off_target_too, tuple(names), tuple(standings))


def _tau(frame: pd.DataFrame, column: str, target: str, window: tuple[Any, float] | None = None) -> Correlation:
    return kendall_correlation(
        frame[column], frame[target], frame["replicate"], strata=frame["matched_set"], window=window
    )


def leaderboard_frame(board: Leaderboard) -> pd.DataFrame:
    """The leaderboard as a table of plain numbers, a row per predictor, null where something is undefined."""
    rows = []
    for standing in board.standings:
        row: dict[str, Any] = {"predictor": standing.name, "is_measure": standing.is_measure}
        for name in ("matched", "matched_tau", "at_matched_loss", "partial", "psi"):
            found: Correlation = getattr(standing, name)
            row |= {name: found.value} | _ends(name, found.interval)
        row["p"], row["corrected_p"] = standing.matched.p_value, standing.corrected_p
        row |= {f"psi_{axis}": value for axis, value in standing.granulated.coefficients.items()}
        errors, worst = standing.sign_error, standing.sign_error.worst
        row |= {"mean_sign_error": errors.mean} | _ends("mean_sign_error", errors.mean_interval)
        row |= {"worst_sign_error": worst.sign_error if worst else None}
        row |= _ends("worst_sign_error", worst.interval if worst else None)
        row["worst_environment"] = f"{worst.axis} {worst.values[0]} / {worst.values[1]}" if worst else None
        counts = {"trials": standing.matched.trials, "replicates": standing.matched.replicates}
        rows.append(row | {"seconds": standing.seconds} | counts)
    return pd.DataFrame(rows)


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def short_name(standing: Standing) -> str:
    clear = standing.corrected_p is not None and standing.corrected_p < 0.05
    return standing.name.replace(" [%]", "") + (" *" if clear else "")


def leaderboard_lines(board: Leaderboard) -> list[str]:
    """The leaderboard as lines of text."""
    head = ("predictor of the " + board.target_label, "matched [95 %]", "partial", "psi", "worst", "p", "s")
    lines: list[tuple[str, ...]] = [head]
    for standing in board.standings:
        interval, worst = standing.matched.interval, standing.sign_error.worst
        ends = f" [{interval.low:+.2f}, {interval.high:+.2f}]" if interval else ""
        matched = "" if standing.matched.value is None else f"{standing.matched.value:+.2f}{ends}"
        numbers = [standing.partial.value, standing.psi.value, worst.sign_error if worst else None]
        texts = ["" if number is None else f"{number:+.2f}" for number in numbers[:2]]
        texts.append("" if numbers[2] is None else f"{numbers[2]:.2f}")
        texts.append("" if standing.corrected_p is None else f"{standing.corrected_p:.3f}")
        texts.append("" if standing.seconds is None else plain_number(standing.seconds))
        lines.append((short_name(standing), matched, *texts))
    return text_table(lines)
