"""Steps and examples to a training loss against batch size, with the critical batch size."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis.charts.style import GREY, batch_size_colours, bounds_note, footnote, legend_key, log_axis, new_figure
from analysis.data.load import Sweep
from analysis.questions.critical_batch import batch_shown, critical_batch, shown
from analysis.stats.wording import exact_number


def critical_batch_figure(sweep: Sweep) -> Figure:
    """Examples against steps, and steps against batch size, with the fit. Raises UserError as `critical_batch`."""
    found, unit = critical_batch(sweep), sweep.batch_unit
    colours = batch_size_colours([row.batch_size for row in found.rows])
    with new_figure(height=3.2) as figure:
        trade, steps = figure.subplots(1, 2)
        sizes = np.array([row.examples.value / row.steps.value for row in found.rows])
        curve = np.geomspace(
            min(sizes.min(), found.b_crit.value) / 1.5, max(sizes.max(), found.b_crit.value) * 1.5, 200
        )
        curve = curve[(curve > sizes.min() / 4) & (curve < sizes.max() * 4)]
        fitted = found.s_min.value * (1 + found.b_crit.value / curve)
        trade.plot(fitted, fitted * curve, color=GREY, zorder=1)
        steps.plot(curve, fitted, color=GREY, zorder=1)
        is_known = not found.extrapolated and "best fit" not in shown(found.b_crit)
        if is_known:
            steps.axvline(found.b_crit.value, color="black", linewidth=0.9, linestyle="--")
            if found.b_crit.interval is not None:
                low, high = found.b_crit.interval.low, found.b_crit.interval.high
                steps.axvspan(max(low, curve[0]), min(high, curve[-1]), color="0.92", zorder=0)
        for row, size in zip(found.rows, sizes, strict=True):
            law = found.s_min.value * (1 + found.b_crit.value / size)
            steps.plot([size, size], [row.steps.value, law], color="0.75", linewidth=4, zorder=1.5)
            style: dict[str, Any] = {"color": colours[row.batch_size], "marker": "D" if row.at_edge else "o"}
            style["markerfacecolor"] = "white" if row.is_bound else style["color"]
            trade.plot([row.steps.value], [row.examples.value], markersize=5, linestyle="none", **style)
            steps.plot([size], [row.steps.value], markersize=5, linestyle="none", **style)
            if row.steps.interval is not None and row.examples.interval is not None:
                x, y = row.steps.interval, row.examples.interval
                trade.plot([x.low, x.high], [row.examples.value] * 2, color=style["color"], linewidth=0.9)
                trade.plot([row.steps.value] * 2, [y.low, y.high], color=style["color"], linewidth=0.9)
                steps.plot([size, size], [x.low, x.high], color=style["color"], linewidth=0.9)
            if row.noise_scale is not None:
                steps.plot([row.noise_scale.value], [row.steps.value], marker="*", color=style["color"], markersize=7)
        for axes in (trade, steps):
            log_axis(axes, "y")
        log_axis(trade, "x")
        log_axis(steps, "x")
        trade.set_xlabel(f"steps to a training loss of {exact_number(found.target_loss)}")
        trade.set_ylabel(f"{unit.examples} to this loss")
        steps.set_xlabel(f"mean size of the batches, {unit.examples} / steps")
        steps.set_ylabel("steps to this loss")
        keys = [legend_key(f"{size}", marker="o", color=colour) for size, colour in colours.items()]
        if any(row.at_edge for row in found.rows):
            keys.append(legend_key("best learning rate at the end of the grid", marker="D", color=GREY))
        if found.noise_epochs:
            keys.append(legend_key("gradient noise scale", marker="*", color=GREY))
        figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), frameon=False, title=unit.label)
        critical = "Dashed: critical batch size" if is_known else "Critical batch size, not drawn:"
        smaller = any(size < 0.95 * row.batch_size for row, size in zip(found.rows, sizes, strict=True))
        last = " Batches are on average smaller than asked for, as the last of an epoch is." if smaller else ""
        footnote(
            figure,
            "Line: the law S = S_min (1 + B_crit / B). It misses the points by "
            f"{100 * np.expm1(found.misfit):.0f} % on average (thick bars). "
            f"{critical} {batch_shown(found.b_crit, unit)}.{last} Geometric means and 95 % intervals over "
            f"{found.b_crit.replicates} replicates at each batch size's fastest setting."
            f"{bounds_note(any(row.is_bound for row in found.rows))}",
        )
    return figure
