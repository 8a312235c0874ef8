"""`--plan`: how many replicates each batch size needs by a pilot, and how long they take on this machine."""

import argparse
import math
import os
from collections.abc import Collection

from analysis.cli.text_table import text_table
from analysis.data.batch_unit import BatchUnit
from analysis.data.load import load_sweep
from analysis.data.metric import DEFAULT_MARGINS, Metric
from analysis.questions.replicates_needed import FreeUpTo, Needed, Plan, free_up_to, replicates_needed
from analysis.stats.power import ASSURANCE, MOST_REPLICATES
from sweeps.cli.planning_options import POWER
from sweeps.monitoring.consoles import consoles
from sweeps.session.gpu_share import gpu_share
from trainables.runtime.errors import UserError
from trainables.runtime.text import duration
from trainables.storage.folders import is_there
from trainables.tune.ray_compat import gpus_here
from trainables.units import ROUNDING


def run_plan(options: argparse.Namespace) -> int:
    """Prints the plan; returns the exit status. Raises UserError where there is no pilot, or none that says enough."""
    folder = options.pilot or options.results / options.name
    if not is_there(folder):
        raise UserError(f"there is no pilot in {folder}; run one, such as `batch_grid.py --name pilot --seeds 0 1 2 3`")
    sweep = load_sweep(folder, margin=options.margin)
    found = replicates_needed(sweep, options.power or POWER, len(options.seeds))
    at_once = trials_at_once(
        *(len(os.sched_getaffinity(0)), gpus_here() or 0),
        cpus_per_trial=options.cpus_per_trial,
        gpus_per_trial=options.gpus_per_trial,
        workers_per_trial=options.workers_per_trial,
    )
    _, console = consoles(plain=options.plain, quiet=options.quiet)
    for line in plan_lines(found, sweep.metric, sweep.batch_unit, str(folder), at_once):
        console.print(line, soft_wrap=True)
    return 0


def trials_at_once(
    cpus: int, gpus: int, *, cpus_per_trial: float, gpus_per_trial: float | None, workers_per_trial: int
) -> int:
    """How many trials run side by side on a machine with so many CPUs and GPUs, at least one; see Placement."""
    needed = gpu_share(gpus_per_trial, gpus)
    workers = math.floor(cpus / cpus_per_trial + ROUNDING)
    if needed:
        on_one = 1 / needed if needed < 1 else 1.0  # GPU; several workers may share it
        workers = min(workers, math.floor(gpus / max(1.0, needed) + ROUNDING) * math.floor(on_one + ROUNDING))
    return max(1, workers // workers_per_trial)


def plan_lines(found: Plan, metric: Metric, unit: BatchUnit, folder: str, at_once: int) -> list[str]:
    """The plan in words and a table; `at_once`: how many trials run side by side."""
    counts = sorted({row.lost.replicates for row in found.rows})
    counted = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    lines = [
        f"Pilot: {folder}, {counted} replicates. Margin {metric.factor * found.margin:g} "
        f"{metric.difference_unit}, power {100 * found.power:g} %, one-sided 2.5 %.",
        "",
    ]
    table = [
        ("batch", "loss in the pilot", "SD, upper limit", "if it loses nothing", "as observed", "time, if nothing")
    ]
    for row in found.rows:
        count = row.if_nothing.safe
        time = "–" if count is None else _time(found.seconds({row.batch_size: count}), at_once)
        table.append(
            (
                unit.batch(row.batch_size),
                _loss(metric, row.lost.value, row.lost.interval),
                f"{metric.number(row.deviation)}, {metric.number(row.safe_deviation)}",
                _counts(row.if_nothing),
                _counts(row.as_observed),
                time,
            )
        )
    lines += text_table(table, right=6)
    lines += [
        "",
        f"Replicates: with the pilot's standard deviation / with its upper limit ({100 * ASSURANCE:.0f} %), which is "
        "the safe number. Time: for the safe number, with the replicates of the smallest batch, "
        f"{at_once} trial{'s' * (at_once != 1)} at once. The observed loss is uncertain.",
    ]
    for size, (diverged, tried) in found.diverged.items():
        lines.append(
            f"Batch {unit.batch(size)}: {diverged} of {tried} trials of the pilot diverged where the smallest batch "
            "completed. No number of replicates shows such a batch size to be free."
        )
    lines += [
        f"Batch {unit.batch(size)} is left out: it {why} in the pilot, so its standard deviation is unknown."
        for size, why in found.without_spread.items()
    ]
    needed = {row.batch_size: row.if_nothing.safe for row in found.rows if row.if_nothing.safe is not None}
    if needed:
        most = max(needed.values())
        seconds = found.seconds(dict.fromkeys(needed, most))
        about = "" if seconds is None else f", about {_time(seconds, at_once)}"
        lines.append(
            f"To test {_which(needed, found, unit)}: {most} replicates{about}. Take fresh "
            "--seeds and another --name, because the pilot's results have been seen."
        )
    if (claim := free_up_to(found)) is not None:
        lines.append(_power_of_all(claim, found.power, unit))
    caps = {row.batch_size: row.if_nothing.safe_cap for row in found.rows if row.if_nothing.safe_cap is not None}
    if caps:
        is_default = found.margin == DEFAULT_MARGINS.get(metric.unit)
        same = "" if is_default else f" --margin {metric.factor * found.margin:g}"
        lines.append(
            f"Or, for {_which(caps, found, unit)}, let the sweep end as soon as it can: --until-decided "
            f"--max-replicates {max(caps.values())}{same} (docs/planning.md)."
        )
    return lines


def _which(planned: Collection[int], found: Plan, unit: BatchUnit) -> str:
    """The `planned` of the batch sizes in words; the others need more replicates than a plan has."""
    return "all of them" if len(planned) == len(found.rows) else f"batch {', '.join(map(unit.batch, planned))}"


def _power_of_all(claim: FreeUpTo, wanted: float, unit: BatchUnit) -> str:
    *smaller, largest = claim.batch_sizes
    least = math.floor(100 * claim.power + ROUNDING)
    more = ""
    if claim.power < wanted:
        count = f"over {MOST_REPLICATES}" if claim.needed is None else f"{claim.needed}"
        more = f"; {100 * wanted:g} % needs {count} replicates"
    return (
        f'The power is for each batch size on its own. "Free up to batch {unit.batch(largest)}" also needs batch '
        f"{', '.join(map(unit.batch, smaller))} to be free: with {claim.replicates} replicates its power is at least "
        f"{least} % (Bonferroni){more}."
    )


def _time(seconds: float | None, at_once: int) -> str:
    return "unknown" if seconds is None else duration(seconds / at_once)


def _counts(needed: Needed) -> str:
    return " / ".join(f"over {MOST_REPLICATES}" if n is None else str(n) for n in (needed.plug_in, needed.safe))


def _loss(metric: Metric, value: float, interval: object) -> str:
    low, high = getattr(interval, "low", None), getattr(interval, "high", None)
    ends = "" if low is None or high is None else f" ({metric.number(low)} to {metric.number(high)})"
    return f"{metric.number(value)}{ends}".replace("-", "−")
