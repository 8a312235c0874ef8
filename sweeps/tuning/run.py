"""From the options of a search to its tables and answer; tuned_gap.py, and what steps_to_result.py shares with it.

Beside the tables of every sweep the results folder holds

    optuna.db        the studies, unless `--storage` says otherwise
    tuning.parquet   a row per tuning trial, also of those stopped early, which have no row in trials.parquet
    tuning.json      what was tuned how, and which trials are the retrained ones
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from analysis.data.progress import read_about
from analysis.reporting.tuned_gap import tuned_gap_lines
from analysis.stats.wording import counted
from sweeps.execution.launch import exclusive_results_folder
from sweeps.execution.preflight import check
from sweeps.execution.worker_deaths import write_failures
from sweeps.monitoring.consoles import consoles
from sweeps.plan.units import warmup_range_of
from sweeps.session.placement import Placement
from sweeps.session.ray_session import refuse_missing_gpus
from sweeps.studies.study import grid_of, note_run, placement_of, say_failures, source_of, warn, without_answer
from sweeps.tuning.campaign import Campaign, Known, Plan, with_test_set
from sweeps.tuning.optuna_study import LOSS, Budget, Rules, TuningStudy, hidden, open_storage
from sweeps.tuning.search_space import STARTUP_POINTS, Space
from sweeps.tuning.under_tune import TuningProgress, curve_of, outcome_of, run_campaign
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.optimizer_settings import MOMENTS
from trainables.records.tables import Row, compact, read_tables
from trainables.runtime.errors import LONGEST_REASON, LostError, UserError, one_line
from trainables.runtime.text import duration
from trainables.storage.folders import AnyPath, write_atomically
from trainables.storage.remote_path import RemotePath
from trainables.tasks.names import TASKS

TUNING = pa.schema(
    [
        ("batch_size", pa.int64()),
        ("remedy", pa.string()),
        ("number", pa.int64()),  # in its study, from 0
        ("trial_id", pa.string()),
        ("status", pa.string()),  # completed, diverged, stopped (early), failed
        ("learning_rate", pa.float64()),
        ("warmup_epochs", pa.float64()),
        ("weight_decay", pa.float64()),
        ("validation_loss", pa.float64()),
        ("validation_accuracy", pa.float64()),  # null where the objective is another metric
        ("validation_metric", pa.float64()),  # the primary metric of the task
        ("epochs_done", pa.float64()),
        ("steps", pa.int64()),
        ("train_seconds", pa.float64()),
    ]
)
STEPS_TO_GOALS = pa.field("steps_to_goals", pa.list_(pa.float64()))  # in the order of the goals; null: not reached
OF_LADDER = pa.field("optimizer", pa.string())  # the rung, of sweeps/optimizer_ladder.py
PlanOf = Callable[[argparse.Namespace, Source], Plan]


def run_tuned_gap(options: argparse.Namespace) -> int:
    """Runs what `sweeps.cli.tuning_options.parse` has read, as `run_search`."""
    return run_search(options, plan_of, Campaign, tuned_gap_lines)


def run_search(
    options: argparse.Namespace, plan_of: PlanOf, kind: type[Campaign], answer: Callable[[Path], Iterable[str]]
) -> int:
    """Runs the campaign of `plan_of`, then prints the `answer` of its folder; returns the exit status.

    Raises UserError for what cannot run, and LostError where Optuna's storage stays away, such as a SQLite file that
    somebody else locks.
    """
    try:
        return _run(options, plan_of, kind, answer)
    except optuna.exceptions.StorageInternalError as error:
        reason = one_line(error.__cause__ or error)[:LONGEST_REASON]
        raise LostError(
            f"Optuna's storage cannot be used ({hidden(reason)}); every finished trial is kept, --resume continues"
        ) from error


def _run(
    options: argparse.Namespace, plan_of: PlanOf, kind: type[Campaign], answer: Callable[[Path], Iterable[str]]
) -> int:
    plan = plan_of(options, with_test_set(source_of(options, options.dataset), options.test_size))
    source = plan.source
    placement = placement_of(options, source)
    folder = (options.results / options.name).expanduser().absolute()
    if isinstance(folder, RemotePath) and not options.storage:
        raise UserError(f"`--storage URL` is needed because the results are not on a file system ({folder})")
    talk, console = consoles(plain=options.plain, quiet=options.quiet)
    if options.dry_run:
        warn(check(plan.samples(), source, placement))
        _dry_run(console, plan, folder, placement)
        return 0
    refuse_missing_gpus(placement)
    started = time.monotonic()
    storage = options.storage or f"sqlite:///{folder / 'optuna.db'}"
    opened = open_storage(options.storage) if options.storage else None  # a mistake leaves no folder behind
    with exclusive_results_folder(folder, resume=options.resume):
        talk.print(f"Checking {len(plan.cells)} kinds of trials.")
        warn(check(plan.samples(), source, placement))
        opened = opened or open_storage(storage)
        campaign = begin(plan, opened, options.name, known_trials(folder, plan), options.resume, kind)
        records = campaign.records()
        note_run(folder, sum(records.values()), [hidden(word) for word in sys.argv[1:]], records)
        done = campaign.planned() - sum(campaign.missing().values())
        talk.print(
            f"{len(plan.cells)} Optuna studies and the retraining, {campaign.planned()} trials"
            + (f", {done} of them done already" if done else "")
            + f" -> {folder}",
            soft_wrap=True,
        )
        talk.print(f"Watch the studies: optuna-dashboard {hidden(storage)}", soft_wrap=True)
        progress = TuningProgress(campaign, done, talk)
        interrupted = run_campaign(campaign, folder, placement, progress)
        if not interrupted:
            write_failures(folder, campaign.failed.values(), progress)
        compact(folder)
        write_tuning(folder, campaign)
        records = campaign.records()
        about = read_about(folder) | {"planned": sum(records.values()), "batch_sizes": records}
        write_atomically(folder / "sweep.json", json.dumps(about).encode())  # now that early stopping has had its say
        if interrupted:
            left = sum(campaign.missing().values())
            console.print(f"Interrupted: {campaign.planned() - left} trials are kept; --resume continues.")
            return 130
        console.print()
        try:
            for line in answer(folder):
                console.print(line, soft_wrap=True)
        except UserError as error:
            return without_answer(error, _exit_status(folder, campaign))
        talk.print(f"{duration(time.monotonic() - started)} in all.", soft_wrap=True)
        return _exit_status(folder, campaign)


def plan_of(options: argparse.Namespace, source: Source) -> Plan:
    """The plan of the options, on a source that has a test set."""
    grid = grid_of(options, source)
    objective, maximize = objective_of(options.objective, source.task)
    train_size, test_size = source.sizes(options.train_size, options.test_size, options.validation_size)
    warmup, has_warmup_in_steps = warmup_range_of(options.warmup_epochs_range, source, train_size)
    space = Space(
        learning_rate=tuple(options.learning_rate_range),
        warmup_epochs=warmup,
        weight_decay=tuple(options.weight_decay_range),
        **{name: tuple(given) for name in MOMENTS if (given := getattr(options, f"{name}_range")) is not None},
    )
    return Plan(
        grid=dataclasses.replace(grid, train_size=train_size, test_size=test_size),
        source=source,
        validation_size=options.validation_size,
        rules=Rules(
            space=space,
            objective=objective,
            seed=options.tuning_seed,
            round_size=options.round_size,
            grace_epochs=options.grace_epochs,
            maximize=maximize,
        ),
        budget=Budget(steps=options.budget_steps) if options.budget_steps else Budget(trials=options.trials),
        seeds=options.seeds,
        has_warmup_in_steps=has_warmup_in_steps,
    )


def objective_of(wanted: str, task: str, option: str = "objective") -> tuple[str, bool]:
    """What is best on the validation examples, as in Rules, and whether more of it is better.

    Raises UserError, which names the `option`, where `wanted` is neither loss, nor metric, nor the name of the task's
    primary metric.
    """
    if wanted == "loss":
        return LOSS, False
    metric, _, direction = metric_of_task(task)
    if wanted not in ("metric", metric):
        raise UserError(f"`--{option}` must be metric ({metric}, the primary one of {task}) or loss, got {wanted}")
    return f"validation_{metric}", direction == "higher"


def metric_of_task(task: str) -> tuple[str, str, str]:
    """The primary metric of a task by name, its unit and which values are better."""
    if task == TASKS[0]:
        return "accuracy", "points", "higher"
    from trainables.tasks.by_name import load_task  # brings PyTorch

    used = load_task(task)
    return used.metric, used.unit, used.direction


def begin(
    plan: Plan, storage: Any, name: str, known: dict[str, Known], resume: bool, kind: type[Campaign] = Campaign
) -> Campaign:
    """The campaign of `plan`, its studies named `NAME: batch 64, none` and so on."""
    studies = {
        cell: TuningStudy(
            f"{name}: {cell.study}",
            storage,
            plan.rules_of(cell),
            plan.budget,
            subject=plan.tuned(cell, plan.rules_of(cell).space.whole({})).trial_id,
            resume=resume,
        )
        for cell in plan.cells
    }
    return kind(plan, studies, known)


def known_trials(folder: AnyPath, plan: Plan) -> dict[str, Known]:
    """The completed and diverged trials of the results folder, by key."""
    if not (folder / "trials.parquet").exists() and not any((folder / "trials").glob("[!.]*.json")):
        return {}
    tables = read_tables(folder)
    epochs: dict[str, list[Row]] = {}
    for row in tables.epochs.to_pylist():
        epochs.setdefault(row["trial_id"], []).append(row)
    found = {}
    for row in tables.trials.to_pylist():
        if row["status"] in ("completed", "diverged"):
            own, outcome = epochs.get(row["trial_id"], []), outcome_of(row)
            outcome = outcome if plan.goals is None else plan.goals.noted(outcome, own)
            found[row["trial_id"]] = Known(outcome, curve_of(own, plan.rules.grace_epochs), row["measured"] or ())
    return found


def write_tuning(folder: AnyPath, campaign: Campaign) -> None:
    """Leaves tuning.parquet and tuning.json, each whole or not at all."""
    plan, cells, rows = campaign.plan, [], []
    for cell, study in campaign.studies.items():
        about_cell: dict[str, Any] = {"batch_size": cell.batch_size, "remedy": cell.remedy}
        if cell.rung is not None:
            ranges = plan.rules_of(cell).space.ranges
            ranges = {f"{name}_range": ranges[name] for name in ("learning_rate", *MOMENTS) if name in ranges}
            about_cell |= {"optimizer": cell.rung, **ranges}
        rows += [{**about_cell, **row} for row in study.rows()]
        cells.append(
            {
                **about_cell,
                "study": study.name,
                **campaign.described(cell),
                "trials": {name: list(configs) for name, configs in campaign.retraining(cell).items()},
            }
        )
    about = {
        "objective": plan.rules.objective,
        "space": {
            "warmup_steps" if name == "warmup_epochs" and plan.has_warmup_in_steps else name: ends
            for name, ends in plan.rules.space.ranges.items()
        },
        "budget": dataclasses.asdict(plan.budget),
        "tuning_seed": plan.rules.seed,
        "round_size": plan.rules.round_size,
        "grace_epochs": plan.rules.grace_epochs,
        "validation_size": plan.validation_size,
        "cells": cells,
        **({} if plan.goals is None else {"goals": dataclasses.asdict(plan.goals)}),
    }
    schema = TUNING if plan.goals is None else TUNING.append(STEPS_TO_GOALS)
    if any(cell.rung is not None for cell in campaign.studies):
        schema = schema.append(OF_LADDER)
    for name in MOMENTS:
        if any(name in row for row in rows):
            schema = schema.append(pa.field(name, pa.float64()))
    rows = [{name: row.get(name) for name in schema.names} for row in rows]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
    write_atomically(folder / "tuning.parquet", buffer.getvalue().to_pybytes())
    write_atomically(folder / "tuning.json", json.dumps(about, indent=1).encode())


def _exit_status(folder: AnyPath, campaign: Campaign) -> int:
    """1 where a trial failed, also a tuning trial of an earlier run, or a study came to nothing; says so in a line."""
    rows = [row for study in campaign.studies.values() for row in study.rows()]
    empty = [cell.name for cell, study in campaign.studies.items() if study.best() is None]
    for name in empty:
        print(f"failed: {name}: no tuning trial had a finite result", file=sys.stderr)
    failures = say_failures(read_tables(folder), [*campaign.begun, *(row["trial_id"] for row in rows)])
    return 1 if failures or empty else 0


def _dry_run(console: Console, plan: Plan, folder: AnyPath, placement: Placement) -> None:
    """Prints the studies, their number of trials, and the time of the whole."""
    from sweeps.plan.estimate import estimate  # brings PyTorch

    budget = plan.budget.trials or STARTUP_POINTS
    blocks = range(math.ceil(budget / STARTUP_POINTS))
    configs: list[TrialConfig] = []
    for cell in plan.cells:
        space = plan.rules_of(cell).space
        points = [point for block in blocks for point in space.startup_points(plan.rules.seed + block)]
        spent = counted(plan.budget.steps, "steps") if plan.budget.steps else counted(budget, "trials")
        retrained = counted(len(plan.seeds), "retrained trials")
        console.print(f"{cell.name}: {spent} of tuning, {retrained} at each of its settings")
        tuning = [plan.tuned(cell, space.whole(point)) for point in points[:budget]]
        configs += [*plan.retrained(cell, space.whole(points[0])), *tuning]
    times = estimate(configs, plan.source, threads=int(placement.cpus_per_trial))
    bound = " at most: trials that reach the target loss or are stopped end earlier" if times.is_bound else ""
    if plan.budget.trials:
        console.print(f"about {duration(times.seconds)}{bound} (from short trials on this machine's CPU) -> {folder}")
