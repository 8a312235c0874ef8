"""Critical batch size, steps and examples to a loss against the size of the training set, with their power laws."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.charts.style import GREY, LINE_COLOURS, footnote, legend_key, log_axis, new_figure, two_lines
from analysis.questions.data_size import QUANTITIES, DataSizes, Scaling
from analysis.stats.wording import exact_number, fixed

FARTHEST = 30.0  # an interval that is wider, as a factor to either side of its value, ends there


def data_size_figure(found: DataSizes, wanted: Sequence[int] = ()) -> Figure:
    """A panel for each quantity. A law goes beyond the sizes measured, to those `wanted`, only where it may."""
    (colour, other), unit = LINE_COLOURS[:2], found.batch_unit
    of_batch = "" if unit.tokens is None else f" [{unit.examples}]"
    with new_figure(height=2.9) as figure:
        for axes, scaling in zip(figure.subplots(1, len(found.scalings)), found.scalings, strict=True):
            _law(axes, scaling, wanted)
            for size, one in found.found.items():
                estimate = getattr(one, scaling.name)
                is_known = size in scaling.sizes
                axes.plot([size], [estimate.value], "o", color=colour if is_known else GREY, markersize=5)
                if estimate.interval is not None:
                    ends = estimate.value / FARTHEST, estimate.value * FARTHEST
                    low, high = np.clip([estimate.interval.low, estimate.interval.high], *ends)
                    axes.plot([size, size], [low, high], color=colour if is_known else GREY, linewidth=0.9)
            if scaling.law is not None:
                predicted = np.array(scaling.values) / np.array(scaling.law.misses)
                axes.plot(scaling.sizes, predicted, "D", color=other, markerfacecolor="none", markersize=7)
            log_axis(axes, "x", at=[*found.found, *_beyond(scaling, wanted)])
            log_axis(axes, "y")
            axes.set_xlabel(f"training {unit.examples}")
            label = QUANTITIES[scaling.name].replace("examples", unit.examples)
            axes.set_ylabel(two_lines(label + of_batch * (scaling.name == "b_crit")))
            axes.set_title(_title(scaling, wanted))
        keys = [
            legend_key("measured", marker="o", color=colour),
            legend_key("predicted by the other sizes", marker="D", color=other, markerfacecolor="none"),
            legend_key("power law and 95 % prediction interval", color="black", linestyle="-"),
        ]
        figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), frameon=False)
        to = f"To a training loss of {exact_number(found.loss)}."
        footnote(figure, f"{to} Bars: 95 % intervals. Grey points are not determined.")
    return figure


def _law(axes: Axes, scaling: Scaling, wanted: Sequence[int]) -> None:
    if scaling.law is None:
        return
    ends = [*scaling.sizes, *_beyond(scaling, wanted)]
    x = np.geomspace(min(ends), max(ends), 100)
    intervals = [scaling.law.interval(one) for one in x]
    axes.fill_between(x, [one.low for one in intervals], [one.high for one in intervals], color="0.9", linewidth=0)
    axes.plot(x, [scaling.law.at(one) for one in x], color="black", linewidth=0.9)


def _beyond(scaling: Scaling, wanted: Sequence[int]) -> Sequence[int]:
    return wanted if scaling.refusal is None else ()


def _title(scaling: Scaling, wanted: Sequence[int]) -> str:
    if scaling.law is None:
        return "no law: too few sizes"
    withheld = "; not extrapolated" if wanted and scaling.refusal is not None else ""
    return f"exponent {fixed(scaling.law.exponent)}{withheld}"
