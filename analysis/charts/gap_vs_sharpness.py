"""The gap map: each trial's large-batch gap against the sharpness of its minimum, by learning rate.

The question of Keskar et al. 2017 (arXiv 1609.04836, section 2.2): do the minima that generalize worse lie
among the sharp ones? Small points are trials, large ones the means of a batch size (of the sharpness the geometric
mean), joined from batch size to batch size. A thin line joins the trials that are compared with each other: one seed
and split at one setting. Colour is the batch size, a triangle a trial with a switch, hollow a trial off target, a cross
(paper panels) a trial whose `paper` maximum is less than half of the `strong` one: there the paper's maximizer failed,
and the point lies too far to the left. A line above the panels of a measure has Spearman's rank correlation over all
learning rates, each panel the one at its learning rate; analysis.questions.association says which trials enter which
number. The reference trials, those of the smallest batch size, have a gap of 0 by construction. A sharpness that is
null or 0 has no place on a log axis; such trials are counted in that line. Many trials are drawn smaller. With more
than MOST_RATES learning rates all are in one panel. Trials with a remedy are in the figure of analysis/remedies.py.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.charts.style import (
    GREY,
    batch_size_colours,
    heading,
    legend_key,
    log_axis,
    measure_values,
    new_figure,
    two_lines,
)
from analysis.data.load import (
    BOX_PAPER,
    BOX_STRONG,
    BOX_STRONG_SMALL,
    MAX_EIG,
    MEASURES,
    Measure,
    Sweep,
    has_flag,
    measures_of,
)
from analysis.questions.association import Association, associate, compared, defined
from analysis.stats.rank_correlation import Correlation
from analysis.stats.wording import correlation_text
from trainables.records.flag_names import PAPER_FAR_BELOW_STRONG
from trainables.runtime.errors import UserError

# The panels of every sweep; each further measure of a sweep has one of its own.
PANELS = (BOX_STRONG, BOX_PAPER, BOX_STRONG_SMALL, MAX_EIG)
MOST_RATES = 4  # beyond which the panels would be too narrow
MANY_POINTS = (
    1000  # of a panel, beyond which they shrink, and are one image in the svg: else it had a kilobyte for each
)
HEADINGS = ("batch size", "points")
HEADROOM = 0.22  # of a panel's height, for the text above its points


def require_measured(sweep: Sweep) -> None:
    """Raises UserError where no trial has a value of any measure."""
    if sweep.measures["value"].isna().all():
        reasons = sweep.measures["error"].dropna()
        why = f": {reasons.mode().iloc[0]}" if len(reasons) else "; sweeps measure what --measures names"
        raise UserError(f"`results` must hold trials with measured sharpness, got none in {sweep.folder}{why}")


def gap_vs_sharpness(sweep: Sweep) -> Figure:
    """The gap map. Raises UserError where no trial beside the reference has both a gap and a sharpness."""
    require_measured(sweep)
    frame = compared(sweep)
    frame = frame[frame["large_batch_gap"].notna()]
    frame = frame.assign(shown_gap=sweep.metric.factor * frame["large_batch_gap"])
    further = [measure for measure in measures_of(sweep) if measure not in MEASURES and measure.method != "paper"]
    panels = [measure for measure in (*PANELS, *further) if len(measure_values(frame, measure))]
    if frame["is_reference"].all() or not panels:
        raise UserError(
            "`results` must hold completed trials at two batch sizes or more for the gap map, "
            f"got {len(frame)} trials with a gap and a sharpness beside no other, in {sweep.folder}"
        )
    colours = batch_size_colours(frame["batch_size"])
    rates: list[float | None] = sorted(frame["learning_rate"].unique().tolist())
    if len(rates) > MOST_RATES:
        rates = [None]
    with new_figure(height=0.5 + 2.35 * len(panels)) as figure:
        grid = figure.subplots(len(panels), len(rates), squeeze=False, sharey=True, sharex="row")
        for row, measure in zip(grid, panels, strict=True):
            values = measure_values(frame, measure)
            shown, not_shown = frame.loc[values.index], len(frame) - len(values)
            area = min(1.0, MANY_POINTS / max(1, len(shown)))
            association = associate(sweep, measure)
            for axes, rate in zip(row, rates, strict=True):
                _panel(axes, shown if rate is None else shown[shown["learning_rate"] == rate], measure, colours, area)
                axes.set_xlabel(two_lines(measure.label))
                if rate is not None:
                    _name_panel(axes, _within(association, rate))
            _name_row(row[0], _overall(association, not_shown))
            log_axis(row[0], "x")
            row[0].set_ylabel(sweep.metric.gap_label)
        if rates != [None]:
            low, high = grid[0, 0].get_ylim()  # of all panels, once they are drawn
            grid[0, 0].set_ylim(low, high + HEADROOM * (high - low))
        legend = figure.legend(handles=_legend(frame, colours), loc="outside right upper", frameon=False)
        for text in legend.get_texts():
            text.set_fontweight("bold" if text.get_text() in HEADINGS else "normal")
    return figure


def _panel(axes: Axes, shown: pd.DataFrame, measure: Measure, colours: Any, area: float) -> None:
    rasterized = area < 1.0
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    _joined(axes, shown, measure, rasterized)
    for (size, off_target, switched), rows in shown.groupby(["batch_size", "off_target", "is_switched"]):
        axes.scatter(
            rows[measure.column],
            rows["shown_gap"],
            s=area * 11,
            marker="^" if switched else "o",
            facecolors="none" if off_target else [colours[size]],
            edgecolors=[colours[size]],
            linewidths=area**0.5 * 0.6,
            alpha=0.5,
            zorder=2,
            rasterized=rasterized,
        )
    _means(axes, shown, measure, colours)
    if measure.method == "paper":
        low = shown[has_flag(shown, {PAPER_FAR_BELOW_STRONG})]
        axes.scatter(
            low[measure.column],
            low["shown_gap"],
            s=area * 9,
            marker="x",
            c="black",
            linewidths=area**0.5 * 0.5,
            alpha=0.6,
            zorder=5,
            rasterized=rasterized,
        )


def _joined(axes: Axes, shown: pd.DataFrame, measure: Measure, rasterized: bool) -> None:
    """A thin line through each matched set, from batch size to batch size."""
    plain = shown[~shown["is_switched"].astype(bool)].sort_values("batch_size")
    x: list[float] = []
    y: list[float] = []
    for _, rows in plain.groupby("matched_set"):
        x += [*rows[measure.column], np.nan]
        y += [*rows["shown_gap"], np.nan]
    if x:
        axes.plot(x, y, color="0.8", linewidth=0.5, zorder=1.5, rasterized=rasterized)


def _means(axes: Axes, shown: pd.DataFrame, measure: Measure, colours: Any) -> None:
    """The mean of each batch size, and of its trials with a switch; each kind joined."""
    logs = shown.assign(log_sharpness=np.log(shown[measure.column].astype("float64")))
    for switched, of_kind in logs.groupby("is_switched"):
        means = of_kind.groupby("batch_size")[["log_sharpness", "shown_gap"]].mean()
        x = np.exp(means["log_sharpness"])
        axes.plot(x, means["shown_gap"], color=GREY, linewidth=1.0, linestyle=":" if switched else "-", zorder=3)
        for size, place, gap in zip(means.index, x, means["shown_gap"], strict=True):
            marker = "^" if switched else "o"
            axes.plot([place], [gap], marker, color=colours[size], markersize=7, markeredgecolor="black", zorder=4)


def _overall(association: Association, not_shown: int) -> str:
    """The line above the panels of a measure: the correlations over all learning rates."""
    views = {
        "matched": defined(association.matched, association.matched_with_off_target),
        "pooled": defined(association.pooled, association.pooled_with_off_target),
    }
    parts = [f"{view} ρ = {_text(*found)}" for view, found in views.items()]
    if not_shown:
        parts.append(f"{not_shown} trials without a value above 0 not shown")
    return ";  ".join(parts)


def _within(association: Association, rate: float) -> str:
    found = association.within_learning_rate.get(rate)
    if found is None:
        return f"learning rate {rate:g}"
    shown = defined(found, association.within_learning_rate_with_off_target[rate])
    return f"learning rate {rate:g}\nρ = {_text(*shown)}"


def _text(found: Correlation, with_off_target: bool) -> str:
    return correlation_text(found) + (" (off target too)" if with_off_target else "")


def _name_row(first: Axes, text: str) -> None:
    """`text` above a row of panels, from the left of the first on: it may be wider than that one."""
    first.set_title(text, loc="left").set_in_layout(False)
    first.set_title(" ")  # keeps its height free


def _name_panel(axes: Axes, text: str) -> None:
    """`text` in the upper left corner."""
    axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", linespacing=1.25, zorder=6)


def _legend(frame: pd.DataFrame, colours: dict[int, Any]) -> list[Line2D]:
    keys = [heading(HEADINGS[0])]
    keys += [legend_key(f"{size}", marker="o", color=colour) for size, colour in colours.items()]
    keys += [heading(""), heading(HEADINGS[1])]
    keys.append(legend_key("mean", marker="o", color=GREY, markeredgecolor="black", markersize=7))
    keys.append(legend_key("trial", marker="o", color=GREY, alpha=0.5, markersize=3.2))
    keys.append(legend_key("same seed, split\nand setting", marker="", linestyle="-", color="0.8", linewidth=0.8))
    if frame["is_switched"].any():
        keys.append(legend_key("batch size\nswitched", marker="^", color=GREY))
    if frame["off_target"].any():
        keys.append(legend_key("off target", marker="o", color=GREY, markerfacecolor="none"))
    if has_flag(frame, {PAPER_FAR_BELOW_STRONG}).any():
        keys.append(legend_key("paper far\nbelow strong", marker="x", color="black", markersize=4))
    return keys
