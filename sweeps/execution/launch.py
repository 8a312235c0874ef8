"""All of Ray Tune's wiring: which trials are missing, what they run on, and how a run ends well.

Finished trials are found by their keys in the results folder and only the missing ones are started. `Tuner.restore`
is not used: a killed driver would make it run finished trials again, and it ignores a changed grid (Ray 2.60).
SIGINT and SIGTERM stop at once: every trial that ended has its record, and those in flight have checkpoints.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Read by Ray when it is imported: no output, no loggers and no usage report of its own.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's default since 2.59, said here so that it stays
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")  # its snapshots, of all trials, are never restored
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # a worker for each core, which no trial of Tune takes

import ray
from ray import tune

from sweeps.execution.scheduler import FirstToWait
from sweeps.execution.shared_storage import check_shared
from sweeps.execution.worker_deaths import WORKER_DEATHS_ALLOWED, write_failures
from sweeps.monitoring.metrics import Metrics
from sweeps.monitoring.progress import Progress, key_of
from sweeps.monitoring.trackers import trackers
from sweeps.monitoring.watch import Watch, watching
from sweeps.session.placement import Placement
from sweeps.session.ray_session import ray_session, room, services_of_ray
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.records.record_files import record_files
from trainables.records.resume import finished, finished_trials
from trainables.records.running import remove_all_running
from trainables.records.tables import Row, Tables, compact, read_tables
from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath, remove_folder
from trainables.storage.lease import LEASE, NoLocksError, hold
from trainables.storage.remote_path import RemotePath
from trainables.tune.ray_compat import forget_metrics, lost_machines_do_not_count
from trainables.tune.tune_trial import TuneTrial


@contextlib.contextmanager
def exclusive_results_folder(folder: AnyPath, *, resume: bool) -> Iterator[None]:
    """Makes `folder` and holds it for this process alone, until the process ends, however it ends.

    Raises UserError where another sweep is writing there, where there are results and `resume` is not asked for,
    and where the folder is something else or cannot be written. A UserError in the block before any trial has ended
    leaves nothing behind.
    """
    with contextlib.ExitStack() as held:
        try:
            occupied = folder.exists() and any(not file.name.startswith((".lock", LEASE)) for file in folder.iterdir())
            if occupied and not (folder / "trials").is_dir():
                raise UserError(f"`--name`: {folder} holds files that no sweep has written; use another --name")
            existed = folder.exists()
            made = [parent for parent in folder.parents if isinstance(parent, Path) and not parent.exists()]
            for part in ("trials", "checkpoints"):
                (folder / part).mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(hold(folder))
            except NoLocksError:
                if isinstance(folder, Path) and not occupied:
                    _remove_empty(folder, made, existed=existed)
                raise
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"`--results`: {folder} cannot be written ({reason})") from error
        if occupied and not resume:
            raise UserError(
                f"`--name`: {folder} already has results; --resume continues with them, another --name starts a new "
                "sweep"
            )
        _remove_half_written(folder)
        if record_files(folder):
            compact(folder)  # what a killed run left is no record of this one
        try:
            yield
        except UserError:
            if not occupied and not read_tables(folder).trials.num_rows:
                remove_folder(folder)
                for parent in made:  # the nearest first
                    with contextlib.suppress(OSError):  # somebody else uses it by now
                        parent.rmdir()
            raise
        _remove_half_written(folder)


def _remove_empty(folder: Path, made: Sequence[Path], *, existed: bool) -> None:
    """Removes what was made of a results folder that cannot be used; what holds anything stays."""
    (folder / ".lock").unlink(missing_ok=True)
    for part in (folder / "trials", folder / "checkpoints", *([] if existed else [folder, *made])):
        with contextlib.suppress(OSError):
            part.rmdir()


def _remove_half_written(folder: AnyPath) -> None:
    """Removes what was being written when its worker or driver was killed."""
    remove_all_running(folder)
    for file in folder.rglob(".*.tmp"):
        file.unlink(missing_ok=True)  # the last worker of a killed driver may just have finished it


def run_trials(
    configs: Sequence[TrialConfig], source: Source, folder: AnyPath, placement: Placement, progress: Progress
) -> tuple[Tables, bool]:
    """Runs `configs` under Ray Tune and merges the results; returns the tables and whether it was interrupted.

    Raises UserError where Ray has no resources for a trial, before any trial starts.
    """
    by_key = {config.trial_id: config for config in configs}

    def fit_grid(placed: Placement) -> None:
        space = {"trial_id": tune.grid_search(_Keys(by_key)), "configs": ray.put(by_key)}
        trainable: type[TuneTrial] = TuneTrial
        search = {}
        if placed.workers_per_trial > 1:
            from trainables.tune.parallel_trial import ParallelTrial  # Ray Train takes seconds to import

            trainable = ParallelTrial
            workers = room(placed)  # none on a cluster that has still to grow
            search["max_concurrent_trials"] = workers // placed.workers_per_trial or None
        fit(trainable, space, by_key, source, folder, placed, progress, **search)

    interrupted = bool(configs) and under_ray(placement, folder, progress, fit_grid)
    if not interrupted:
        write_failures(folder, configs, progress)
    tables = compact(folder)
    if not interrupted:
        lost = by_key.keys() - set(tables.trials["trial_id"].to_pylist())
        if lost:  # their records could not be read
            progress.errors |= dict.fromkeys(lost, "its record could not be read")
            write_failures(folder, [by_key[key] for key in by_key if key in lost], progress)
            tables = compact(folder)
    if not interrupted and by_key.keys() <= finished(tables):
        for state in (folder / "checkpoints").glob("warm-start-*"):  # of no use to anybody now
            state.unlink(missing_ok=True)
    return tables, interrupted


def under_ray(placement: Placement, folder: AnyPath, progress: Progress, run: Callable[[Placement], None]) -> bool:
    """Calls `run` with the placement that Ray has room for, while connected; returns whether it was interrupted.

    Raises LostError where Ray dies, or `folder` cannot be used any more.
    """
    watch = Watch()
    progress.starting(placement.address)
    try:
        with ray_session(placement) as (placed, dashboard):
            progress.begin(ray.cluster_resources(), dashboard)
            services = services_of_ray()
            looks = partial(watch.look_at_storage, folder), partial(watch.look_at_ray, services)
            with watching(watch, *looks):
                run(placed)
    except KeyboardInterrupt:
        watch.raise_if_lost()
        return True
    finally:
        watch.end()
        progress.end()
    return False


def fit(
    trainable: type[TuneTrial],
    space: dict[str, Any],
    by_key: Mapping[str, TrialConfig],
    source: Source,
    folder: AnyPath,
    placement: Placement,
    progress: Progress,
    **search: Any,
) -> None:
    """One run of Tune over `space`, whose `trial_id` is a key of `by_key`; `search`: further options of TuneConfig."""
    check_shared(folder)
    search.setdefault("scheduler", FirstToWait())
    if placement.keep_weights:
        (folder / "weights").mkdir(exist_ok=True)
    shared = {
        "folder": str(folder.resolve()),
        "source": ray.put(source),
        "trained": ray.put(frozenset(finished_trials(folder))),
        "placement": placement.of_trial(),
    }
    callbacks: list[tune.Callback] = [progress, _Forget(), *trackers(placement.track, folder, by_key)]
    if placement.dashboard:
        callbacks.append(Metrics(folder.name, by_key, _ended_before(folder, by_key)))
    with _place_of_ray(folder) as storage_path, lost_machines_do_not_count():
        tune.Tuner(
            trainable,
            param_space={**space, **shared},
            tune_config=tune.TuneConfig(
                **search,
                reuse_actors=placement.reuse_actors,
                trial_name_creator=key_of,  # pickled into the state of every trial, so it must hold nothing
                trial_dirname_creator=key_of,
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=storage_path,
                verbose=0,
                callbacks=callbacks,
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS_ALLOWED),
            ),
        ).fit()


class _Keys(list[str]):
    """Tune copies its whole space for every trial, which takes 18 s for 10 000 of them; this list it does not copy."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Keys":
        return self


class _Forget(tune.Callback):  # type: ignore[misc]
    """Drops what Tune keeps of the metrics of a trial that has ended."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        forget_metrics(trial)


@contextlib.contextmanager
def _place_of_ray(folder: AnyPath) -> Iterator[str]:
    """Where Ray's own experiment folder, `ray`, goes while it runs: into the results, or beside them where they are
    remote. Nothing of ours is in it, and it is removed in the end, as is one that a killed driver left.
    """
    if isinstance(folder, RemotePath):
        with tempfile.TemporaryDirectory(prefix="large-batch-sweeps-") as local:
            yield local
    else:
        shutil.rmtree(folder / "ray", ignore_errors=True)
        try:
            yield str(folder.resolve())
        finally:
            shutil.rmtree(folder / "ray", ignore_errors=True)


def _ended_before(folder: AnyPath, by_key: Mapping[str, TrialConfig]) -> list[Row]:
    """The rows of trials that ended in an earlier run, but for those that run again."""
    try:
        return [row for row in read_tables(folder).trials.to_pylist() if row["trial_id"] not in by_key]
    except UserError:  # nothing has ended yet
        return []
