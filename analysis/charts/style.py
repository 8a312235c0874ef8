"""The style that all figures share: sizes for a two-column paper, one palette, one marker per learning rate,
names.

Batch size is colour everywhere: plasma by rank (not by value, so that 16 and 32 can be told apart beside
8192), as far as it has a contrast of 3 : 1 against white (WCAG 2.2, 1.4.11); it is safe for the colour-blind and
stays ordered in grey. The page has the same colours (page/charts.js). The learning rate is the marker. Hollow means
off target (see analysis.data.load). Legends stand outside the axes, so they never cover a point.

Figures are plain `matplotlib.figure.Figure` objects: nothing here touches pyplot or any other global state.
"""

import contextlib
import io
import math
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

from analysis.charts.ticks import PlainLabels
from analysis.data.load import REPLICATE, SWITCH, Measure
from analysis.data.load import axes as axes_of
from analysis.stats.means import Mean
from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath, write_atomically

WIDTH = 7.1  # inches: both columns of a two-column paper
FOOTNOTE_COLUMNS = 130  # what fits into it
DPI = 200
LONG_LABEL = 25  # characters
GREY = "0.45"
REACH = 1e3  # times a mean, and one part of it: the furthest that its bar is drawn
MARKERS = "os^DvPX<>*"
# Okabe and Ito 2008, darkened where a colour would have less than 3 : 1 against white
LINE_COLOURS = ("#0072B2", "#D55E00", "#00906a", "#b8578c", "#2a8ecb", "#b06f00", "#6b6b6b")
MOST_ASIDE = 0.6  # from the first of the lines of a panel to the last
PALEST = 0.62  # of plasma: beyond it is below 3 : 1
LABELS = {
    "learning_rate": "learning rate",
    "switch_epoch": "switch epoch [epochs]",
}
_STYLE: Any = {
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "svg.hashsalt": "large-batch-sweeps",  # the same figure is the same file
    "svg.fonttype": "none",  # text as text: it can be searched and edited
    "pdf.fonttype": 42,  # as outlines that journals accept, not as Type 3
}


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Matplotlib's defaults and the shared style: a matplotlibrc, such as one that asks for LaTeX, changes nothing."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


CANVASES: dict[str, tuple[type[FigureCanvasBase], dict[str, None]]] = {  # each with what would change from day to day
    "png": (FigureCanvasAgg, {}),
    "svg": (FigureCanvasSVG, {"Date": None}),
    "pdf": (FigureCanvasPdf, {"CreationDate": None}),
}


@contextlib.contextmanager
def new_figure(height: float) -> Iterator[Figure]:
    """An empty figure of WIDTH x `height` inches, in the shared style while the block lasts."""
    with _style():
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        for axes in figure.axes:
            _say_where_empty(axes)


def rows_of(count: int) -> int:
    """The rows of `count` panels in two columns."""
    return math.ceil(count / 2)


def two_columns(figure: Figure, count: int) -> list[Axes]:
    """The axes of `count` panels in two columns, row by row."""
    axes = list(figure.subplots(rows_of(count), 2, squeeze=False).flat)
    for spare in axes[count:]:
        spare.remove()
    return axes[:count]


def save(figure: Figure, folder: AnyPath, name: str) -> list[AnyPath]:
    """Writes FOLDER/figures/NAME.png (200 dpi), .svg and .pdf, each whole or not at all; returns their paths.

    Raises UserError where the folder cannot be written.
    """
    contents = rendered(figure)
    paths = [folder / "figures" / f"{name}.{kind}" for kind in contents]
    try:
        paths[0].parent.mkdir(exist_ok=True)
        for path, content in zip(paths, contents.values(), strict=True):
            write_atomically(path, content)
    except OSError as error:
        raise UserError(f"`results` must be a folder that can be written, got {folder} ({error.strerror})") from error
    return paths


def rendered(figure: Figure, kinds: Sequence[str] = ("png", "svg", "pdf")) -> dict[str, bytes]:
    """The figure as the bytes of a file of each of `kinds`, the same for the same figure.

    Laid out once, by the first, and drawn once for each: `Figure.savefig` lays out and draws twice for each of them.
    Afterwards the figure stays as it was laid out.
    """
    contents = {}
    with _style():
        figure.dpi = DPI
        for kind in kinds:
            canvas, metadata = CANVASES[kind]
            file = io.BytesIO()
            getattr(canvas(figure), f"print_{kind}")(file, metadata=metadata)
            figure.set_layout_engine("none")
            contents[kind] = file.getvalue()
    return contents


def batch_size_colours(batch_sizes: Sequence[int]) -> dict[int, Any]:
    """A colour per batch size, dark for the smallest, by rank."""
    return _plasma(sorted(set(batch_sizes)))


def rank_colours(values: Sequence[float]) -> dict[float, Any]:
    """A colour per value, by rank: of LINE_COLOURS, or of a continuous palette where there are more."""
    ordered = sorted(set(values))
    if len(ordered) <= len(LINE_COLOURS):
        return dict(zip(ordered, LINE_COLOURS, strict=False))
    return _plasma(ordered)


def _plasma(ordered: Sequence[Any]) -> dict[Any, Any]:
    palette = matplotlib.colormaps["plasma"]
    return {value: palette(PALEST * rank / max(1, len(ordered) - 1)) for rank, value in enumerate(ordered)}


def learning_rate_markers(learning_rates: Sequence[float]) -> dict[float, str]:
    """A marker per learning rate, by rank; they repeat after ten."""
    return {rate: MARKERS[rank % len(MARKERS)] for rank, rate in enumerate(sorted(set(learning_rates)))}


def set_aside(rank: int, count: int, step: float) -> float:
    """How far to set the `rank`-th of `count` lines aside, so that their intervals do not cover each other.

    `step` from one to the next, but less where there are so many that points would leave their place on the axis.
    """
    return min(step, MOST_ASIDE / count) * (rank - (count - 1) / 2)


def log_axis(axes: Axes, which: Literal["x", "y"], at: Sequence[float] | None = None) -> None:
    """Makes an axis logarithmic with plain numbers at the values `at`, or at 1, (2, 5,) 10, ..., as far as they fit."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    if at is not None:
        axis.set_major_locator(FixedLocator(list(at)))
    elif high / low < 300:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 8 else (1, 1.5, 2, 3, 5, 7)))
    axis.set_major_formatter(PlainLabels(axis))
    axis.set_minor_formatter(NullFormatter())
    if at is not None:
        axis.set_minor_locator(NullLocator())


def draw_means(axes: Axes, x: Sequence[float], means: Sequence[Mean], factor: float = 1.0, **style: Any) -> None:
    """A line through means, times `factor`, with their intervals as bars (none where there is none).

    An interval above 0 that reaches further than REACH times or one REACHth of its mean ends there, in an arrow: that
    of two replicates of a sharpness may span 50 decades, in which nothing else can be told apart.
    """
    axes.plot(x, [factor * mean.value for mean in means], **style)
    for position, mean in zip(x, means, strict=True):
        if mean.interval is not None:
            whole = [mean.interval.low, mean.interval.high]
            ends = [max(whole[0], mean.value / REACH), min(whole[1], mean.value * REACH)] if whole[0] > 0 else whole
            bar = {"color": style["color"], "linewidth": 0.9, "markersize": 4}
            axes.plot([position, position], [factor * end for end in ends], marker="_", **bar)
            for end, true_end, arrow in zip(ends, whole, "v^", strict=True):
                if end != true_end:
                    axes.plot([position], [factor * end], marker=arrow, **bar)


def draw_with_bounds(axes: Axes, means: Mapping[int, Mean], bounds: Collection[int], colour: Any, label: str) -> None:
    """Means by batch size as `draw_means` draws them; hollow at the batch sizes whose means are `bounds`."""
    draw_means(axes, [*means], [*means.values()], color=colour, marker="o", markersize=4, label=label)
    if hollow := [size for size in means if size in bounds]:
        values = [means[size].value for size in hollow]
        axes.plot(hollow, values, "o", color=colour, markersize=4, markerfacecolor="white")


def bounds_note(has_bounds: bool) -> str:
    """What `draw_with_bounds` draws hollow, for a footnote; empty where nothing is."""
    return " Hollow: an upper bound, as a run was at the goal when first evaluated." if has_bounds else ""


def off_target_points(axes: Axes, x: Sequence[float], y: Sequence[float], colour: Any, marker: str) -> None:
    """Draws points anew as hollow, for those that hold trials off target."""
    axes.plot(x, y, linestyle="none", marker=marker, color=colour, markerfacecolor="white", zorder=3)


def _say_where_empty(axes: Axes) -> None:
    """Says "not measured" in `axes` without data, such as those of a measure that no trial has a value of.

    Lines across the whole panel, such as axhline draws, are no data.
    """
    lines: list[Any] = [
        line for line in axes.lines if all(line.get_transform().contains_branch_seperately(axes.transData))
    ]
    points = [line.get_xdata() for line in lines] + [each.get_offsets() for each in axes.collections]
    if not any(map(len, points)) and not axes.images and not axes.patches:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=GREY)


def legend_key(label: str, **style: Any) -> Line2D:
    """An entry of a legend: a marker without a line."""
    keywords: dict[str, Any] = {"linestyle": "none", "markersize": 5, **style}
    return Line2D([], [], label=label, **keywords)


def heading(label: str) -> Line2D:
    """An entry of a legend that heads those below it."""
    return Line2D([], [], linestyle="none", label=label)


def two_lines(label: str) -> str:
    """A label broken at its first comma, or where it is long before its unit, for narrow panels."""
    if ", " in label:
        return label.replace(", ", ",\n", 1)
    return "\n[".join(label.rsplit(" [", 1)) if len(label) > LONG_LABEL else label


def legend_above(figure: Figure, most_columns: int, title: str | None = None) -> None:
    """The lines of the first axes as a legend above all axes, in rows of equal length."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    rows = math.ceil(len(labels) / most_columns)
    columns = math.ceil(len(labels) / max(1, rows))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False, title=title)


def footnote(figure: Figure, text: str) -> None:
    """A line or two under the figure: what is averaged and what the bars are."""
    figure.supxlabel(textwrap.fill(text, FOOTNOTE_COLUMNS), fontsize=6.8, color=GREY)


def note(means: Sequence[Mean], frame: Any, trials: Any, by: Sequence[str]) -> str:
    """What the points and bars of a figure of means are, in words; `by` is what its axes and lines show."""
    averaged = [name for name in axes_of(frame) if name not in (*REPLICATE, *SWITCH, *by)]
    counts = sorted({mean.replicates for mean in means})
    over = f", averaged over {', '.join(name.replace('_', ' ') for name in averaged)}" if averaged else ""
    if counts == [1]:
        text = f"One replicate (random seed and data split){over}: no intervals."
    else:
        span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        text = f"Means and 95 % t-intervals over {span} replicates (random seed and data split){over}."
    left_out = [f"{(trials['status'] == status).sum()} {status}" for status in ("diverged", "failed")]
    left_out = [part for part in left_out if not part.startswith("0 ")]
    text += f" Left out: {', '.join(left_out)}." if left_out else ""
    return text + (" Hollow or *: holds trials off target." if frame["off_target"].any() else "")


def measure_values(frame: Any, measure: Measure) -> Any:
    """The values of a measure that a log axis can hold: those above 0."""
    values = frame[measure.column].astype("float64")
    return values[values > 0]
