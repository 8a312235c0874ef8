"""The loss around minima: lines, contours and surfaces along random directions."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.charts.parametric_plot import COLOURS, shown_metric
from analysis.charts.style import footnote, legend_key, log_axis, new_figure, save
from analysis.data.load import Sweep
from analysis.minima.landscape import Landscape, landscape, landscape_sentence, random_rises
from analysis.stats.wording import plain_number
from trainables.storage.folders import write_atomically

LEVELS = 24
STYLES = {"small": "-", "large": "--"}


def lines_figure(found: Landscape) -> Figure:
    """Loss and primary metric along random lines: SB solid, LB dashed; the loss alone where there is no other."""
    shown, missing = shown_metric(found.lines, found.metric)
    with new_figure(height=3.4) as figure:
        panels = figure.subplots(1, 1 if shown is None else 2, squeeze=False)[0]
        for split, colour in COLOURS.items():
            for end, style in STYLES.items():
                rows = found.lines[(found.lines["split"] == split) & (found.lines["end"] == end)]
                log_losses = _by_minimum(rows, np.log(rows["loss"].astype("float64")))
                curves = [(np.exp(log_losses), np.exp(log_losses.mean(axis=1)))]
                if shown is not None:
                    values = _by_minimum(rows, shown[rows.index])
                    curves.append((values, values.mean(axis=1)))
                line = {"color": colour, "linestyle": style}
                for axes, (each, mean) in zip(panels, curves, strict=True):
                    if len(each.columns) > 1:
                        axes.plot(each.index, each, linewidth=0.5, alpha=0.35, **line)
                    axes.plot(each.index, mean, linewidth=1.8, **line)
        log_axis(panels[0], "y")
        panels[0].set_ylabel(f"loss{found.metric.loss_unit}")
        if shown is not None:
            panels[1].set_ylabel(found.metric.label(""))
        for axes in panels:
            axes.set_xlabel("alpha [norms of each filter]")
            axes.set_xticks([-1, -0.5, 0, 0.5, 1])
        keys = [
            legend_key(marker="", color=colour, linestyle=style, label=f"batch {size}, {split} set")
            for size, style in zip(found.sizes, STYLES.values(), strict=True)
            for split, colour in COLOURS.items()
        ]
        figure.legend(handles=keys, loc="outside upper center", ncols=4, frameon=False)
        count = len(found.pairs)
        each = f"{found.directions} random filter-normalized directions each"
        footnote(
            figure, f"{'One minimum' if count == 1 else f'{count} minima (thin) and their mean'}, {each}.{missing}"
        )
    return figure


def _by_minimum(rows: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    """The mean over directions: a row for each alpha, a column for each minimum."""
    return values.groupby([rows["trial_id"], rows["alpha"]]).mean().unstack(level=0)


def contour_figure(found: Landscape) -> Figure:
    """The training loss in a random plane around the two minima of the first pair, as contours of one scale."""
    grids, levels = _grids(found)
    with new_figure(height=3.6) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, size, (alpha, beta, loss) in zip(panels, found.sizes, grids, strict=True):
            norm = LogNorm(levels[0], levels[-1])
            shown = axes.contourf(alpha, beta, loss.T, levels=levels, norm=norm, cmap="viridis")
            axes.contour(alpha, beta, loss.T, levels=levels, colors="white", linewidths=0.3)
            axes.plot([0], [0], marker="+", color="white", markersize=7)
            axes.set_title(f"batch {size}")
            axes.set_xlabel("alpha [norms of each filter]")
            axes.set_aspect("equal")
            axes.grid(visible=False)
        panels[0].set_ylabel("beta [norms of each filter]")
        bar = figure.colorbar(shown, ax=panels, ticks=_decades(levels))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))
        bar.set_label(f"training loss{found.metric.loss_unit}")
        footnote(figure, "The same two Gaussian directions around both, each filter as long as the weights' own.")
    return figure


def surface_figure(found: Landscape) -> Figure:
    """The same planes as surfaces of the loss's logarithm."""
    grids, levels = _grids(found)
    with new_figure(height=3.6) as figure:
        for place, (size, (alpha, beta, loss)) in enumerate(zip(found.sizes, grids, strict=True), 1):
            axes: Any = figure.add_subplot(1, 2, place, projection="3d")
            x, y = np.meshgrid(alpha, beta, indexing="ij")
            ends = {"vmin": np.log10(levels[0]), "vmax": np.log10(levels[-1])}
            axes.plot_surface(x, y, np.log10(loss), cmap="viridis", linewidth=0, rcount=60, ccount=60, **ends)
            axes.set_zlim(*ends.values())
            axes.set_zticks(np.log10(_decades(levels)))
            axes.zaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(10**value)))
            axes.tick_params(pad=0)
            axes.set_title(f"batch {size}")
            axes.set_xlabel("alpha")
            axes.set_ylabel("beta")
        footnote(
            figure, f"Height: training loss{found.metric.loss_unit}, logarithmic. The same planes as in the contours."
        )
    return figure


def _grids(found: Landscape) -> tuple[list[tuple[Any, Any, Any]], Any]:
    """(alpha, beta, loss) of both planes, and levels for both."""
    grids = []
    for trial in (found.pairs[0].small, found.pairs[0].large):
        plane = found.planes[found.planes["trial_id"] == trial]
        loss = plane.pivot(index="alpha", columns="beta", values="loss")
        grids.append((loss.index.to_numpy(), loss.columns.to_numpy(), loss.to_numpy(np.float64)))
    values = np.concatenate([loss.ravel() for _, _, loss in grids])
    values = values[np.isfinite(values) & (values > 0)]
    return grids, np.geomspace(values.min(), values.max(), LEVELS)


def _decades(levels: Any) -> list[float]:
    """The powers of ten within the levels, or their ends where there are none."""
    found = [10.0**k for k in range(math.ceil(np.log10(levels[0])), math.floor(np.log10(levels[-1])) + 1)]
    return found or [float(levels[0]), float(levels[-1])]


def write_landscape(sweep: Sweep, **options: Any) -> list[object]:
    """Writes figures/landscape_lines, _contours and _surfaces and landscape.csv; returns the paths and the sentence."""
    found = landscape(sweep, **options)
    figures = {"lines": lines_figure, "contours": contour_figure, "surfaces": surface_figure}
    paths = [path for name, draw in figures.items() for path in save(draw(found), sweep.folder, f"landscape_{name}")]
    table = paths[0].with_name("landscape.csv")
    write_atomically(table, random_rises(found).to_csv(index=False).encode())
    return [*paths, table, landscape_sentence(found)]
