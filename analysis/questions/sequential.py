"""The verdicts of a sequential sweep: each batch size free, not free, or undecided so far.

    free        the repeated confidence interval of its loss ends below the margin
    not free    it begins above the margin, or a trial diverged where the smallest batch completed

The smallest batch is the reference. Either claim about one batch size is wrong with a probability of at most 2.5 %,
over all looks together. The claims "free up to" and "not free from" hold for all batch sizes at once, because they
follow a fixed order (upwards and downwards) and end at the first that fails (Maurer, Hothorn and Lehmacher 1995).

Trap: a sweep that ends early ends more often when the loss looks extreme, so the mean loss of a batch size that was
decided early is somewhat exaggerated. The interval holds nevertheless.
"""

from typing import Literal

from analysis.data.load import Sweep, attempted
from analysis.questions.free_batch import Loss, free_batch

Verdict = Literal["free", "not free", "undecided"]


def verdicts(sweep: Sweep) -> dict[int, Verdict]:
    """The verdict on each batch size above the smallest, in rising order, by what its look has seen; empty before."""
    tried = attempted(sweep)
    sizes = sorted(int(size) for size in tried.loc[tried["is_plain"], "batch_size"].unique())[1:]
    found = free_batch(sweep, "matched")
    rows = {row.batch_size: row for row in found.rows} if found else {}
    return {size: _verdict(rows.get(size), sweep.metric.margin) for size in sizes}


def verdicts_sentence(sweep: Sweep) -> str:
    """Such as `After look 3 of 5 (8 replicates): batch 32, 64 free; batch 300 not free.`; empty if not sequential."""
    design = sweep.sequential
    if design is None or not design.taken:
        return ""
    said: dict[Verdict, list[str]] = {"free": [], "not free": [], "undecided": []}
    for size, verdict in verdicts(sweep).items():
        said[verdict].append(str(size))
    told = "; ".join(f"batch {', '.join(sizes)} {verdict}" for verdict, sizes in said.items() if sizes)
    return f"{design.standing}: {told}."


def _verdict(row: Loss | None, margin: float | None) -> Verdict:
    if row is None:
        return "undecided"
    if row.diverged:
        return "not free"
    if row.free:
        return "free"
    low = row.lost.interval.low if row.lost is not None and row.lost.interval is not None else None
    return "not free" if low is not None and margin is not None and low > margin else "undecided"
