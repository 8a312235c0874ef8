"""The paper's remedies on the large batch: how much of the gap they win back, and whether the minimum is flat.

Each remedy at the largest batch, and plain training there, against plain training at the smallest batch (gap, sharpness
ratio) and against plain training at the largest (gain), paired inside replicates. The p-values of the gains are Holm's
(analysis/remedies.py). The paper (Keskar et al. 2017) found that its remedies gave accuracy back and that none made the
minima flat.
"""

from collections.abc import Sequence

from matplotlib.figure import Figure

from analysis.charts.style import save
from analysis.cli.text_table import text_table
from analysis.data.load import NO_REMEDY, Sweep, comparable, load_sweep
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
    small_and_large,
    wrapped,
    write_table,
)
from analysis.questions.remedies import Remedy, remedies
from analysis.reporting.summary import with_interval
from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath

PLAIN = "plain"


def against_small(sweep: Sweep) -> list[tuple[Comparison, Remedy | None]]:
    """Plain training at the largest batch, then each remedy there by its gain, each against the smallest batch.

    Raises UserError where one of the three is missing.
    """
    frame = comparable(sweep)
    frame = frame[~frame["is_switched"]]
    small, large = small_and_large(frame, sweep)
    size = int(large["batch_size"].iloc[0])
    found: list[tuple[Comparison, Remedy | None]] = [(compare(PLAIN, large, small, sweep.metric), None)]
    for remedy in remedies(sweep):
        rows = frame[(frame["remedy"] == remedy.name) & (frame["batch_size"] == size)]
        if remedy.batch_size == size and len(rows):
            found.append((compare(remedy.name, rows, small, sweep.metric, match="remedy_set"), remedy))
    if len(found) == 1:
        raise UserError(
            f"`results` must hold completed trials with a remedy at batch {size}, got {NO_REMEDY} in {sweep.folder}"
        )
    return found


def remedies_figure(rows: Sequence[Comparison]) -> Figure:
    """Gap and sharpness ratio of plain training at the largest batch and of each remedy there."""
    return gap_and_ratio(rows, "plain training at the smallest batch")


def report(folder: AnyPath) -> list[str]:
    """Writes figure and table; returns the lines of the answer."""
    sweep = load_sweep(folder)
    found = against_small(sweep)
    rows, metric = [row for row, _ in found], sweep.metric
    save(remedies_figure(rows), folder, "paper_remedies")
    gains = [None if remedy is None else remedy.gain for _, remedy in found]
    flatter = [None if remedy is None else remedy.box_sharpness_ratio for _, remedy in found]
    written = [[*cells(row), gain, ratio] for row, gain, ratio in zip(rows, gains, flatter, strict=True)]
    write_table(folder, "paper_remedies", [*fields(metric), "gain", "ratio_to_plain"], written)
    texts = [
        [*described(row), points(metric, gain), with_interval(ratio)]
        for row, gain, ratio in zip(rows, gains, flatter, strict=True)
    ]
    return [
        *text_table([[*header(metric), metric.difference_label("gain", short=True), "ratio to plain"], *texts]),
        *wrapped(
            "Gap and ratio: against plain training at the smallest batch; gain and ratio to plain: against plain "
            f"training at batch {rows[0].batch_size}. Paired; 95 % t-intervals over replicates. "
            "*: holds trials off target.",
            missing_trials(sweep),
        ),
        "",
        *wrapped(*(_sentence(row, remedy) for row, remedy in found if remedy is not None)),
    ]


def _sentence(row: Comparison, remedy: Remedy) -> str:
    loses = remedy.corrected_p is not None and remedy.corrected_p < 0.05 and remedy.gain.value < 0
    metric = row.metric
    changes = "improves" if remedy.helps else "worsens" if loses else "does not significantly change"
    gain = f"{points(metric, remedy.gain)} {metric.unit}".strip()
    certainty = "" if remedy.corrected_p is None else f", p = {remedy.corrected_p:.2g} after correction"
    sharpness = (
        "sharpness was not measured"
        if row.ratio is None
        else {
            True: "its minima stay sharper than the small batch's",
            False: "its minima are flatter than the small batch's",
            None: "its minima do not significantly differ from the small batch's in sharpness",
        }[row.sharper]
    )
    caveat = (
        f"; {row.off_target} of {row.trials} trials off target, so not at equal training loss" if row.off_target else ""
    )
    return f"{row.name} {changes} test {metric.noun} ({gain}{certainty}); {sharpness}{caveat}."
