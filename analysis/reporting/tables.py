"""The tables of the page, as text: remedies, predictors, batch sizes, correlations, what was run, what went wrong.

Nothing is escaped here: the page puts every cell in as text.
"""

import shlex
from typing import Any

from analysis.data.batch_unit import BatchUnit
from analysis.data.load import Sweep, axes, comparable, measures_of
from analysis.questions.association import TARGETS, associate, granulated
from analysis.questions.averaging import averaging
from analysis.questions.free_batch import free_batch
from analysis.questions.leaderboard import Leaderboard, leaderboard, target_labels
from analysis.questions.remedies import Remedy, _tried, remedies
from analysis.reporting.gap_answer import BatchSizeRow, by_batch_size
from analysis.reporting.summary import completed, plus_minus, with_ends, with_interval
from analysis.stats.means import Interval
from analysis.stats.wording import correlation_text, fixed, in_words, plain_number, told_apart
from trainables.remedies import REMEDIES
from trainables.runtime.errors import UserError

FIRST_COLUMNS = ("batch_size", "remedy", "learning_rate", "warmup_epochs", "switch_epoch", "seed", "split_seed")


def batch_size_rows(sweep: Sweep) -> list[tuple[int, list[str]]]:
    """The batch size, and the cells of its row."""
    metric = sweep.metric
    return [
        (
            row.batch_size,
            [
                _counted(row, sweep.batch_unit),
                str(row.level.replicates if row.level else 0),
                plus_minus(metric, row.level),
                "reference" if row.is_reference else plus_minus(metric, row.gap),
                with_interval(row.box_sharpness),
                with_interval(row.max_eig),
            ],
        )
        for row in by_batch_size(sweep)
    ]


def correlation_rows(sweep: Sweep) -> list[list[str]]:
    """A row per target, measure and view; `off target too` only where there are such trials."""
    rows, names = [], target_labels(sweep)
    for target in TARGETS:
        for measure in measures_of(sweep):
            found = associate(sweep, measure, target)
            views = {"matched": found.matched}
            if found.matched_with_off_target.trials != found.matched.trials:
                views["matched, off target too"] = found.matched_with_off_target
            views["pooled"] = found.pooled
            if found.pooled_with_off_target.trials != found.pooled.trials:
                views["pooled, off target too"] = found.pooled_with_off_target
            words = told_apart(found.within_learning_rate)
            views |= {f"learning rate {words[rate]}": part for rate, part in found.within_learning_rate.items()}
            for view, part in views.items():
                counted = str(part.trials), str(part.replicates)
                rows.append([names[target], measure.label, view, correlation_text(part), *counted])
    return rows


def kendall_table(sweep: Sweep) -> dict[str, Any]:
    found = granulated(sweep)
    names = list(next(iter(found.values())).coefficients)
    rows = [
        [measure.label, *(_coefficient(part.coefficients[name]) for name in names), _coefficient(part.mean)]
        for measure, part in found.items()
    ]
    return {"axes": [in_words(name) for name in names], "rows": rows}


def run_facts(sweep: Sweep) -> dict[str, str]:
    """Where and when it ran: a line per fact, values that differ between trials side by side."""
    trials = sweep.trials
    facts = {"command": shlex.join(sweep.command) if sweep.command else "not recorded"}
    facts["started"] = sweep.started_at or "not recorded"
    finished = sorted(trials["finished_at"].dropna())
    facts["trials ended"] = f"{finished[0]} to {finished[-1]}" if finished else "not recorded"
    facts["training"] = _duration(trials["train_seconds"].sum())
    facts["resumed from a checkpoint"] = f"{trials['resumed_epoch'].notna().sum()} trials"
    facts["measuring sharpness"] = _duration(trials["sharpness_seconds"].sum())
    for name in ("device", "threads", "host", "python_version", "torch_version", "ray_version", "parameters"):
        values = sorted(set(trials[name].dropna().tolist()))
        facts[in_words(name)] = ", ".join(shown(value) for value in values) or "not recorded"
    return facts


def unfinished_trials(sweep: Sweep) -> list[tuple[str, list[str]]]:
    """Diverged and failed trials: the trial_id, and status, name and last line of the error."""
    rows, names = sweep.trials[sweep.trials["status"] != "completed"], _names(sweep)
    found = []
    for row in rows.to_dict("records"):
        error = row["error"] if isinstance(row["error"], str) else ""
        last = next((line.strip() for line in reversed(error.splitlines()) if line.strip()), "")
        if row["status"] == "diverged" and not last:
            epochs = f" after {row['epochs_done']:g} epochs" if row["epochs_done"] == row["epochs_done"] else ""
            last = f"the loss was no longer finite{epochs}"
        found.append((row["trial_id"], [row["status"], names[row["trial_id"]], last]))
    return found


def remedy_rows(sweep: Sweep) -> list[tuple[list[str], list[str]]]:
    """The cells of each remedy at each batch size, and its trial_ids; ratios as `1.02 times`."""
    frame, metric = comparable(sweep), sweep.metric
    found = remedies(sweep)
    trials = {
        (name, size): rows["trial_id"].tolist()
        for name, size, rows in (_tried(frame, found[0].reference) if found else ())
    }
    return [
        (
            [
                row.name,
                _counted(row, sweep.batch_unit),
                plus_minus(metric, row.gain),
                _p_value(row.corrected_p),
                with_ends(row.share),
                plus_minus(metric, row.remaining),
                *(f"{ratio.value:.3g} times" if ratio else "–" for ratio in
                  (row.seconds_ratio, row.steps_ratio, row.box_sharpness_ratio, row.max_eig_ratio)),
            ],
            trials[row.name, row.batch_size],
        )
        for row in found
    ]  # fmt: skip


def averaging_rows(sweep: Sweep) -> list[tuple[list[str], tuple[str, ...]]]:
    """The cells of each average at each batch size, and its trial_ids."""
    return [
        (
            [
                row.name,
                sweep.batch_unit.batch(row.batch_size),
                plus_minus(sweep.metric, row.gain),
                *map(with_interval, (row.train_loss_ratio, row.box_sharpness_ratio, row.max_eig_ratio)),
            ],
            row.trial_ids,
        )
        for row in averaging(sweep)
    ]


def standings(sweep: Sweep) -> Leaderboard | None:
    """The leaderboard for the large-batch gap; None where there is nothing to compare."""
    try:
        return leaderboard(sweep)
    except UserError:
        return None


def leaderboard_rows(board: Leaderboard) -> list[list[str]]:
    rows = []
    for row in board.standings:
        worst = row.sign_error.worst
        where = f" ({in_words(worst.axis)} {shown(worst.values[0])} / {shown(worst.values[1])})" if worst else ""
        rows.append(
            [
                row.name if row.is_measure else f"{row.name} (no sharpness)",
                correlation_text(row.matched),
                *map(correlation_text, (row.matched_tau, row.at_matched_loss, row.partial, row.psi)),
                f"{worst.sign_error:.2f}{_ends(worst.interval)}{where}" if worst else "–",
                _p_value(row.corrected_p),
                shown(row.seconds) if row.seconds is not None else "–",
            ]
        )
    return rows


def free_batch_rows(sweep: Sweep) -> list[tuple[int, list[str]]]:
    """The batch size, and the cells of its row, in both comparisons as far as the sweep has them."""
    rows, metric = [], sweep.metric
    for found in (free_batch(sweep, "matched"), free_batch(sweep, "tuned")):
        if found is None:
            continue
        name = "matched" if found.comparison == "matched" else f"tuned, by {found.chosen_by}"
        for row in found.rows:
            passed = {True: "yes", False: "not shown", None: "one replicate"}[row.free]
            if row.free is None and row.upper is not None:
                passed = "no margin"
            if row.diverged:
                passed = f"no: {row.diverged} of {row.attempted} diverged"
            most = "–" if row.upper is None else metric.number(row.upper).replace("-", "−")
            compared = completed(row.compared, row.attempted)
            rows.append(
                (
                    row.batch_size,
                    [
                        name,
                        sweep.batch_unit.batch(row.batch_size),
                        compared,
                        plus_minus(metric, row.lost),
                        most,
                        passed,
                    ],
                )
            )
    return rows


def _counted(row: BatchSizeRow | Remedy, unit: BatchUnit) -> str:
    """The batch size, with its tokens and what is missing or off target."""
    notes = [f"{row.trials} of {row.attempted} trials"] if row.trials < row.attempted else []
    notes += [f"{row.diverged} diverged"] if row.diverged else []
    notes += [f"{row.off_target} off target"] if row.off_target else []
    return unit.batch(row.batch_size, *notes)


def telling_axes(sweep: Sweep) -> list[str]:
    """The axes worth a column: no option of a switch without a choice, no split seed that is the seed, one remedy."""
    found = axes(sweep.trials)
    if sweep.trials["seed"].equals(sweep.trials["split_seed"]):
        found.pop("split_seed", None)
    one_choice = [name for name, values in found.items() if values[-1] is None and len(values) == 2]
    telling = [name for name in found if name not in REMEDIES and (name not in one_choice or name == "switch_epoch")]
    if sweep.trials["remedy"].nunique() > 1:
        telling.append("remedy")  # in words what its fields say
    return sorted(telling, key=lambda name: FIRST_COLUMNS.index(name) if name in FIRST_COLUMNS else -1)


def _names(sweep: Sweep) -> dict[str, str]:
    """What sets each trial apart, in words, by trial_id."""
    varying = telling_axes(sweep)
    return {
        row["trial_id"]: ", ".join(f"{in_words(name)} {shown(row[name])}" for name in varying) or "the only trial"
        for row in sweep.trials[["trial_id", *varying]].to_dict("records")
    }


def shown(value: Any, style: str | None = None) -> str:
    """A value of a table: null as none, whole numbers in full, others with three digits, text as it is."""
    if value is None or value != value:
        return "none"
    if style is None and isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    if isinstance(value, float):
        return style.format(value) if style else plain_number(value)
    return str(value)


def _p_value(value: float | None) -> str:
    return "–" if value is None else "below 0.001" if value < 0.001 else f"{value:.3f}"


def _ends(interval: Interval | None) -> str:
    return f" [{interval.low:.2f}, {interval.high:.2f}]" if interval else " (no interval)"


def _coefficient(value: float | None) -> str:
    return "–" if value is None else fixed(value, plus=True)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s, summed over trials"
    hours, minutes = divmod(round(seconds / 60), 60)
    return (f"{hours} h {minutes} min" if hours else f"{minutes} min") + ", summed over trials"
