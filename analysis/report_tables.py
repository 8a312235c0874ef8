"""The tables of report.html, as text: batch sizes, rank correlations, what was run, what went wrong, trials.

Nothing is escaped here: the template does that, for every cell.
"""

import shlex
from typing import Any

from analysis.answer import by_batch_size, correlation_text
from analysis.association import TARGETS, associate, granulated
from analysis.figures import plain_number
from analysis.load import Sweep, axes, measures_of
from analysis.summary import plus_minus, with_interval

TARGET_NAMES = {
    "large_batch_gap": "large-batch gap",
    "test_error": "test error",
    "generalization_gap": "generalization gap",
}
FIRST_COLUMNS = ("batch_size", "learning_rate", "warmup_epochs", "switch_epoch", "seed", "split_seed")


def batch_size_rows(sweep: Sweep) -> list[list[str]]:
    return [
        [
            str(row.batch_size),
            f"{row.trials} ({row.off_target} off target)" if row.off_target else str(row.trials),
            str(row.accuracy.replicates if row.accuracy else 0),
            plus_minus(row.accuracy),
            "reference" if row.is_reference else plus_minus(row.gap),
            with_interval(row.box_sharpness),
            with_interval(row.max_eig),
        ]
        for row in by_batch_size(sweep)
    ]


def correlation_rows(sweep: Sweep) -> list[list[str]]:
    """A row per target, measure and view; `off target too` only where there are such trials."""
    rows = []
    for target in TARGETS:
        for measure in measures_of(sweep):
            found = associate(sweep, measure, target)
            views = {"matched": found.matched}
            if found.matched_with_off_target.trials != found.matched.trials:
                views["matched, off target too"] = found.matched_with_off_target
            views["pooled"] = found.pooled
            if found.pooled_with_off_target.trials != found.pooled.trials:
                views["pooled, off target too"] = found.pooled_with_off_target
            views |= {f"learning rate {rate:g}": part for rate, part in found.within_learning_rate.items()}
            for view, part in views.items():
                counted = str(part.trials), str(part.groups)
                rows.append([TARGET_NAMES[target], measure.label, view, correlation_text(part), *counted])
    return rows


def kendall_table(sweep: Sweep) -> dict[str, Any]:
    found = granulated(sweep)
    names = list(next(iter(found.values())).coefficients)
    rows = [
        [measure.label, *(_coefficient(part.coefficients[name]) for name in names), _coefficient(part.mean)]
        for measure, part in found.items()
    ]
    return {"axes": names, "rows": rows}


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
        facts[name.replace("_", " ")] = ", ".join(shown(value) for value in values) or "not recorded"
    return facts


def flagged_rows(sweep: Sweep) -> list[list[str]]:
    rows = sweep.trials[sweep.trials["status"] == "completed"]
    reasons = [("" if flags is None else ", ".join(flags)) for flags in rows["flags"]]
    names = _names(sweep)
    return [[names[key], key, reason] for key, reason in zip(rows["trial_id"], reasons, strict=True) if reason]


def unfinished_trials(sweep: Sweep) -> list[dict[str, str]]:
    """Diverged and failed trials: which, why, and the whole error."""
    rows, names = sweep.trials[sweep.trials["status"] != "completed"], _names(sweep)
    found = []
    for row in rows.to_dict("records"):
        error = row["error"] if isinstance(row["error"], str) else ""
        last = next((line.strip() for line in reversed(error.splitlines()) if line.strip()), "")
        if row["status"] == "diverged" and not last:
            epochs = f" after {row['epochs_done']:g} epochs" if row["epochs_done"] == row["epochs_done"] else ""
            last = f"the loss was no longer finite{epochs}"
        found.append(
            {
                "name": names[row["trial_id"]],
                "id": row["trial_id"],
                "status": row["status"],
                "why": last,
                "error": error,
            }
        )
    return found


def trial_table(sweep: Sweep) -> dict[str, Any]:
    """The table of all trials: what varies, what came out."""
    varying = _telling_axes(sweep)
    scales = {"test_accuracy": 100.0, "large_batch_gap": 100.0}
    results = ("test_accuracy", "large_batch_gap", "box_sharpness", "hessian_max_eig", "epochs_done")
    rows = sweep.trials.sort_values([*varying, "trial_id"], na_position="first").to_dict("records")
    cells = [
        [
            *(shown(row[name]) for name in varying),
            row["status"],
            *(shown(scales[name] * row[name], "{:.2f}") if name in scales else shown(row[name]) for name in results),
            "" if row["flags"] is None else ", ".join(flag for flag in row["flags"] if flag != row["status"]),
            row["trial_id"],
        ]
        for row in rows
    ]
    head = [
        "test accuracy [%]",
        "large-batch gap [% points]",
        "box sharpness [%]",
        "largest eigenvalue",
        "epochs",
    ]
    return {"head": [*varying, "status", *head, "flags", "trial"], "rows": cells}


def _telling_axes(sweep: Sweep) -> list[str]:
    """The axes worth a column: no option of a switch without a choice, no split seed that is the seed."""
    found = axes(sweep.trials)
    if sweep.trials["seed"].equals(sweep.trials["split_seed"]):
        found.pop("split_seed", None)
    one_choice = [name for name, values in found.items() if values[-1] is None and len(values) == 2]
    telling = [name for name in found if name not in one_choice or name == "switch_epoch"]
    return sorted(telling, key=lambda name: FIRST_COLUMNS.index(name) if name in FIRST_COLUMNS else -1)


def _names(sweep: Sweep) -> dict[str, str]:
    """What sets each trial apart, in words, by trial_id."""
    varying = _telling_axes(sweep)
    return {
        row["trial_id"]: ", ".join(f"{name} {shown(row[name])}" for name in varying) or "the only trial"
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


def _coefficient(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s, summed over trials"
    hours, minutes = divmod(round(seconds / 60), 60)
    return (f"{hours} h {minutes} min" if hours else f"{minutes} min") + ", summed over trials"
