"""The loss around small-batch and large-batch minima along filter-normalized random directions (Li et al. 2018).

    python analysis/landscape.py results/NAME [--pair TRIAL_ID TRIAL_ID]

of any sweep that was run with --keep-weights. Lines: alpha in [-1, 1] along 5 random directions around every minimum,
training and test set; thin a minimum (the mean over its directions), thick their mean (of the loss geometric). Planes:
two directions around the two minima of the first pair, the training loss as contours and as a surface. At alpha 1
every filter has moved by its own norm. The Gaussian numbers behind the directions are the same around every minimum.
The points are kept in profiles.parquet; how they are made, and what batch norm does there, stands in
analysis/profiles.py.

Trap: random directions in many dimensions miss nearly all of the sharpest ones (Li et al. show the same pictures for
networks whose largest eigenvalues differ).
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # else analysis/statistics.py shadows the standard library's

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.command import run_with_options
from analysis.figures import footnote, legend_key, log_axis, new_figure, plain_number, save
from analysis.load import Sweep, comparable, load_sweep
from analysis.means import mean_over_replicates
from analysis.minima import MinimumPair, minimum_pairs
from analysis.parametric_plot import COLOURS, alphas, ratio_sentence
from analysis.profile_options import add_profile_options, where
from analysis.profiles import Point, profiles
from trainables.runtime.errors import UserError
from trainables.sharpness.model_loss import BatchNorm
from trainables.storage.folders import write_atomically

POINTS = 25
DIRECTIONS = 5
DISTANCE = 0.5  # at which the two are compared in words, and how far the planes reach
LEVELS = 24
STYLES = {"small": "-", "large": "--"}


@dataclass(frozen=True)
class Landscape:
    """The minima, and the rows of profiles.parquet around them, each with its `end` of a pair and `replicate`."""

    pairs: tuple[MinimumPair, ...]
    lines: pd.DataFrame
    planes: pd.DataFrame
    sizes: tuple[int, int]
    directions: int


def landscape(
    sweep: Sweep,
    *,
    pair: Sequence[str] | None = None,
    points: int = POINTS,
    directions: int = DIRECTIONS,
    batch_norm: BatchNorm = "recalibrated",
    **place: Any,
) -> Landscape:
    """Evaluates what is missing (`place`: see `profiles`). Raises UserError as `minimum_pairs` and `profiles`."""
    if directions < 1:
        raise UserError(f"`directions` must be 1 or more, got {directions}")
    line, side = _around(1.0, points), _around(DISTANCE, points)
    pairs = minimum_pairs(sweep, pair)
    ends = {trial: (end, one.replicate) for one in pairs for end, trial in (("small", one.small), ("large", one.large))}
    first = (pairs[0].small, pairs[0].large)
    on_lines = [
        Point(trial_id=trial, kind="random_line", direction_seed=seed, alpha=alpha, batch_norm=batch_norm)
        for trial in ends
        for seed in range(directions)
        for alpha in line
    ]
    in_planes = [
        Point(trial_id=trial, kind="random_plane", direction_seed=0, alpha=alpha, beta=beta, batch_norm=batch_norm)
        for trial in first
        for alpha in side
        for beta in side
    ]
    lines = profiles(sweep.folder, on_lines, **place)
    lines = lines.assign(
        end=[ends[trial][0] for trial in lines["trial_id"]],
        replicate=[ends[trial][1] for trial in lines["trial_id"]],
    )
    planes = profiles(sweep.folder, in_planes, splits=("train",), **place)
    sizes = comparable(sweep).set_index("trial_id").loc[list(first), "batch_size"].tolist()
    return Landscape(tuple(pairs), lines, planes, (int(sizes[0]), int(sizes[1])), directions)


def _around(distance: float, points: int) -> list[float]:
    """Steps from -distance to distance, with 0 and the places where the two minima are compared."""
    return sorted({*alphas(-distance, distance, points), 0.0, -DISTANCE, DISTANCE})


def random_rises(found: Landscape) -> pd.DataFrame:
    """For each minimum the training loss at its centre and its mean rise at DISTANCE, over directions and both ways."""
    train = found.lines[found.lines["split"] == "train"]
    centre = train[train["alpha"] == 0].groupby("trial_id", sort=False)["loss"].first()
    there = train[train["alpha"].abs() == DISTANCE].groupby(["trial_id", "end", "replicate"], sort=False)["loss"].mean()
    table: pd.DataFrame = there.rename("loss_there").reset_index()
    table["loss_centre"] = table["trial_id"].map(centre)
    table["rise"] = table["loss_there"] - table["loss_centre"]
    return table


def landscape_sentence(found: Landscape) -> str:
    """Whether the training loss rises faster around LB along random directions, with an interval over replicates."""
    rise = random_rises(found).set_index("trial_id")["rise"]
    ratios = [
        {"replicate": one.replicate, "log_ratio": np.log(rise[one.large] / rise[one.small])}
        for one in found.pairs
        if rise[one.small] > 0 and rise[one.large] > 0
    ]
    mean = mean_over_replicates(pd.DataFrame(ratios, columns=["replicate", "log_ratio"]), "log_ratio")
    start = (
        f"Along {found.directions} random directions, at {DISTANCE:g} of every filter's norm, the training loss rises"
    )
    return ratio_sentence(mean, start, found.sizes)


def lines_figure(found: Landscape) -> Figure:
    """Loss and accuracy along random lines: SB solid, LB dashed."""
    with new_figure(height=3.4) as figure:
        panels = figure.subplots(1, 2)
        for split, colour in COLOURS.items():
            for end, style in STYLES.items():
                rows = found.lines[(found.lines["split"] == split) & (found.lines["end"] == end)]
                log_losses = _by_minimum(rows, np.log(rows["loss"].astype("float64")))
                accuracies = _by_minimum(rows, 100 * rows["accuracy"])
                line = {"color": colour, "linestyle": style}
                for axes, each, mean in (
                    (panels[0], np.exp(log_losses), np.exp(log_losses.mean(axis=1))),
                    (panels[1], accuracies, accuracies.mean(axis=1)),
                ):
                    if len(each.columns) > 1:
                        axes.plot(each.index, each, linewidth=0.5, alpha=0.35, **line)
                    axes.plot(each.index, mean, linewidth=1.8, **line)
        log_axis(panels[0], "y")
        panels[0].set_ylabel("loss [nats per example]")
        panels[1].set_ylabel("accuracy [%]")
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
        footnote(figure, f"{'One minimum' if count == 1 else f'{count} minima (thin) and their mean'}, {each}.")
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
        bar.set_label("training loss [nats per example]")
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
        footnote(figure, "Height: training loss [nats per example], logarithmic. The same planes as in the contours.")
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


def _options(parser: argparse.ArgumentParser) -> None:
    add_profile_options(parser, points=POINTS)
    parser.add_argument(
        "--directions", type=int, default=DIRECTIONS, metavar="N", help="random directions (default: %(default)s)"
    )


def main(arguments: list[str]) -> int:
    def show(options: argparse.Namespace) -> list[object]:
        return write_landscape(load_sweep(options.results), directions=options.directions, **where(options))

    return run_with_options(show, arguments, __doc__, _options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
