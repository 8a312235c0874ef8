"""Low training loss, bad test accuracy: full-batch methods with line searches against small-batch training.

Every optimizer and batch size of a sweep is set against the optimizer that ran at the smallest batch, at that batch,
paired inside replicates. "Not an optimization issue" holds for a full-batch method that has reached the same training
loss and still tests significantly worse.
"""

import dataclasses
from collections.abc import Sequence

from matplotlib.figure import Figure

from analysis.charts.style import save
from analysis.cli.text_table import text_table
from analysis.data.load import Sweep, comparable, load_sweep
from analysis.paper.comparison import (
    Comparison,
    cells,
    compare,
    described,
    fields,
    gap_and_ratio,
    header,
    missing_trials,
    points,
    wrapped,
    write_table,
)
from analysis.reporting.summary import with_interval
from trainables.config import FULL_BATCH_OPTIMIZERS
from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath

NAMES = {"adam": "Adam", "sgd": "SGD", "adagrad": "Adagrad", "gradient_descent": "gradient descent", "lbfgs": "L-BFGS"}


def by_optimizer(sweep: Sweep) -> list[Comparison]:
    """A row for each optimizer and batch size, the reference first.

    Raises UserError where there is no full-batch method, or nothing at a smaller batch to set it against.
    """
    frame = comparable(sweep)
    frame = frame[frame["is_plain"]].assign(
        everything=0
    )  # rates differ between optimizers: replicates alone are matched
    full = frame["optimizer"].isin(FULL_BATCH_OPTIMIZERS)
    reference = frame[~full & (frame["batch_size"] == frame["batch_size"].min())]
    if reference.empty or not full.any():
        raise UserError(
            "`results` must hold completed trials of gradient_descent or lbfgs and others at a smaller batch, "
            f"got {', '.join(sorted(set(frame['optimizer']))) or 'none'} in {sweep.folder}"
        )
    kinds = sorted(
        frame.groupby(["optimizer", "batch_size"]), key=lambda kind: (kind[0][0] in FULL_BATCH_OPTIMIZERS, kind[0][1])
    )
    return [
        compare(NAMES[optimizer], rows, reference, sweep.metric, match="everything") for (optimizer, _), rows in kinds
    ]


def optimizers_figure(rows: Sequence[Comparison]) -> Figure:
    """Gap and sharpness ratio of each of the rows of `by_optimizer` against the first."""
    first, *others = rows
    named = [dataclasses.replace(row, name=f"{row.name}, batch {row.batch_size}") for row in others]
    return gap_and_ratio(named, _named(first))


def report(folder: AnyPath) -> list[str]:
    """Writes figure and table; returns the lines of the answer."""
    sweep = load_sweep(folder)
    first, *others = rows = by_optimizer(sweep)
    reference = _named(first)
    save(optimizers_figure(rows), folder, "optimization_issue")
    write_table(folder, "optimization_issue", fields(sweep.metric), [cells(row) for row in rows])
    table = [[*header(sweep.metric), "train loss"], *([*described(row), with_interval(row.train_loss)] for row in rows)]
    lines = [
        *text_table(table),
        *wrapped(
            f"Against {reference}, paired; 95 % t-intervals over replicates. *: holds trials off target.",
            missing_trials(sweep),
        ),
        "",
    ]
    full = [row for row in others if row.name in [NAMES[name] for name in FULL_BATCH_OPTIMIZERS]]
    return lines + wrapped(*(_sentence(row, reference) for row in full))


def _named(reference: Comparison) -> str:
    return f"{reference.name} at batch {reference.batch_size}"


def _sentence(row: Comparison, reference: str) -> str:
    reached = f"Full-batch {row.name} ends at the target in {row.trials - row.off_target} of {row.trials} trials"
    tested = {
        True: "tests significantly worse than",
        False: "tests significantly better than",
        None: f"does not significantly differ in test {row.metric.noun} from",
    }[row.worse]
    return f"{reached} and {tested} {reference} (gap {points(row.metric, row.gap)} {row.metric.difference_unit})."
