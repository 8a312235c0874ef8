"""The test metric against batch size, with the fitted threshold batch size."""

import numpy as np
from matplotlib.figure import Figure

from analysis.charts.style import GREY, LINE_COLOURS, footnote, log_axis, new_figure
from analysis.data.load import Sweep
from analysis.questions.threshold_batch import threshold_batch, threshold_sentence


def threshold_figure(sweep: Sweep) -> Figure:
    """The metric against batch size, with the broken line where the threshold is located.

    Raises UserError as `threshold_batch`.
    """
    found, metric = threshold_batch(sweep), sweep.metric
    sizes, unit = list(found.points), metric.sign * metric.factor  # from scores to what is shown
    with new_figure(height=2.9) as figure:
        axes = figure.subplots()
        axes.plot(sizes, [unit * value for value in found.points.values()], "o", color=LINE_COLOURS[0], markersize=4.5)
        if found.threshold is not None and found.is_located:
            curve = np.geomspace(sizes[0], sizes[-1], 300)
            beyond = np.maximum(0.0, np.log2(curve / found.threshold.value))
            axes.plot(curve, unit * (found.level - found.slope.value * beyond), color=GREY, zorder=1)
            axes.axvline(found.threshold.value, color="black", linewidth=0.9, linestyle="--")
            if found.threshold.interval is not None:
                axes.axvspan(found.threshold.interval.low, found.threshold.interval.high, color="0.88", zorder=0)
        log_axis(axes, "x", at=sizes)
        axes.set_xlabel(sweep.batch_unit.label)
        axes.set_ylabel(metric.label())
        footnote(figure, threshold_sentence(sweep))
    return figure
