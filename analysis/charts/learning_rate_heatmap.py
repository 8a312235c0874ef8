"""Heat maps over learning rate and batch size: test metric, box sharpness, largest eigenvalue.

Each cell is the mean over replicates of its completed trials without a switch or a remedy (sharpness: geometric mean,
coloured on a log scale), printed in the cell; a cell without one stays blank. Cells are evenly spaced,
whatever the values. An asterisk marks a cell that holds trials off target. The learning rate is the
configured peak.
"""

from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from analysis.charts.batch_size_curves import EIGENVALUE, SHARPNESS, Panel, metric_panel
from analysis.charts.style import LABELS, footnote, new_figure, note, two_lines
from analysis.data.load import Sweep, comparable
from analysis.stats.means import Mean
from analysis.stats.wording import three_digits
from trainables.runtime.errors import UserError

LEAST_RATES = 3
MOST_SIDE_BY_SIDE = 6  # batch sizes, beyond which the three maps stand one below the other
LIGHT = 0.45  # the luminance from which text on a colour is black


def learning_rate_heatmap(sweep: Sweep) -> Figure:
    """The figure.

    Raises UserError where no trial without a switch has completed, and below LEAST_RATES learning rates: two rows are
    easier to read as the curves of batch_size_curves.
    """
    frame = comparable(sweep)
    frame = frame[frame["is_plain"]]
    if frame.empty:
        raise UserError(
            f"`results` must hold completed trials without a switch or a remedy, got none in {sweep.folder}"
        )
    references = frame[frame["is_reference"]]
    sizes = sorted(frame["batch_size"].unique().tolist())
    rates = sorted(frame["learning_rate"].unique().tolist(), reverse=True)
    if len(rates) < LEAST_RATES:
        raise UserError(
            f"`results` must hold at least {LEAST_RATES} learning rates for a heat map, got {len(rates)} in "
            f"{sweep.folder}; batch_size_curves shows them"
        )
    cells = dict(list(frame.groupby(["learning_rate", "batch_size"])))
    stacked = len(sizes) > MOST_SIDE_BY_SIDE
    height = 3 * (0.75 + 0.27 * len(rates)) + 0.2 if stacked else 1.25 + 0.32 * len(rates)
    shown: list[Mean] = []
    with new_figure(height) as figure:
        grid = figure.subplots(3, 1) if stacked else figure.subplots(1, 3)
        for axes, panel in zip(grid, (metric_panel(sweep.metric), SHARPNESS, EIGENVALUE), strict=True):
            values, marks = np.full((len(rates), len(sizes)), np.nan), np.full((len(rates), len(sizes)), "")
            for (rate, size), rows in cells.items():
                mean = panel.mean(rows, references)
                if mean is not None:
                    shown.append(mean)
                    place = rates.index(rate), sizes.index(size)
                    values[place] = panel.factor * mean.value
                    marks[place] = "*" if rows["off_target"].any() else ""
            heat_map(axes, values, marks, panel)
            axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
            axes.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
            axes.set_title(panel.label if stacked else two_lines(panel.label))
            if stacked or axes is grid[0]:
                axes.set_ylabel(LABELS["learning_rate"])
            if not stacked or axes is grid[-1]:
                axes.set_xlabel(LABELS["batch_size"])
        means_only = note(shown, frame, sweep.trials, by=("batch_size", "learning_rate"))
        footnote(figure, means_only.replace(" and 95 % t-intervals", ""))
    return figure


def heat_map(axes: Axes, values: npt.NDArray[np.float64], marks: npt.NDArray[np.str_], panel: Panel) -> None:
    known = values[np.isfinite(values)]
    palette = matplotlib.colormaps["viridis"]
    low, high = (float(known.min()), float(known.max())) if known.size else (1.0, 1.0)
    norm: Any = LogNorm(low, high) if panel.log and high > low else Normalize(low, high if high > low else low + 1)
    axes.imshow(np.ma.masked_invalid(values), cmap=palette, norm=norm, aspect="auto")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            text = (three_digits(value) if panel.log else f"{value:.{panel.decimals}f}") + str(marks[row, column])
            colour = "black" if _luminance(palette(float(norm(value)))) > LIGHT else "white"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7.0)


def _luminance(colour: tuple[float, ...]) -> float:
    """How light a colour looks, in [0, 1] (weights of ITU-R BT.709)."""
    return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]
