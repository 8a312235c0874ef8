"""Every figure as a function of results; each returns a `matplotlib.figure.Figure`.

`figure.savefig("gap.pdf")` writes it. Each raises UserError where the results have no data for it. Figures of searches
take the folder, which also holds the tuning trials. `landscape` and `parametric` need weights (`keep_weights=True`) and
evaluate the network between and around the minima, which takes minutes the first time.
"""

from collections.abc import Callable, Iterable
from functools import wraps

from matplotlib.figure import Figure

from analysis.paper.evolution import evolution as along_the_run
from analysis.paper.keskar_figure4 import keskar_figure4 as threshold
from analysis.paper.optimization_issue import by_optimizer, optimizers_figure
from analysis.paper.paper_remedies import against_small, remedies_figure
from analysis.paper.resilience import resilience as variants
from analysis.paper.resilience import resilience_figure
from analysis.questions.branched_batch import branched_batch as branched
from analysis.questions.data_size import data_sizes
from analysis.questions.optimizer_ladder import load_ladder
from analysis.questions.scaling_rules import referee
from analysis.questions.tuned_cells import load_tuned_gap
from analysis.reporting.report import FIGURES
from large_batch_sweeps.arguments import number
from large_batch_sweeps.questions import steps_found
from large_batch_sweeps.results import SweepResults, folder_of, sweep_of, sweeps_of
from large_batch_sweeps.studies import times_found
from trainables.storage.folders import AnyPath


def _of_results(draw: Callable[..., Figure]) -> Callable[[SweepResults], Figure]:
    @wraps(draw)
    def figure(results: SweepResults) -> Figure:
        return draw(sweep_of(results))

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


def steps_to_result(results: SweepResults, *, metric: str | None = None, goal: float | None = None) -> Figure:
    """Steps and examples to a `goal` of `metric` by batch size."""
    from analysis.charts.steps_to_result import steps_to_result_figure

    return steps_to_result_figure(*steps_found(results, metric, number("goal", goal)))


def time_to_result(results: SweepResults, *, metric: str | None = None, goal: float | None = None) -> Figure:
    """Seconds to a `goal` of `metric` by batch size, and against examples."""
    from analysis.charts.time_to_result import time_to_result_figure

    of, found = times_found(results, metric, goal)
    return time_to_result_figure(found, of, unit=sweep_of(results).batch_unit)


def tuned_gap(folder: str | AnyPath) -> Figure:
    """The gap with each batch size tuned, of `python sweeps/tuned_gap.py`."""
    from analysis.charts.tuned_gap import tuned_gap_figure

    return tuned_gap_figure(load_tuned_gap(folder_of(folder)))


def optimizer_ladder(folder: str | AnyPath) -> Figure:
    """Steps by batch size for each optimizer, of `python sweeps/optimizer_ladder.py`."""
    from analysis.charts.optimizer_ladder import optimizer_ladder_figure

    return optimizer_ladder_figure(load_ladder(folder_of(folder)))


def scaling_rules(results: SweepResults) -> Figure:
    """What retuning gains over each rule, of `python sweeps/scaling_rules.py`."""
    from analysis.charts.scaling_rules import scaling_rules_figure

    return scaling_rules_figure(referee(sweep_of(results)))


def branched_batch(results: SweepResults, *, margin: float | None = None) -> Figure:
    """The local critical batch during training, of `python sweeps/branched_batch.py`."""
    from analysis.charts.branched_batch import branched_batch_figure

    return branched_batch_figure(branched(sweep_of(results), number("margin", margin)))


def data_size(results: SweepResults | Iterable[SweepResults], *, loss: float | None = None) -> Figure:
    """The critical batch size by the number of training examples, of one sweep or of several."""
    from analysis.charts.data_size import data_size_figure

    return data_size_figure(data_sizes(sweeps_of(results), number("loss", loss)))


def sharpness_intervention(results: SweepResults) -> Figure:
    """How much of the gap each measure mediates, of `python sweeps/sharpness_intervention.py`."""
    from analysis.charts.sharpness_intervention import intervention_figure

    return intervention_figure(sweep_of(results))


def keskar_figure4(results: SweepResults) -> Figure:
    """Test accuracy and box sharpness against the batch size (Keskar et al. 2017, figure 4)."""
    return threshold(sweep_of(results))


def evolution(results: SweepResults) -> Figure:
    """Sharpness and distance from the start against the training loss, of `python sweeps/evolution.py`."""
    return along_the_run(sweep_of(results))


def paper_remedies(results: SweepResults) -> Figure:
    """Gap and sharpness of each remedy at the largest batch, of `python sweeps/paper_remedies.py`."""
    return remedies_figure([row for row, _ in against_small(sweep_of(results))])


def optimization_issue(results: SweepResults) -> Figure:
    """Gap and sharpness of each optimizer and batch size, of `python sweeps/optimization_issue.py`."""
    return optimizers_figure(by_optimizer(sweep_of(results)))


def resilience(results: SweepResults) -> Figure:
    """Gap and sharpness of each network and optimizer, of `python sweeps/resilience.py`."""
    return resilience_figure(variants(sweep_of(results)))


def landscape(results: SweepResults, *, pair: tuple[str, str] | None = None) -> Figure:
    """The loss around a small-batch and a large-batch minimum, along random directions. `pair`: their trial IDs."""
    from analysis.charts.landscape import lines_figure
    from analysis.minima.landscape import landscape as evaluated

    return lines_figure(evaluated(sweep_of(results), pair=pair))


def parametric(results: SweepResults, *, pair: tuple[str, str] | None = None) -> Figure:
    """Loss and accuracy on the path from a small-batch to a large-batch minimum. `pair`: their trial IDs."""
    from analysis.charts.parametric_plot import parametric_figure
    from analysis.minima.parametric_plot import parametric_plot

    return parametric_figure(parametric_plot(sweep_of(results), pair=pair))


__all__ = [
    *FIGURES,
    "branched_batch",
    "data_size",
    "evolution",
    "keskar_figure4",
    "landscape",
    "optimization_issue",
    "optimizer_ladder",
    "paper_remedies",
    "parametric",
    "resilience",
    "scaling_rules",
    "sharpness_intervention",
    "steps_to_result",
    "time_to_result",
    "tuned_gap",
]
