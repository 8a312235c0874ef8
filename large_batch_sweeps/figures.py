"""Every figure of a sweep as a function of its results; each returns a `matplotlib.figure.Figure`.

`figure.savefig("gap.pdf")` writes it. Each raises UserError where the sweep has no data for it.
"""

from collections.abc import Callable
from functools import wraps

from matplotlib.figure import Figure

from analysis.reporting.report import FIGURES
from large_batch_sweeps.results import SweepResults


def _of_results(draw: Callable[..., Figure]) -> Callable[[SweepResults], Figure]:
    @wraps(draw)
    def figure(results: SweepResults) -> Figure:
        return draw(results.sweep)

    return figure


gap_vs_sharpness = _of_results(FIGURES["gap_vs_sharpness"])
batch_size_curves = _of_results(FIGURES["batch_size_curves"])
switch_point = _of_results(FIGURES["switch_point"])
learning_rate_heatmap = _of_results(FIGURES["learning_rate_heatmap"])
warmup_heatmap = _of_results(FIGURES["warmup_heatmap"])
free_batch = _of_results(FIGURES["free_batch"])
threshold_batch = _of_results(FIGURES["threshold_batch"])
critical_batch = _of_results(FIGURES["critical_batch"])
remedies = _of_results(FIGURES["remedies"])
leaderboard = _of_results(FIGURES["leaderboard"])

__all__ = [*FIGURES]
