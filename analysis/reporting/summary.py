"""The answer of a sweep as plain text, wrapped to the terminal: printed when a sweep ends.

The table averages over everything but batch size (learning rate, warmup) inside a replicate, then over
replicates: primary metric and gap with the half-width of their 95 % t-interval, sharpness as geometric mean with
its interval. The gap is paired: each trial against the reference of its own replicate, learning rate and
warmup.
"""

import textwrap
from collections import Counter

from analysis.cli.text_table import text_table
from analysis.data.load import BOX_STRONG, MAX_EIG, REPLICATE, SWITCH, Sweep, axes, comparable
from analysis.data.metric import Metric
from analysis.questions.association import associate
from analysis.reporting.answer import answer, by_batch_size
from analysis.stats.means import Mean
from analysis.stats.rank_correlation import Correlation
from analysis.stats.wording import correlation_text, in_words, plain_number, three_digits, told_apart
from trainables.records.schemas import STATUSES

COLUMNS = 80  # of an output that is not a terminal
LEAST_COLUMNS = 40  # below which a terminal wraps the lines itself
WIDEST = 1e6  # the ratio of an interval's ends beyond which they are not printed
NO_LOOK = "Nothing is compared before the first look."
NARROW = 0.3  # of the value: two digits would hide on which side of 1 an end is


def summary_lines(sweep: Sweep, width: int = COLUMNS) -> list[str]:
    """The lines of the summary, of at most `width` columns but for what has no space to break at, such as a path."""
    width = max(width, LEAST_COLUMNS)
    lines = [line for text in (f"{sweep.name}: {counts_line(sweep)}", *sweep.notes) for line in _wrap(text, width)]
    lines.append("")
    if sweep.sequential is not None and not sweep.sequential.taken:
        return [*lines, *_wrap(NO_LOOK, width), "", *_places(sweep, width)]
    for sentence in answer(sweep):
        lines += textwrap.wrap(sentence, width)
    lines += ["", *_table(sweep, width), ""]
    lines += _correlations(sweep, width)
    flags = flag_counts(sweep)
    if flags:
        lines += ["", *_wrap("Flags: " + "; ".join(f"{flag} {count}" for flag, count in flags.items()), width)]
    return [*lines, "", *_places(sweep, width)]


def counts_line(sweep: Sweep) -> str:
    """How many trials ended, and how."""
    found = Counter(sweep.trials["status"])
    number, planned = len(sweep.trials), sweep.planned
    ended = f"{number} of {planned}" if planned is not None and planned >= number else f"{number}"
    return f"{ended} trials ended: " + ", ".join(f"{found[status]} {status}" for status in STATUSES)


def flag_counts(sweep: Sweep) -> dict[str, int]:
    """How many trials carry each flag, most frequent first; the statuses among them have their own count."""
    found = Counter(flag for flags in sweep.trials["flags"] if flags is not None for flag in flags)
    return {flag: count for flag, count in found.most_common() if flag not in STATUSES}


def plus_minus(metric: Metric, mean: Mean | None) -> str:
    """A value or difference of the metric with the half-width of its interval: `94.20 ± 0.68`."""
    if mean is None:
        return "–"
    half = f" ± {metric.number((mean.interval.high - mean.interval.low) / 2)}" if mean.interval else ""
    return f"{metric.number(mean.value)}{half}".replace("-", "−")


def with_ends(mean: Mean | None) -> str:
    """A fraction as percent with the ends of an interval that is not symmetric: `51 [12, 180]`."""
    if mean is None:
        return "–"
    ends = f" [{100 * mean.interval.low:.0f}, {100 * mean.interval.high:.0f}]" if mean.interval else ""
    return f"{100 * mean.value:.0f}{ends}".replace("-", "−")


def completed(trials: int, attempted: int) -> str:
    """`8`, or `4 of 8` where trials are missing."""
    return str(trials) if trials == attempted else f"{trials} of {attempted}"


def with_interval(mean: Mean | None) -> str:
    """A sharpness with its interval: `0.115 [0.082, 0.16]`; an interval too wide to tell anything is named so.

    The ends of a narrow interval have three digits: `1.04 [0.998, 1.08]`.
    """
    if mean is None:
        return "–"
    if mean.interval and mean.interval.low > 0 and mean.interval.high / WIDEST > mean.interval.low:
        return f"{three_digits(mean.value)} [over 6 decades]"
    if mean.interval is None:
        return three_digits(mean.value)
    is_narrow = mean.interval.high - mean.interval.low < NARROW * abs(mean.value)
    low, high = map(three_digits if is_narrow else _two_digits, (mean.interval.low, mean.interval.high))
    return f"{three_digits(mean.value)} [{low}, {high}]"


def _table(sweep: Sweep, width: int) -> list[str]:
    metric, batch = sweep.metric, sweep.batch_unit.batch
    unit = metric.label().removeprefix(f"test {metric.noun}").strip()
    rows: list[tuple[str, ...]] = [
        ("batch", "trials", f"test {metric.noun}", "large-batch", "box sharpness", "largest"),
        ("size", "", unit, metric.difference_label("gap", short=True), "strong 1e-3 [%]", "eigenvalue"),
    ]
    found = by_batch_size(sweep)
    for row in found:
        gap = "reference" if row.is_reference else plus_minus(metric, row.gap)
        counted = batch(row.batch_size), completed(row.trials, row.attempted)
        sharpness = with_interval(row.box_sharpness), with_interval(row.max_eig)
        rows.append((*counted, plus_minus(metric, row.level), gap, *sharpness))
    lines = text_table(rows, right=2, width=width)
    off_target = [
        f"{row.off_target} of {row.trials} at batch {batch(row.batch_size)}" for row in found if row.off_target
    ]
    note = _basis(sweep, [row.level for row in found])
    return [*lines, *_wrap(note + (f" Off target: {', '.join(off_target)}." if off_target else ""), width)]


def _basis(sweep: Sweep, means: list[Mean | None]) -> str:
    """What the table averages over, and how many replicates its intervals rest on."""
    frame = comparable(sweep)
    counts = sorted({mean.replicates for mean in means if mean is not None})
    over = [name for name in axes(frame[frame["is_plain"]]) if name not in (*REPLICATE, *SWITCH, "batch_size")]
    averaged = f", averaged over {', '.join(map(in_words, over))} first" if over else ""
    if not counts:
        return "No trial without a switch or a remedy has completed."
    if counts[-1] == 1:
        return f"Trials without a switch or a remedy; one replicate (seed, split_seed), so no intervals{averaged}."
    span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Trials without a switch or a remedy; 95 % t-intervals over {span} replicates (seed, split_seed){averaged}."


def _correlations(sweep: Sweep, width: int) -> list[str]:
    """The rank correlations of the gap with the measures of the table, as far as they have values."""
    names = {BOX_STRONG: "box sharpness", MAX_EIG: "largest eigenvalue"}
    found = [part for part in (associate(sweep, measure) for measure in names) if part.pooled_with_off_target.trials]
    if not found:
        text = "No rank correlation with the gap: neither box sharpness nor the largest eigenvalue has a value."
        return _wrap(text, width)
    shown: dict[str, list[Correlation]] = {"matched": [part.matched for part in found]}
    if any(part.matched_with_off_target.trials != part.matched.trials for part in found):
        shown["matched, off target too"] = [part.matched_with_off_target for part in found]
    shown["pooled"] = [part.pooled for part in found]
    if any(part.pooled_with_off_target.trials != part.pooled.trials for part in found):
        shown["pooled, off target too"] = [part.pooled_with_off_target for part in found]
    for rate, words in told_apart(found[0].within_learning_rate).items():
        shown[f"learning rate {words}"] = [part.within_learning_rate[rate] for part in found]
    rows = [["rank correlation with the gap", *(names[part.measure] for part in found)]]
    rows += [[name, *map(correlation_text, parts)] for name, parts in shown.items()]
    first = found[0]
    matched = first.matched if first.matched.replicates else first.matched_with_off_target
    pooled = first.pooled if first.pooled.replicates else first.pooled_with_off_target
    note = (
        f"Spearman inside each replicate; mean and 95 % t-interval over {matched.replicates} replicates. "
        f"Matched: {matched.trials} trials ranked among those that differ in batch size and switch alone. "
        "Pooled and per learning rate: without the reference trials, whose gap is 0 by construction "
        f"({pooled.trials} trials)."
    )
    return [*text_table(rows, width=width), *_wrap(note, width)]


def _places(sweep: Sweep, width: int) -> list[str]:
    """Where everything lies."""
    files = ("trials.parquet", "epochs.parquet", "measures.parquet", "figures", "report.html", "weights")
    found = [name for name in files if (sweep.folder / name).exists()]
    return [f"In {sweep.folder}:", *(f"  {line}" for line in textwrap.wrap(", ".join(found), width - 2))]


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False)


def _two_digits(value: float) -> str:
    """As three_digits, with two: 0.58, 5.0, 12."""
    return f"{value:#.2g}".removesuffix(".") if 1e-4 < abs(value) < 10 else plain_number(float(f"{value:.2g}"))
