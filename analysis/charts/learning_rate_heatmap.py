"""Heat maps over learning rate and batch size: test metric, box sharpness, largest eigenvalue.

Each cell is the mean over replicates of its completed trials without a switch or a remedy (sharpness: geometric mean,
coloured on a log scale), printed in the cell. Cells are evenly spaced, whatever the values. An asterisk marks a cell
that holds trials off target, a dagger one of which some trials diverged: its mean is over the others. A dagger alone:
none completed. The learning rate is the configured peak.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from analysis.charts.batch_size_curves import EIGENVALUE, SHARPNESS, Panel, measured, metric_panel
from analysis.charts.style import LABELS, footnote, new_figure, note, two_lines
from analysis.data.load import Sweep, attempted, comparable
from analysis.stats.means import Mean
from analysis.stats.wording import three_digits
from trainables.runtime.errors import UserError

LEAST_RATES = 3
MOST_SIDE_BY_SIDE = 6  # batch sizes, beyond which the maps stand one below the other
LIGHT = 0.45  # the luminance from which text on a colour is black
LONGEST_TEXT = 7  # characters of a cell, beyond which it has three significant digits
LARGEST_FONT = 7.0  # points
CHARACTER = 0.65  # of the font size, the width of a digit
DIVERGED = "†"


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
    tried = attempted(sweep)
    tried = tried[tried["is_plain"]]
    sizes = sorted(tried["batch_size"].unique().tolist())
    rates = sorted(tried["learning_rate"].unique().tolist(), reverse=True)
    if len(rates) < LEAST_RATES:
        raise UserError(
            f"`results` must hold at least {LEAST_RATES} learning rates for a heat map, got {len(rates)} in "
            f"{sweep.folder}; batch_size_curves shows them"
        )
    cells = dict(list(tried.groupby(["learning_rate", "batch_size"])))
    stacked = len(sizes) > MOST_SIDE_BY_SIDE
    panels = measured((metric_panel(sweep.metric), SHARPNESS, EIGENVALUE), frame)
    height = len(panels) * (0.75 + 0.27 * len(rates)) + 0.2 if stacked else 1.25 + 0.32 * len(rates)
    shown: list[Mean] = []
    with new_figure(height) as figure:
        shape = (len(panels), 1) if stacked else (1, len(panels))
        grid = figure.subplots(*shape, squeeze=False).flat
        for axes, panel in zip(grid, panels, strict=True):
            values, marks = (
                np.full((len(rates), len(sizes)), np.nan),
                np.full((len(rates), len(sizes)), "", dtype="<U2"),
            )
            for (rate, size), of_cell in cells.items():
                place = rates.index(rate), sizes.index(size)
                rows = frame.loc[frame.index.intersection(of_cell.index)]
                marks[place] = mark(of_cell)
                if (mean := panel.mean(rows, references)) is not None:
                    shown.append(mean)
                    values[place] = panel.factor * mean.value
            heat_map(axes, values, marks, panel)
            axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
            axes.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
            axes.set_title(panel.label if stacked else two_lines(panel.label))
            if stacked or panel is panels[0]:
                axes.set_ylabel(LABELS["learning_rate"])
            if not stacked or panel is panels[-1]:
                axes.set_xlabel(sweep.batch_unit.label)
        footnote(figure, cells_note(shown, frame, tried, sweep, by=("batch_size", "learning_rate")))
    return figure


def mark(rows: pd.DataFrame) -> str:
    """What is said of a cell beside its mean; `rows` are all of its trials, also those that did not complete."""
    off_target = (rows["off_target"] & rows["status"].eq("completed")).any()
    return ("*" if off_target else "") + (DIVERGED if rows["status"].eq("diverged").any() else "")


def cells_note(shown: Sequence[Mean], frame: pd.DataFrame, tried: pd.DataFrame, sweep: Sweep, by: Sequence[str]) -> str:
    """The footnote of heat maps of means: without intervals, which they do not show."""
    text = note(shown, frame, sweep.trials, by=by).replace(" and 95 % t-intervals", "")
    if tried["status"].eq("diverged").any():
        text += f" {DIVERGED}: trials of this cell diverged (alone: none completed)."
    return text


def heat_map(axes: Axes, values: npt.NDArray[np.float64], marks: npt.NDArray[np.str_], panel: Panel) -> None:
    """Draws `values` (NaN: none) with their text and `marks`, both (rows, columns)."""
    known = values[np.isfinite(values)]
    palette = matplotlib.colormaps["viridis"]
    low, high = (float(known.min()), float(known.max())) if known.size else (1.0, 1.0)
    norm: Any = LogNorm(low, high) if panel.log and high > low else Normalize(low, high if high > low else low + 1)
    axes.imshow(np.ma.masked_invalid(values), cmap=palette, norm=norm, aspect="auto")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    texts = {
        place: (_text(value, panel) if np.isfinite(value) else "") + str(marks[place])
        for place, value in np.ndenumerate(values)
    }
    points = axes.bbox.width * 72 / axes.figure.dpi / values.shape[1]  # of a cell, before the layout
    font = min(LARGEST_FONT, points / CHARACTER / max(1, *map(len, texts.values())))
    for (row, column), text in texts.items():
        value = values[row, column]
        light = not np.isfinite(value) or _luminance(palette(float(norm(value)))) > LIGHT
        if text:
            axes.text(column, row, text, ha="center", va="center", color="black" if light else "white", fontsize=font)


def _text(value: float, panel: Panel) -> str:
    plain = f"{value:.{panel.decimals}f}"
    return three_digits(value) if panel.log or len(plain) > LONGEST_TEXT else plain


def _luminance(colour: tuple[float, ...]) -> float:
    """How light a colour looks, in [0, 1] (weights of ITU-R BT.709)."""
    return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]
