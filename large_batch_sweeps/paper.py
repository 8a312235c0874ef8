"""The exhibits of Keskar et al. 2017, each as a DataFrame with 95 % intervals; `lbs.figures` draws them.

Each takes the results of its study: of `python sweeps/threshold_batch.py` (`keskar_figure4`), else of the script of the
same name. It raises UserError where the results are of something else. Accuracies are fractions, but for
`keskar_tables`, and sharpness is in percent. docs/paper/README.md.
"""

from collections.abc import Iterable

import pandas as pd

from analysis.paper import evolution as along_the_run
from analysis.paper import keskar_figure4 as threshold
from analysis.paper import keskar_tables as tables
from analysis.paper import optimization_issue as optimizers
from analysis.paper import paper_remedies as bought_back
from analysis.paper import resilience as variants
from analysis.paper import warm_start as switches
from analysis.paper.comparison import Comparison
from large_batch_sweeps.frames import row_of, with_interval
from large_batch_sweeps.results import SweepResults, sweep_of


def keskar_tables(results: SweepResults) -> pd.DataFrame:
    """Accuracies and sharpness of the small and the large batch (SB, LB) of each network, in percent, beside the
    paper's."""
    return tables.keskar_tables(sweep_of(results))


def keskar_figure4(results: SweepResults) -> pd.DataFrame:
    """Test metric, gap and box sharpness at each batch size: a row for each `quantity`."""
    return pd.DataFrame(
        {"quantity": name, "batch_size": size, **with_interval("mean", mean)}
        for name, of in threshold.by_batch_size(sweep_of(results)).items()
        for size, mean in of.items()
    )


def warm_start(results: SweepResults) -> pd.DataFrame:
    """Each switch epoch, and both batches alone: `gap` and `ratio` against the small one, `gain` over the large one."""
    return pd.DataFrame(
        {**_row(row), **with_interval("gain", gain)} for row, gain in switches.warm_starts(sweep_of(results))
    )


def evolution(results: SweepResults) -> pd.DataFrame:
    """Box sharpness of both batches, and the ratio of large to small, where they are at the same training loss."""
    return pd.DataFrame(
        {
            "train_loss": loss,
            **with_interval("small", small),
            **with_interval("large", large),
            **with_interval("ratio", ratio),
        }
        for loss, small, large, ratio in along_the_run.at_shared_losses(sweep_of(results)).rows
    )


def paper_remedies(results: SweepResults) -> pd.DataFrame:
    """Plain training and each remedy at the largest batch: `gap` to the smallest batch, `gain` over plain training."""
    return pd.DataFrame(
        {**_row(row), **with_interval("gain", None if remedy is None else remedy.gain)}
        for row, remedy in bought_back.against_small(sweep_of(results))
    )


def optimization_issue(results: SweepResults) -> pd.DataFrame:
    """Each optimizer and batch size, against the optimizer at the smallest batch."""
    return _compared(optimizers.by_optimizer(sweep_of(results)))


def resilience(results: SweepResults) -> pd.DataFrame:
    """The largest against the smallest batch, for each network and optimizer."""
    return _compared(variants.resilience(sweep_of(results)))


def _compared(rows: Iterable[Comparison]) -> pd.DataFrame:
    return pd.DataFrame(_row(row) for row in rows)


def _row(row: Comparison) -> dict[str, object]:
    """`worse` and `sharper`: than the reference, null where the interval leaves it open."""
    return {**row_of(row), "worse": row.worse, "sharper": row.sharper}


__all__ = [
    "evolution",
    "keskar_figure4",
    "keskar_tables",
    "optimization_issue",
    "paper_remedies",
    "resilience",
    "warm_start",
]
