"""How well each measure predicts the gap: a row per measure, with intervals."""

from typing import Any

from matplotlib.figure import Figure

from analysis.charts.style import GREY, LINE_COLOURS, footnote, legend_key, new_figure
from analysis.data.load import Sweep
from analysis.questions.association import GAP
from analysis.questions.leaderboard import leaderboard, short_name
from analysis.stats.rank_correlation import Correlation


def leaderboard_figure(sweep: Sweep, target: str = GAP) -> Figure:
    """A dot and interval per predictor: matched and partial rank correlation, and beside them the sign errors."""
    board = leaderboard(sweep, target)
    rows = board.standings[::-1]
    places = range(len(rows))
    with new_figure(height=1.25 + 0.26 * len(rows)) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2.2, 1])
        for place, standing in zip(places, rows, strict=True):
            colour = LINE_COLOURS[0] if standing.is_measure else GREY
            _dot(left, place + 0.12, standing.matched, colour, filled=True)
            _dot(left, place - 0.16, standing.partial, colour, filled=False)
            errors = standing.sign_error
            if errors.worst is not None:
                right.plot([errors.mean, errors.worst.sign_error], [place, place], color=colour, linewidth=0.9)
                right.plot([errors.mean], [place], marker="|", color=colour, markersize=7)
                right.plot([errors.worst.sign_error], [place], marker="o", color=colour, markersize=4.5)
        left.axvline(0, color=GREY, linewidth=0.8, zorder=1)
        right.axvline(0.5, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
        left.set_yticks(list(places), [short_name(standing) for standing in rows])
        left.set_xlabel(f"rank correlation with the {board.target_label}")
        right.set_xlabel("sign error (0.5: a coin)")
        right.set_xlim(0, 1.03)
        keys = [
            legend_key("matched", marker="o", color="black"),
            legend_key("partial, given the hyperparameters", marker="o", color="black", markerfacecolor="white"),
            legend_key("mean", marker="|", color="black"),
            legend_key("worst environment", marker="o", color="black"),
        ]
        figure.legend(handles=keys, loc="outside upper center", ncols=4, frameon=False)
        also = ", off target ones too" if board.off_target_too else ""
        footnote(
            figure,
            f"{board.trials} trials{also}; 95 % t-intervals over replicates. Grey: no sharpness. "
            "*: corrected p below 0.05.",
        )
    return figure


def _dot(axes_: Any, place: float, found: Correlation, colour: str, *, filled: bool) -> None:
    if found.value is None:
        return
    if found.interval is not None:
        axes_.plot([found.interval.low, found.interval.high], [place, place], color=colour, linewidth=0.9)
    face = colour if filled else "white"
    axes_.plot([found.value], [place], marker="o", color=colour, markerfacecolor=face, markersize=4.5)
