"""Final test metric, gap and sharpness against the epoch at which the small batch gives way to the large one.

The paper's warm starts (Keskar et al. 2017, figure 5): train at the small batch, go on at the large one. On
the left end "0" is the large batch from the start, on the right end "none" the small batch to the end; in
between lie the switch epochs, evenly spaced whatever their values. A line per pair of batch sizes. Completed
trials; means and 95 % t-intervals over replicates as in batch_size_curves. A trial that ended before its
switch never switched and is not shown, as it is the trial at "none" again. Off target trials make a point
hollow. Trials with a remedy are not shown.
"""

import pandas as pd
from matplotlib.figure import Figure

from analysis.charts.batch_size_curves import measured, panels_of
from analysis.charts.style import (
    GREY,
    LABELS,
    MARKERS,
    batch_size_colours,
    draw_means,
    footnote,
    legend_above,
    log_axis,
    new_figure,
    note,
    off_target_points,
    rows_of,
    set_aside,
    two_columns,
    two_lines,
)
from analysis.data.load import NO_REMEDY, Sweep, comparable
from analysis.stats.means import Mean
from trainables.runtime.errors import UserError


def switch_point(sweep: Sweep) -> Figure:
    """The figure. Raises UserError where no completed trial has switched its batch size."""
    frame = comparable(sweep)
    frame = frame[frame["remedy"] == NO_REMEDY]
    switched = frame[frame["is_switched"]]
    if switched.empty:
        raise UserError(f"`results` must hold completed trials with a switch-point, got none in {sweep.folder}")
    references = frame[frame["is_reference"]]
    epochs = sorted(switched["switch_epoch"].unique().tolist())
    pairs = sorted(set(zip(switched["batch_size"], switched["switch_batch_size"].astype(int), strict=True)))
    colours = batch_size_colours(frame["batch_size"])
    large_sizes = sorted({large for _, large in pairs})
    ticks = ["0\n(large batch)", *(f"{epoch:g}" for epoch in epochs), "none\n(small batch)"]
    shown: list[Mean] = []
    panels = measured(panels_of(sweep.metric), frame)
    with new_figure(height=0.6 + 2.3 * rows_of(len(panels))) as figure:
        for axes, panel in zip(two_columns(figure, len(panels)), panels, strict=True):
            for rank, (small, large) in enumerate(pairs):
                places = _places(frame, small, large, epochs)
                means = {at: panel.mean(rows, references, sweep.sequential) for at, rows in places.items()}
                known = {at: mean for at, mean in means.items() if mean is not None}
                shown += known.values()
                aside = set_aside(rank, len(pairs), 0.06)
                x = {at: at + (aside if at else 0.0) for at in known}  # all lines start from the same large batch
                marker = MARKERS[large_sizes.index(large) % len(MARKERS)]
                style = {
                    "color": colours[small],
                    "marker": marker,
                    "markersize": 4.5,
                    "label": f"{small} → {large}",
                }
                draw_means(axes, list(x.values()), list(known.values()), panel.factor, **style)
                hollow = [at for at in known if places[at]["off_target"].any()]
                values = [panel.factor * known[at].value for at in hollow]
                off_target_points(axes, [x[at] for at in hollow], values, colours[small], marker)
            if panel.is_gap:
                axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
            if panel.log and axes.has_data():
                log_axis(axes, "y")
            axes.set_xticks(range(len(ticks)), ticks)
            axes.set_xlim(-0.4, len(ticks) - 0.6)
            axes.set_xlabel(LABELS["switch_epoch"])
            axes.set_ylabel(two_lines(panel.label))
        legend_above(figure, most_columns=6, title="batch sizes")
        footnote(figure, note(shown, frame, sweep.trials, by=("batch_size",)))
    return figure


def _places(frame: pd.DataFrame, small: int, large: int, epochs: list[float]) -> dict[int, pd.DataFrame]:
    """The trials at each tick: the large batch alone, each switch epoch, the small batch alone."""
    pure = frame[~frame["is_switched"]]
    pair = frame[(frame["batch_size"] == small) & (frame["switch_batch_size"] == large)]
    places = [
        pure[pure["batch_size"] == large],
        *(pair[pair["switch_epoch"] == epoch] for epoch in epochs),
        pure[pure["batch_size"] == small],
    ]
    return dict(enumerate(places))
