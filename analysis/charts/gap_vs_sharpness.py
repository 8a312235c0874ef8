"""The gap map: each trial's large-batch gap against the sharpness of its minimum, one panel per measure.

The question of Keskar et al. 2017 (arXiv 1609.04836, section 2.2): do the minima that generalize worse lie
among the sharp ones? Colour is the batch size, the marker the learning rate, a ring a trial with a switch,
hollow a trial off target, a cross (paper panel) a trial whose `paper` maximum is less than half of the
`strong` one: there the paper's maximizer failed, and the point lies too far to the left. Above each panel
Spearman's rank correlation; analysis.questions.association says which trials enter which number. The reference trials,
small and pale, have a gap of 0 by construction. A sharpness that is null or 0 has no place on a log axis;
such trials are counted in the title. Many trials are drawn small, so that they can be told apart. Trials with a
remedy are in analysis/remedies.py's figure, not here.
"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.charts.style import (
    GREY,
    batch_size_colours,
    heading,
    learning_rate_markers,
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
    PAPER_FLAG,
    Measure,
    Sweep,
    has_flag,
    measures_of,
)
from analysis.questions.association import Association, associate, compared
from analysis.stats.wording import correlation_text
from trainables.runtime.errors import UserError

# The panels of every sweep; each further measure of a sweep has one of its own.
PANELS = (BOX_STRONG, BOX_PAPER, BOX_STRONG_SMALL, MAX_EIG)
MOST_RATES_IN_TITLE = 3
MANY_POINTS = (
    1000  # of a panel, beyond which they shrink, and are one image in the svg: else it had a kilobyte for each
)
HEADINGS = ("batch size", "learning rate", "trial")


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
    colours, markers = batch_size_colours(frame["batch_size"]), learning_rate_markers(frame["learning_rate"])
    rows = -(-len(panels) // 2)
    with new_figure(height=3.4 if rows == 1 else 3.15 * rows) as figure:
        grid = figure.subplots(rows, 2, squeeze=False, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes, measure in zip(grid.flat, panels, strict=False):
            _panel(axes, frame, measure, colours, markers)
            axes.set_title(
                _title(associate(sweep, measure), len(frame) - len(measure_values(frame, measure))),
                loc="left",
            )
        for axes in grid[:, 0]:
            axes.set_ylabel(sweep.metric.gap_label)
        keys = _legend(frame, colours, markers)
        legend = figure.legend(handles=keys, loc="outside right upper", frameon=False)
        for text in legend.get_texts():
            text.set_fontweight("bold" if text.get_text() in HEADINGS else "normal")
    return figure


def _panel(axes: Axes, frame: pd.DataFrame, measure: Measure, colours: Any, markers: Any) -> None:
    shown = frame.loc[measure_values(frame, measure).index]
    rasterized, area = len(shown) > MANY_POINTS, min(1.0, MANY_POINTS / max(1, len(shown)))
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    for (size, rate, off_target, reference), rows in shown.groupby(
        ["batch_size", "learning_rate", "off_target", "is_reference"]
    ):
        axes.scatter(
            rows[measure.column],
            rows["shown_gap"],
            s=area * (10 if reference else 26),
            marker=markers[rate],
            facecolors="none" if off_target else [colours[size]],
            edgecolors=[colours[size]] if off_target else "white",
            linewidths=area**0.5 * (1.0 if off_target else 0.4),
            alpha=0.45 if reference else 0.9,
            zorder=2 if reference else 3,
            rasterized=rasterized,
        )
    switched = shown[shown["is_switched"]]
    axes.scatter(
        switched[measure.column],
        switched["shown_gap"],
        s=area * 50,
        facecolors="none",
        edgecolors="0.25",
        linewidths=area**0.5 * 0.6,
        zorder=4,
        rasterized=rasterized,
    )
    if measure.method == "paper":
        low = shown[has_flag(shown, {PAPER_FLAG})]
        axes.scatter(
            low[measure.column],
            low["shown_gap"],
            s=area * 12,
            marker="x",
            c="black",
            linewidths=area**0.5 * 0.7,
            zorder=5,
            rasterized=rasterized,
        )
    log_axis(axes, "x")
    axes.set_xlabel(two_lines(measure.label))


def _title(association: Association, not_shown: int) -> str:
    rates = association.within_learning_rate
    shown = {"matched": association.matched, "pooled": association.pooled}
    if 1 < len(rates) <= MOST_RATES_IN_TITLE:
        shown |= {f"learning rate {rate:g}:": correlation for rate, correlation in rates.items()}
    lines = [f"{view} ρ = {correlation_text(correlation)}" for view, correlation in shown.items()]
    if not_shown:
        lines.append(f"{not_shown} trials without a value above 0 not shown")
    return "\n".join(lines)


def _legend(frame: pd.DataFrame, colours: dict[int, Any], markers: dict[float, str]) -> list[Line2D]:
    keys = [heading(HEADINGS[0])]
    keys += [legend_key(f"{size}", marker="o", color=colour) for size, colour in colours.items()]
    keys += [heading(""), heading(HEADINGS[1])]
    keys += [legend_key(f"{rate:g}", marker=marker, color=GREY) for rate, marker in markers.items()]
    keys += [heading(""), heading(HEADINGS[2])]
    keys.append(legend_key("reference (gap 0\nby construction)", marker="o", color=GREY, alpha=0.5, markersize=3.2))
    if frame["is_switched"].any():
        ring = {"marker": "o", "color": "0.25", "markerfacecolor": "none", "markeredgewidth": 0.6}
        keys.append(legend_key("batch size\nswitched", markersize=7.5, **ring))
    if frame["off_target"].any():
        keys.append(legend_key("off target", marker="o", color=GREY, markerfacecolor="none"))
    if has_flag(frame, {PAPER_FLAG}).any():
        keys.append(legend_key("paper far\nbelow strong", marker="x", color="black", markersize=4))
    return keys
