"""The experiment on sharpness: what each intervention does, how much of the gap each measure mediates, how sure."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.charts.style import GREY, LINE_COLOURS, MARKERS, batch_size_colours, footnote, legend_key, new_figure
from analysis.data.load import Sweep
from analysis.questions.sharpness_intervention import PLACEBO, PLAIN, Explained, arms_of, explained, named, points
from analysis.stats.means import Mean

SHOWN = 2.5  # shares beyond this are cut off


def intervention_figure(sweep: Sweep) -> Figure:
    """Left: metric against measure, a point for each arm. Middle: the share of each measure on each test set. Right:
    the share against the correlation with an unmeasured confounder.

    Raises UserError where the sweep is no such experiment.
    """
    found = explained(sweep)
    one = named(found)
    outcomes = list(dict.fromkeys(row.outcome for row in found))
    names = list(dict.fromkeys(row.name for row in found))
    with new_figure(height=2.4 + 0.12 * len(names) * len(outcomes)) as figure:
        effects, shares, rho = figure.subplots(1, 3, width_ratios=[1.15, 1.2, 0.8])
        keys = _draw_arms(effects, sweep, one)
        for place, name in enumerate(reversed(names)):
            for rank, outcome in enumerate(outcomes):
                row = next((row for row in found if (row.name, row.outcome) == (name, outcome)), None)
                if row is not None:
                    at = place + 0.3 - 0.6 * (rank + 0.5) / len(outcomes)
                    _dot(shares, at, row.found.share, LINE_COLOURS[rank % len(LINE_COLOURS)], row.is_invariant is False)
        shares.set_yticks(range(len(names)), [name.replace(" sharpness", "\nsharpness") for name in reversed(names)])
        for x in (0, 100):
            shares.axvline(x, color=GREY, linewidth=0.8, zorder=1)
        left, right = shares.get_xlim()
        shares.set_xlim(max(left, -100 * SHOWN), min(right, 100 * SHOWN))
        shares.set_xlabel("share of the gap mediated [%]")
        _draw_sensitivity(rho, one)
        keys += [
            legend_key(outcome, marker="o", color=LINE_COLOURS[rank % len(LINE_COLOURS)])
            for rank, outcome in enumerate(outcomes)
            if any(row.outcome == outcome and row.found.share and row.found.share.interval for row in found)
        ]
        figure.legend(handles=keys, loc="outside upper center", ncols=5, frameon=False)
        footnote(
            figure,
            f"{one.found.total.replicates} replicates; 95 % intervals (jackknife, Fieller). Left, right: {one.name}. "
            "Hollow shares: the placebo changes the measure and no prediction. rho: correlation between what the "
            "interventions do to the metric in other ways and what they do to the measure.",
        )
    return figure


def _draw_arms(axes: Axes, sweep: Sweep, one: Explained) -> list[Any]:
    """A point for each arm and batch size; the line has the slope by the interventions, if determined.

    Returns keys.
    """
    arms, metric = arms_of(sweep), sweep.metric
    measure, score = points(sweep, one)
    sizes = (arms.small, arms.large)
    colours = batch_size_colours(list(sizes))
    kinds = [PLAIN, *dict.fromkeys(arm.kind for arm in arms.arms if arm.kind not in (PLAIN, PLACEBO)), PLACEBO]
    for batch, size in enumerate(sizes):
        for place, arm in enumerate(arms.arms):
            if np.isfinite(measure[batch, place]):
                face = "none" if arm.kind == PLACEBO else colours[size]
                style: dict[str, Any] = {"color": colours[size], "markerfacecolor": face, "linestyle": "none"}
                marker = MARKERS[kinds.index(arm.kind) % len(MARKERS)]
                axes.plot(
                    [measure[batch, place]],
                    [metric.factor * score[batch, place]],
                    marker=marker,
                    markersize=4.5,
                    **style,
                )
        known = measure[batch][np.isfinite(measure[batch])]
        ends = np.array([known.min(), known.max()])
        if one.found.slope is not None:
            line = score[batch, 0] - metric.sign * one.found.slope.value * (ends - measure[batch, 0])
            axes.plot(ends, metric.factor * line, color=colours[size], linewidth=0.9)
    axes.set_xlabel(f"log10 {one.name}" if one.is_log else one.name)
    axes.set_ylabel(metric.label())
    own = {arm.kind for arm in arms.arms}
    keys = [legend_key(f"batch {size}", marker="o", color=colours[size]) for size in sizes]
    return keys + [
        legend_key(
            kind or "plain",
            marker=MARKERS[rank % len(MARKERS)],
            color=GREY,
            markerfacecolor="none" if kind == PLACEBO else GREY,
        )
        for rank, kind in enumerate(kinds)
        if kind in own
    ]


def _draw_sensitivity(axes: Axes, one: Explained) -> None:
    curve = [(rho, share) for rho, share in one.found.sensitivity if share is not None]
    rhos = np.array([rho for rho, _ in curve])
    axes.plot(rhos, [100 * share.value for _, share in curve], color=LINE_COLOURS[0])
    known = [(rho, share.interval) for rho, share in curve if share.interval is not None]
    if known:
        low, high = ([100 * getattr(interval, end) for _, interval in known] for end in ("low", "high"))
        axes.fill_between([rho for rho, _ in known], low, high, color=LINE_COLOURS[0], alpha=0.2, linewidth=0)
    axes.axvline(one.found.critical_rho, color=GREY, linewidth=0.8, linestyle=":")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_ylim(max(axes.get_ylim()[0], -100 * SHOWN), min(axes.get_ylim()[1], 100 * SHOWN))
    axes.set_xlabel("confounder, rho")
    axes.set_ylabel("share [%]")


def _dot(axes: Axes, place: float, share: Mean | None, colour: Any, is_hollow: bool) -> None:
    if share is None or share.interval is None:
        return
    axes.plot([100 * share.interval.low, 100 * share.interval.high], [place, place], color=colour, linewidth=0.9)
    face = "white" if is_hollow else colour
    axes.plot([100 * share.value], [place], marker="o", markersize=4, color=colour, markerfacecolor=face)
