"""What retuning gains over each scaling rule, and the learning rates, against the batch size."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.charts.style import (
    GREY,
    LABELS,
    LINE_COLOURS,
    MARKERS,
    draw_means,
    footnote,
    legend_above,
    log_axis,
    new_figure,
    set_aside,
)
from analysis.questions.scaling_rules import Referee


def scaling_rules_figure(found: Referee) -> Figure:
    """Gain of retuning against k, a line for each rule; learning rate against batch size, by rule and retuned."""
    with new_figure(height=3.4) as figure:
        panels = figure.subplots(1, 2)
        _gains(panels[0], found)
        _rates(panels[1], found)
        legend_above(figure, 4)
        footnote(
            figure,
            f"Above 0 the rule is worse than retuning the learning rate at that batch size. Dashed: margin. 95 % "
            f"t-intervals over {found.replicates} paired replicates, simultaneous over {len(found.rules)} rules. "
            "Runs that diverged have no point. Filled black: retuned; hollow: at the end of the grid.",
        )
    return figure


def _gains(axes: Axes, found: Referee) -> None:
    metric = found.metric
    assert metric.margin is not None
    base = found.base.batch_size
    for rank, judged in enumerate(found.rules):
        known = [(verdict.batch_size / base, verdict.gain) for verdict in judged.verdicts if verdict.gain is not None]
        shift = 1 + set_aside(rank, len(found.rules), 0.04)
        draw_means(
            axes,
            [shift * factor for factor, _ in known],
            [mean for _, mean in known],
            metric.factor,
            color=LINE_COLOURS[rank % len(LINE_COLOURS)],
            marker=MARKERS[rank % len(MARKERS)],
            markersize=4,
            label=judged.rule.words,
        )
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.axhline(metric.factor * metric.margin, color="black", linewidth=0.9, linestyle="--")
    linear_up_to = 4 * metric.factor * metric.margin
    axes.set_yscale("symlog", linthresh=linear_up_to)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    log_axis(axes, "x", at=[choice.batch_size / base for choice in found.choices[1:]])
    axes.set_xlabel(f"k, in batches of {base}")
    axes.set_ylabel(metric.difference_label("gain of retuning"))


def _rates(axes: Axes, found: Referee) -> None:
    for rank, judged in enumerate(found.rules):
        settings = [found.base.config, *(verdict.config for verdict in judged.verdicts)]
        axes.plot(
            [config.batch_size for config in settings],
            [config.learning_rate for config in settings],
            color=LINE_COLOURS[rank % len(LINE_COLOURS)],
            marker=MARKERS[rank % len(MARKERS)],
            markersize=3,
            linewidth=0.9,
        )
    for choice in found.choices:
        face = "white" if choice.is_edge else "black"
        style = {"marker": "o", "markersize": 6, "color": "black", "markerfacecolor": face, "zorder": 5}
        axes.plot([choice.batch_size], [choice.config.learning_rate], **style)  # type: ignore[arg-type]
    log_axis(axes, "y")
    log_axis(axes, "x", at=[choice.batch_size for choice in found.choices])
    axes.set_xlabel(found.batch_unit.label)
    axes.set_ylabel(LABELS["learning_rate"])
