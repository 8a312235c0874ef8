"""The charts of means on the page: primary metric, gap and sharpness against batch size, and against the switch epoch.

The panels and their means are those of analysis/batch_size_curves.py and switch_point.py; a point is
[x, mean, low, high, holds trials off target], low and high null where there is one replicate.
"""

from functools import lru_cache
from typing import Any

import pandas as pd

from analysis.charts.batch_size_curves import panels_of
from analysis.charts.style import LABELS
from analysis.data.load import NO_REMEDY, Sweep, comparable
from analysis.questions.free_batch import free_batch
from analysis.stats.wording import told_apart

Chart = dict[str, Any]
Line = list[tuple[int, pd.DataFrame]]  # the trials at each place of the x axis


@lru_cache(maxsize=16)
def batch_size_charts(sweep: Sweep) -> list[Chart]:
    """A line per learning rate; none for fewer than two batch sizes."""
    frame = comparable(sweep)
    plain = frame[frame["is_plain"]]
    sizes = sorted(plain["batch_size"].unique().tolist())
    if len(sizes) < 2:
        return []
    words = told_apart(plain["learning_rate"])
    lines = {
        f"learning rate {words[rate]}": [(size, part[part["batch_size"] == size]) for size in sizes]
        for rate, part in plain.groupby("learning_rate")
    }
    return _charts(
        sweep, lines, plain[plain["is_reference"]], {"x": sweep.batch_unit.label, "at": sizes, "ticks": None}
    )


def gap_chart(sweep: Sweep) -> Chart | None:
    """The chart of the gap by batch size, with the margin and the largest batch that is shown to lose less than it."""
    found = free_batch(sweep, "matched")
    for chart in batch_size_charts(sweep):
        if chart["zero"]:
            if found is None:
                return chart
            free = found.largest_noninferior_batch if found.largest_noninferior_batch > found.reference else None
            margin = None if found.margin is None else sweep.metric.factor * found.margin
            return {**chart, "margin": margin, "free": free}
    return None


def switch_charts(sweep: Sweep) -> list[Chart]:
    """A line per pair of batch sizes, from the large batch alone to the small one alone; none without a switch."""
    frame = comparable(sweep)
    switched, plain = frame[frame["is_switched"] & (frame["remedy"] == NO_REMEDY)], frame[frame["is_plain"]]
    if switched.empty:
        return []
    epochs = sorted(switched["switch_epoch"].unique().tolist())
    lines: dict[str, Line] = {}
    for (small, large), part in switched.groupby(["batch_size", "switch_batch_size"]):
        lines[f"{small} → {large:.0f}"] = [
            (0, plain[plain["batch_size"] == large]),
            *((1 + rank, part[part["switch_epoch"] == epoch]) for rank, epoch in enumerate(epochs)),
            (1 + len(epochs), plain[plain["batch_size"] == small]),
        ]
    ticks = ["0 (large batch)", *(f"{epoch:g}" for epoch in epochs), "none (small)"]
    return _charts(
        sweep, lines, plain[plain["is_reference"]], {"x": LABELS["switch_epoch"], "at": None, "ticks": ticks}
    )


def _charts(sweep: Sweep, lines: dict[str, Line], references: pd.DataFrame, x_axis: Chart) -> list[Chart]:
    charts = []
    for panel in panels_of(sweep.metric):
        shown: dict[str, list[list[Any]]] = {name: [] for name in lines}
        for name, places in lines.items():
            for x, rows in places:
                mean = panel.mean(rows, references, sweep.sequential)
                if mean is not None:
                    ends = (mean.interval.low, mean.interval.high) if mean.interval else (None, None)
                    values = [
                        None if end is None else float(f"{panel.factor * end:.5g}") for end in (mean.value, *ends)
                    ]
                    shown[name].append([x, *values, bool(rows["off_target"].any())])
        if any(shown.values()):
            charts.append({**x_axis, "y": panel.label, "log": panel.log, "zero": panel.is_gap, "lines": shown})
    return charts
