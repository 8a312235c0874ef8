"""A study from its options to its report: data, grid, trials, tables, figures, answer."""

import argparse
import contextlib
import dataclasses
import datetime
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from analysis.data.sequential_design import read_design
from sweeps.cli.without_effect import refuse_options_without_effect, refuse_places_without_effect
from sweeps.execution.preflight import checking
from sweeps.monitoring.consoles import answer_then_write, consoles
from sweeps.plan.axes import axes_line
from sweeps.plan.grid import Grid, expand
from sweeps.plan.units import batch_sizes_of, tokens_of_example
from sweeps.session.placement import Placement
from sweeps.studies.odd_data import about_data
from trainables.config import NUMBERS_VERSION, TrialConfig
from trainables.data import Source, is_drawn_anew, load_source
from trainables.measures.costs import cost_line
from trainables.runtime.errors import UserError
from trainables.runtime.text import duration
from trainables.storage.folders import AnyPath, redact_credentials, write_atomically
from trainables.training.looks import evaluation_line
from trainables.units import Amount, in_examples

if TYPE_CHECKING:
    from analysis.data.metric import Metric
    from trainables.records.tables import Tables


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a study ends: the lines that are to be seen last, and what is written once they are on the terminal."""

    answer: Sequence[str]
    write: Callable[[], object]


OF_STUDIES = {"target_test_loss", "rescaling"}  # fields of the grid without an option of batch_grid.py
Finish = Callable[[Path, Console], Ending | None]  # prints the details, and writes where it returns no Ending


def run_grid(options: argparse.Namespace) -> int:
    """Runs what `sweeps.cli.options.parse` has read; returns the exit status. Raises UserError for what cannot run."""
    if read_design((options.results / options.name).expanduser().absolute()) is not None:
        raise UserError(
            f"{options.name} is a sequential sweep: continue it with --until-decided, or use another --name"
        )
    source = source_of(options, options.dataset)
    return run_study(expand(grid_of(options, source), source), source, options, report_and_answer)


def source_of(options: argparse.Namespace, dataset: str, *others: str) -> Source:
    """`dataset` from where the options of `sweeps.cli.arguments.add_data` say, which may be for `others` as well."""
    refuse_places_without_effect(options, (dataset, *others))
    chosen, task = dict(options.dataset_options), options.task
    source = load_source(
        dataset,
        root=options.data_dir,
        download=options.download,
        options=chosen,
        task=task,
        cache_dir=options.cache_dir,
        is_whole_needed=all(getattr(options, size, None) is None for size in ("train_size", "test_size")),
    )
    if source.decoded is not None and options.resume:
        source = _named_as_before(source, options.results / options.name)
    if is_drawn_anew(source):
        warn([f"{dataset} returns other data each time it is called, so trials cannot be resumed; seed its generator"])
    warn(about_data(source))
    return source


def resuming(options: argparse.Namespace) -> argparse.Namespace:
    """`options` for a further run of the same study: what is in the folder goes on."""
    return argparse.Namespace(**{**vars(options), "resume": True})


def check_factors(factors: Sequence[int], batch_size: int, train_size: int) -> None:
    """Raises UserError where the largest of `--factors` times `--batch-size` is beyond the training set."""
    if max(factors) * batch_size > train_size:
        raise UserError(
            f"`--factors`: {max(factors)} times batch {batch_size} is larger than the training set ({train_size} "
            "examples)"
        )


def metric_of(task: str) -> "Metric":
    """The primary metric of a task, with its default margin."""
    from analysis.data.metric import Metric
    from trainables.tasks.by_name import load_task

    used = load_task(task)
    return Metric.of_row({"metric": used.metric, "metric_unit": used.unit, "metric_direction": used.direction})


def require_margin(task: str, margin: float | None) -> None:
    """Raises UserError where an answer will need `margin`, and neither it nor a default is there."""
    if margin is None and metric_of(task).margin is None:
        raise UserError(f"`--margin` must be given, because the metric of the task {task} has no default")


def _named_as_before(source: Source, folder: AnyPath) -> Source:
    """`source`, named by its values where the trials of `folder` are: those of versions that decoded all images."""
    from trainables.records.tables import read_tables

    try:
        rows = read_tables(folder).trials.select(["dataset", "data_fingerprint"]).to_pylist()
    except UserError:  # nothing has ended yet
        return source
    known = {row["data_fingerprint"] for row in rows if row["dataset"] == source.name} - {source.file_fingerprint}
    return dataclasses.replace(source, is_named_by_values=True) if known and source.fingerprint in known else source


def report_and_answer(folder: AnyPath, console: Console) -> Ending:
    """Prints the details; figures and report.html, which take seconds, are written after the answer."""
    from analysis.data.load import load_sweep
    from analysis.data.progress import progress_of
    from analysis.reporting.headline import headline_lines
    from analysis.reporting.report import REPORT, write_report
    from analysis.reporting.summary import summary_lines

    sweep = load_sweep(folder)  # once: report and summary share what is computed
    console.print()
    for line in summary_lines(sweep, console.width):
        console.print(line, soft_wrap=True)
    console.print(f"Report, complete when this command ends: {folder / REPORT}", soft_wrap=True)
    lines = headline_lines(sweep, progress_of(sweep.trials, folder), console.width)
    return Ending(["", *lines], partial(write_report, sweep))


def run_study(
    configs: Sequence[TrialConfig],
    source: Source,
    options: argparse.Namespace,
    finish: Finish,
    begin: Callable[[Path, Console], None] | None = None,
    since: float | None = None,
) -> int:
    """Runs those of `configs` on `source` that are missing in the folder of `options` (sweeps.cli.arguments.add_run),
    then `finish`; returns the exit status. `begin` is called before the first trial, when the folder is held by this
    process. The answer tells the time from `since` (time.monotonic), None: from the end of the check.
    Raises UserError for what cannot run, before anything is written.
    """
    configs = [config.canonical() for config in configs]
    placement = placement_of(options, source)
    folder = (options.results / options.name).expanduser().absolute()
    talk, console = consoles(plain=options.plain, quiet=options.quiet)
    if not options.dry_run:
        talk.print(f"Checking {len(configs)} trials.")
    with contextlib.ExitStack() as held:
        passed = held.enter_context(checking(configs, source, placement))
        # Ray, and Matplotlib and SciPy for the end: imported beside the check
        import analysis.reporting.report  # noqa: F401
        from sweeps.execution.launch import exclusive_results_folder, run_trials
        from sweeps.monitoring.progress import Progress
        from sweeps.session.ray_session import refuse_missing_gpus
        from trainables.records.resume import finished_trials, incomplete_trials
        from trainables.records.tables import read_tables

        refuse_missing_gpus(placement)
        if options.dry_run:
            warn(passed())
            _dry_run(console, configs, source, folder, placement, lists=options.dry_run == "list")
            return 0
        started = time.monotonic() if since is None else since
        held.enter_context(exclusive_results_folder(folder, resume=options.resume))
        if begin is not None:
            begin(folder, talk)
        missing, trained = incomplete_trials(folder, configs), finished_trials(folder)
        to_measure = [config for config in missing if config.trial_id in trained]
        if missing:
            warn(passed())
        sizes, waiting = (Counter(config.batch_size for config in part) for part in (configs, to_measure))
        note_run(folder, len(configs), batch_sizes=sizes, to_measure=waiting)
        done = len(configs) - len(missing)
        before = f", {done} of them done already" if done else ""
        talk.print(f"{len(configs)} trials{before}{_to_measure(len(to_measure))} -> {folder}")
        for line in filter(None, (evaluation_line(missing[0]), cost_line(missing[0])) if missing else ()):
            talk.print(line, soft_wrap=True)
        ended = {config.trial_id for config in configs} - {config.trial_id for config in missing}
        rows = [row for row in read_tables(folder).trials.to_pylist() if row["trial_id"] in ended] if done else []
        progress = Progress(missing, done, talk, rows, hides_results=read_design(folder) is not None)
        tables, interrupted = run_trials(missing, source, folder, placement, progress)
        if interrupted:
            left = len(incomplete_trials(folder, configs))
            console.print(f"Interrupted: {len(configs) - left} of {len(configs)} trials are kept; --resume continues.")
            return 130
        trial_ids = [config.trial_id for config in configs]
        try:
            ending = finish(folder, console)
        except UserError as error:
            return without_answer(error, say_failures(tables, trial_ids))
        talk.print(f"Trained and evaluated in {duration(time.monotonic() - started)}.", soft_wrap=True)
        say_failed_measures(tables)
        status = 1 if say_failures(tables, trial_ids) else 0
        if ending is not None:
            answer_then_write(ending.answer, ending.write, talk, console)
    return status


def say_failed_measures(tables: "Tables") -> None:
    """Prints for each measure that failed, in how many trials it did and why it did first."""
    failed: dict[str, dict[str, str]] = {}
    rows = tables.measures.select(["trial_id", "measure", "error"]).to_pylist()
    for row in rows:
        if row["error"] is not None:
            failed.setdefault(row["measure"], {}).setdefault(row["trial_id"], row["error"])
    for measure, reasons in failed.items():
        told = f"{measure} has no value in {len(reasons)} of {tables.trials.num_rows} trials"
        print(f"warning: {told}: {next(iter(reasons.values()))}", file=sys.stderr)


def say_failures(tables: "Tables", trial_ids: Iterable[str]) -> int:
    """Prints why the first of these trials failed, or could not be measured, in their order; returns how many did.

    Where all of them failed it says so, with the first reason alone.
    """
    keys = dict.fromkeys(trial_ids)
    failed = {row["trial_id"]: row for row in tables.trials.to_pylist() if row["error"] is not None}
    own = [failed[key] for key in keys if key in failed]
    all_failed = 1 < len(own) == len(keys) and all(row["status"] == "failed" for row in own)
    for row in own[:1] if all_failed else own[:3]:
        reason = row["error"].strip().splitlines()[-1]
        what = "failed" if row["status"] == "failed" else "not measured"
        which = f"all {len(own)} trials, the first (" if all_failed else ""
        about = f"batch size {row['batch_size']}, seed {row['seed']}"
        print(f"{what}: {which}{about}{')' if all_failed else ''}: {reason}", file=sys.stderr)
    return len(own)


def without_answer(error: UserError, failures: int) -> int:
    """The exit status of a run whose trials give no answer, for the reason `error`; says so where trials failed.

    Raises `error` itself where none did.
    """
    if not failures:
        raise error
    print(f"no answer: {error}", file=sys.stderr)
    return 1


def warn(lines: Iterable[str]) -> None:
    """Print a warning per line."""
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)


def placement_of(options: argparse.Namespace, source: Source) -> Placement:
    """Where trials on `source` run, from the options of `sweeps.cli.arguments.add_run`."""
    every = options.checkpoint_every
    if every is not None:
        every = str(in_examples("checkpoint-every", every, tokens_of_example(source)))
    return Placement(
        address=None if options.address == "local" else options.address,  # as Ray calls one of its own
        cpus_per_trial=options.cpus_per_trial,
        gpus_per_trial=options.gpus_per_trial,
        workers_per_trial=options.workers_per_trial,
        memory_per_trial=options.memory_per_trial,
        micro_batch_size=options.micro_batch_size,
        recordings=options.recordings,
        checkpoint_seconds=options.checkpoint_seconds,
        checkpoint_every=every,
        trial_timeout=options.trial_timeout,
        keep_weights=options.keep_weights,
        reuse_actors=options.reuse_actors,
        dashboard=options.dashboard,
        track=tuple(options.track),
    )


def grid_of(options: argparse.Namespace, source: Source) -> Grid:
    """The grid on `source` of the options of batch_grid.py, or of options with the same names."""
    refuse_options_without_effect(options)
    if options.target_metric is not None and options.held_out is None:
        warn(
            ["the test set decides when trials end (--target-metric); --validation-size N decides by held-out examples"]
        )
    switch_size, tokens = options.switch_batch_size, options.switch_batch_tokens
    if tokens is not None:
        (switch_size,) = batch_sizes_of([Amount(tokens, "tokens")], source, "--switch-batch-tokens")
    renamed: dict[str, Any] = {
        "batch_sizes": batch_sizes_of(options.batch_sizes, source),
        "switch_batch_size": switch_size,
        "model_options": dict(options.model_options),
        "build_timeout": options.trial_timeout,
        "optimizers": options.optimizer,
        "validation_size": options.held_out,
    }
    others = {field.name for field in dataclasses.fields(Grid)} - renamed.keys() - OF_STUDIES
    return Grid(**renamed, **{name: getattr(options, name) for name in others})


def _dry_run(
    console: Console,
    configs: Sequence[TrialConfig],
    source: Source,
    folder: AnyPath,
    placement: Placement,
    *,
    lists: bool,
) -> None:
    """Prints the axes, the number of trials and the time of the whole; with `lists` every trial and its time."""
    from sweeps.plan.estimate import estimate  # brings PyTorch
    from trainables.records.resume import finished_trials, incomplete_trials

    console.print(axes_line(configs), soft_wrap=True)
    missing, trained = incomplete_trials(folder, configs), finished_trials(folder)
    kept = {key for key in trained if (folder / "weights" / f"{key}.pt").exists()}
    times = estimate(missing, source, threads=int(placement.cpus_per_trial), kept_weights=kept) if missing else None
    for config in configs if lists else ():
        seconds = times.trial_seconds.get(config.trial_id) if times else None
        work = "done" if seconds is None else f"{seconds:.1f} s"
        only = " to measure" if seconds is not None and config.trial_id in trained else ""
        console.print(f"{config.trial_id}  {config.label:<32}  {work}{only}")
    to_measure = _to_measure(sum(config.trial_id in trained for config in missing))
    console.print(f"{len(configs)} trials, {len(configs) - len(missing)} of them done already{to_measure} in {folder}")
    if times is not None:
        bound = " at most: trials that reach the target loss end earlier" if times.is_bound else ""
        console.print(f"about {duration(times.seconds)}{bound} (from short trials on this machine's CPU)")
        if evaluations := evaluation_line(missing[0]):
            console.print(evaluations, soft_wrap=True)
        if cost := cost_line(missing[0]):
            measuring, whole = math.fsum(times.measure_seconds.values()), math.fsum(times.trial_seconds.values())
            console.print(cost, soft_wrap=True)
            share = "" if times.is_bound else f", {100 * measuring / whole:.0f} % of its time"
            console.print(f"Measures take about {measuring / len(missing):.1f} s of a trial{share}")
    if not lists:
        console.print("--dry-run list lists the trials.")


def _to_measure(number: int) -> str:
    return f", {number} trained already and to be measured" if number else ""


def note_run(
    folder: AnyPath,
    planned: int,
    arguments: Sequence[str] | None = None,
    batch_sizes: Mapping[int, int] | None = None,
    to_measure: Mapping[int, int] | None = None,
) -> None:
    """Leaves what was asked for beside the tables, for report and status.

    That is the number of trials `planned`, also by batch size; how many of them are trained already and `to_measure`,
    by batch size; and the command with its `arguments` (None: those of the process).
    """
    note = {
        "command": [Path(sys.argv[0]).name, *map(redact_credentials, sys.argv[1:] if arguments is None else arguments)],
        "started_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "planned": planned,
        "batch_sizes": batch_sizes,
        "to_measure": to_measure or {},
        "numbers_version": NUMBERS_VERSION,
        "cores": os.cpu_count(),
    }
    write_atomically(folder / "sweep.json", json.dumps(note).encode())
