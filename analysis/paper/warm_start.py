"""The warm start as a table: large-batch training after k small-batch epochs, against either batch size alone.

Test metric and box sharpness for each switch epoch, paired inside replicates with the small batch alone (gap, ratio)
and with the large batch alone (gain). The figure is that of switch_point.py. In the paper (Keskar et al. 2017, figure
5) late switches are as good and as flat as the small batch, early ones as bad as the large.
"""

import pandas as pd

from analysis.charts.style import save
from analysis.charts.switch_point import switch_point
from analysis.cli.text_table import text_table
from analysis.data.load import Sweep, comparable, load_sweep
from analysis.paper.comparison import (
    Comparison,
    cells,
    compare,
    described,
    fields,
    header,
    missing_trials,
    points,
    small_and_large,
    wrapped,
    write_table,
)
from analysis.stats.means import Mean, paired_difference
from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath


def warm_starts(sweep: Sweep) -> list[tuple[Comparison, Mean | None]]:
    """The large batch alone, each switch epoch, the small batch alone, against the last; and the gain over the first.

    Raises UserError where one of the batches alone, or every switch, is missing.
    """
    frame, metric = comparable(sweep), sweep.metric
    small, large = small_and_large(frame, sweep)
    first, last = int(small["batch_size"].iloc[0]), int(large["batch_size"].iloc[0])
    switched = frame[(frame["batch_size"] == first) & (frame["switch_batch_size"] == last)]
    if switched.empty:
        raise UserError(
            f"`results` must hold completed trials that went from batch {first} to {last}, got none in {sweep.folder}"
        )
    kinds: list[tuple[str, pd.DataFrame]] = [("0 (large batch)", large)]
    kinds += [(f"{epoch:g}", rows) for epoch, rows in switched.groupby("switch_epoch")]
    kinds.append(("none (small batch)", small))
    return [
        (compare(name, rows, small, metric), None if rows is large else paired_difference(rows, large, metric.score))
        for name, rows in kinds
    ]


def report(folder: AnyPath) -> list[str]:
    """Writes figure and table; returns the lines of the answer."""
    sweep = load_sweep(folder)
    found, metric = warm_starts(sweep), sweep.metric
    save(switch_point(sweep), folder, "switch_point")
    write_table(folder, "warm_start", [*fields(metric), "gain"], [[*cells(row), gain] for row, gain in found])
    head = ["switch epoch", *header(metric)[2:], metric.difference_label("gain", short=True)]
    described_ones = ((*described(row), points(metric, gain)) for row, gain in found)
    texts = [[name, *others] for name, _, *others in described_ones]  # every batch size is that before the switch
    return [
        *text_table([head, *texts]),
        *wrapped(
            "Gap and ratio: against the small batch alone; gain: against the large batch alone. Paired; 95 % "
            "t-intervals over replicates. A trial that reached the target loss before its switch is left out, so "
            "late rows may rest on fewer. *: holds trials off target.",
            missing_trials(sweep),
        ),
        "",
        *wrapped(_started(sweep)),
    ]


def _started(sweep: Sweep) -> str:
    """How many of the trials with a switch started from the state that another left there."""
    switched = sweep.trials[sweep.trials["switch_epoch"].notna()]
    taken = int((switched["resumed_epoch"] == switched["switch_epoch"]).sum())
    return (
        f"{taken} of {len(switched)} trials with a switch started from a small-batch run's state, the others trained "
        "it anew."
    )
