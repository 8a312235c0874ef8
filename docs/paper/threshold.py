"""The tables and figures of page 2, from the results kept in docs/paper/data: small digits, and F1 on all of MNIST."""

from collections.abc import Callable, Iterator

from kept import head, kept_sweep, line
from matplotlib.figure import Figure

from analysis.data.load import Sweep, comparable
from analysis.paper.keskar_figure4 import by_batch_size, keskar_figure4
from analysis.reporting.summary import plus_minus
from analysis.stats.means import Mean
from analysis.stats.wording import three_digits

DIGITS, F1 = "digits_threshold", "f1_threshold"


def digits_table() -> Iterator[str]:
    sweep = kept_sweep(DIGITS)
    yield from head(f"batch size | {_columns(sweep)}")
    for size, _, cells in _rows(sweep):
        yield line(size, *cells)


def f1_table() -> Iterator[str]:
    sweep = kept_sweep(F1)
    steps = comparable(sweep).groupby("batch_size")["steps"].first()
    yield from head(f"batch size | seeds | steps | {_columns(sweep)}")
    for size, level, cells in _rows(sweep):
        yield line(size, level.replicates, steps[size], *cells)


def _columns(sweep: Sweep) -> str:
    smallest = comparable(sweep)["batch_size"].min()
    return f"test accuracy [%] | gap to batch {smallest} [points] | box sharpness, strong [%] | by `paper` [%]"


def _rows(sweep: Sweep) -> Iterator[tuple[int, Mean, list[str]]]:
    """Each batch size, its accuracy, and the cells under `_columns`."""
    means = by_batch_size(sweep)
    levels = means[sweep.metric.column]
    for size, level in levels.items():
        gap = "reference" if size == min(levels) else plus_minus(sweep.metric, means["large_batch_gap"][size])
        sharpness = [three_digits(means[name][size].value) for name in ("box_sharpness", "box_sharpness_paper")]
        yield size, level, [plus_minus(sweep.metric, level), gap, *sharpness]


PARTS: dict[str, dict[str, Callable[[], Iterator[str]]]] = {
    "2-threshold.md": {"threshold": digits_table, "f1": f1_table},
}


def figures() -> Iterator[tuple[str, Figure]]:
    """The figures of this page, by their names in docs/figures."""
    yield "keskar_figure4", keskar_figure4(kept_sweep(DIGITS))
    yield "f1_mnist_batch_sizes", keskar_figure4(kept_sweep(F1))
