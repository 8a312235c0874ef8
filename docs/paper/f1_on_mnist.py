"""The table and figure of F1 on all of MNIST against batch size, page 2, from the results kept in docs/paper/data."""

from collections.abc import Callable, Iterator

from kept import head, kept_sweep, line
from matplotlib.figure import Figure

from analysis.data.load import comparable
from analysis.paper.keskar_figure4 import by_batch_size, keskar_figure4
from analysis.reporting.summary import plus_minus
from analysis.stats.wording import three_digits

FOLDER = "f1_threshold"


def f1_table() -> Iterator[str]:
    sweep = kept_sweep(FOLDER)
    means, trials = by_batch_size(sweep), comparable(sweep)
    smallest = int(trials["batch_size"].min())
    columns = "box sharpness, strong [%] | by `paper` [%]"
    yield from head(f"batch size | seeds | steps | test accuracy [%] | gap to batch {smallest} [points] | {columns}")
    for size, level in means[sweep.metric.column].items():
        steps = int(trials.loc[trials["batch_size"] == size, "steps"].iloc[0])
        gap = "reference" if size == smallest else plus_minus(sweep.metric, means["large_batch_gap"][size])
        sharpness = [three_digits(means[name][size].value) for name in ("box_sharpness", "box_sharpness_paper")]
        yield line(size, level.replicates, steps, plus_minus(sweep.metric, level), gap, *sharpness)


PARTS: dict[str, dict[str, Callable[[], Iterator[str]]]] = {"2-threshold.md": {"f1": f1_table}}


def figures() -> Iterator[tuple[str, Figure]]:
    yield "f1_mnist_batch_sizes", keskar_figure4(kept_sweep(FOLDER))
