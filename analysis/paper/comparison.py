"""Trials of one kind against trials of another, paired inside replicates: is the large batch worse, and is it sharper?

    gap   = test accuracy of the reference minus that of these trials; of another primary metric how much worse it is
    ratio = box sharpness (strong, epsilon 1e-3) of these trials over that of the reference, geometric

Both with 95 % t-intervals over replicates (a seed with its data split). `worse` and `sharper` are claimed only where
the interval leaves out 0, or 1. The intervals are for new random seeds and data splits, and of one comparison each: of
twenty without any effect one would leave it out by chance.
"""

import csv
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from analysis.charts.style import GREY, LINE_COLOURS, footnote, log_axis, new_figure, two_lines
from analysis.data.load import BOX_STRONG, Sweep, attempted
from analysis.data.metric import ACCURACY, Metric
from analysis.reporting.summary import plus_minus, with_interval
from analysis.stats.means import Interval, Mean, mean_over_replicates, paired_difference
from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath, write_atomically

COLUMNS = 100  # of text


@dataclass(frozen=True)
class Comparison:
    """`name`: trials at `batch_size` against a reference. `level`: the primary `metric` on the test set, which is like
    the gap a fraction for accuracy. Sharpness is in percent. The reference itself has no gap and no ratio.
    """

    name: str
    batch_size: int
    trials: int
    off_target: int
    train_loss: Mean | None
    level: Mean | None
    box_sharpness: Mean | None
    gap: Mean | None
    ratio: Mean | None
    metric: Metric = ACCURACY
    is_reference: bool = False

    @property
    def worse(self) -> bool | None:
        """Whether the metric is significantly worse than the reference's; None if the interval holds 0 or is absent."""
        return _side(self.gap, 0.0)

    @property
    def sharper(self) -> bool | None:
        """Whether box sharpness is significantly above the reference's; None if the interval holds 1 or is absent."""
        return _side(self.ratio, 1.0)


def compare(
    name: str, rows: pd.DataFrame, reference: pd.DataFrame, metric: Metric, *, match: str = "matched_set"
) -> Comparison:
    """`rows` against `reference`, both of analysis.data.load.comparable; `match` as in paired_difference."""
    is_reference = rows.index.equals(reference.index)
    return Comparison(
        name=name,
        batch_size=int(rows["batch_size"].max()),
        trials=len(rows),
        off_target=int(rows["off_target"].sum()),
        train_loss=mean_over_replicates(rows, "train_loss", scale="log"),
        level=mean_over_replicates(rows, metric.column),
        box_sharpness=mean_over_replicates(rows, BOX_STRONG.column, scale="log"),
        gap=None if is_reference else paired_difference(reference, rows, metric.score, match=match),
        ratio=None if is_reference else paired_difference(rows, reference, BOX_STRONG.column, match=match, scale="log"),
        metric=metric,
        is_reference=is_reference,
    )


def small_and_large(frame: pd.DataFrame, sweep: Sweep) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The plain trials at the smallest and at the largest batch size of `frame`.

    Raises UserError where one of the two is missing.
    """
    plain = frame[frame["is_plain"]]
    if plain["batch_size"].nunique() < 2:
        found = ", ".join(str(size) for size in sorted(plain["batch_size"].unique())) or "none"
        raise UserError(
            "`results` must hold completed trials at a small and at a large batch, without a switch or a remedy, "
            f"got batch sizes {found} in {sweep.folder}"
        )
    sizes = plain["batch_size"]
    return plain[sizes == sizes.min()], plain[sizes == sizes.max()]


def points(metric: Metric, mean: Mean | None) -> str:
    """A difference in the unit that it is shown in, such as percentage points: `+0.96 [+0.50, +1.43]`."""
    if mean is None:
        return "–"
    ends = f" [{metric.signed(mean.interval.low)}, {metric.signed(mean.interval.high)}]" if mean.interval else ""
    return f"{metric.signed(mean.value)}{ends}"


def answered(value: bool | None) -> str:
    """`yes`, `no`, or `not significant`."""
    return "not significant" if value is None else "yes" if value else "no"


def wrapped(*sentences: str) -> list[str]:
    """Each sentence as lines of at most COLUMNS columns."""
    return [line for sentence in sentences for line in textwrap.wrap(sentence, COLUMNS)]


def missing_trials(sweep: Sweep) -> str:
    """How many trials are in no row because they did not complete; empty where all did."""
    ended = attempted(sweep)
    counts = [(int(ended["status"].eq(status).sum()), status) for status in ("diverged", "failed")]
    lost = ", ".join(f"{count} {status}" for count, status in counts if count)
    if not lost:
        return ""
    completed = int(ended["status"].eq("completed").sum())
    return f"{completed} of {len(ended)} trials completed ({lost}); only pairs that both completed are compared."


def write_table(folder: AnyPath, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> AnyPath:
    """Writes FOLDER/figures/NAME.csv; a Mean becomes three columns, the value and the ends of its interval."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    is_mean = [any(isinstance(row[place], Mean) for row in rows) for place in range(len(columns))]
    spread = [[column, f"{column}_low", f"{column}_high"] for column in columns]
    writer.writerow(
        [part for parts, wide in zip(spread, is_mean, strict=True) for part in (parts if wide else parts[:1])]
    )
    for row in rows:
        writer.writerow(
            [part for cell, wide in zip(row, is_mean, strict=True) for part in (_ends(cell) if wide else [cell])]
        )
    path = folder / "figures" / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, text.getvalue().encode())
    return path


def described(row: Comparison) -> list[str]:
    """The cells that every table of comparisons has, under HEADER."""
    starred = f"{row.name} *" if row.off_target else row.name
    means = plus_minus(row.metric, row.level), "reference" if row.is_reference else points(row.metric, row.gap)
    return [starred, str(row.batch_size), *means, with_interval(row.box_sharpness), with_interval(row.ratio)]


def header(metric: Metric) -> list[str]:
    """The heads of the cells of `described`."""
    return ["", "batch", metric.label(), metric.difference_label("gap", short=True), "box sharpness [%]", "ratio"]


def fields(metric: Metric) -> list[str]:
    """The columns of `cells`, for write_table."""
    return ["name", "batch_size", "trials", "off_target", "train_loss", metric.name, "box_sharpness", "gap", "ratio"]


def cells(row: Comparison) -> list[object]:
    """A comparison as a row of write_table under `fields`."""
    about = [row.name, row.batch_size, row.trials, row.off_target]
    return [*about, row.train_loss, row.level, row.box_sharpness, row.gap, row.ratio]


def gap_and_ratio(rows: Sequence[Comparison], reference: str) -> Figure:
    """A dot with its interval per comparison: the gap on the left, the sharpness ratio on the right.

    `reference` names what they are against. Hollow: holds trials off target.
    """
    replicates = sorted({row.gap.replicates for row in rows if row.gap is not None})
    with new_figure(height=1.2 + 0.26 * len(rows)) as figure:
        gaps, ratios = figure.subplots(1, 2, sharey=True)
        for place, row in enumerate(reversed(rows)):
            for axes, mean, unit in ((gaps, row.gap, row.metric.factor), (ratios, row.ratio, 1.0)):
                if mean is None:
                    continue
                style = {"color": LINE_COLOURS[0], "markerfacecolor": "white" if row.off_target else LINE_COLOURS[0]}
                if mean.interval is not None:
                    ends = [unit * mean.interval.low, unit * mean.interval.high]
                    axes.plot(ends, [place, place], color=LINE_COLOURS[0], linewidth=0.9)
                axes.plot([unit * mean.value], [place], marker="o", markersize=4.5, **style)
        gaps.axvline(0, color=GREY, linewidth=0.8, zorder=1)
        ratios.axvline(1, color=GREY, linewidth=0.8, zorder=1)
        if ratios.has_data():
            log_axis(ratios, "x")
        gaps.set_ylim(-0.5, len(rows) - 0.5)
        gaps.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
        gaps.set_xlabel(two_lines(rows[0].metric.gap_label))
        ratios.set_xlabel("box sharpness, epsilon 1e-3, strong,\nratio to the reference")
        span = (
            " to ".join(str(number) for number in dict.fromkeys((replicates[0], replicates[-1]))) if replicates else "0"
        )
        hollow = " Hollow: holds trials off target." if any(row.off_target for row in rows) else ""
        footnote(figure, f"Against {reference}, paired; 95 % t-intervals over {span} replicates.{hollow}")
    return figure


def _side(mean: Mean | None, neutral: float) -> bool | None:
    interval: Interval | None = mean.interval if mean is not None else None
    return None if interval is None or interval.holds(neutral) else interval.low > neutral


def _ends(cell: object) -> list[object]:
    if not isinstance(cell, Mean):
        return ["", "", ""]
    return [cell.value, *((cell.interval.low, cell.interval.high) if cell.interval else ("", ""))]
