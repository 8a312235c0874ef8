"""All of Ray Tune's wiring: which trials are missing, what they run on, and how a run ends well.

Finished trials are found by their keys in the results folder and only the missing ones are started. `Tuner.restore`
is not used: a killed driver would make it run finished trials again, and it ignores a changed grid (Ray 2.60).
SIGINT and SIGTERM stop at once: every trial that ended has its record, and those in flight have checkpoints.
"""

import contextlib
import dataclasses
import fcntl
import logging
import os
import shutil
import signal
import socket
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

# Read by Ray when it is imported: no output, no loggers and no usage report of its own.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import tune

from sweeps.progress import Progress
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.errors import UserError
from trainables.tables import Tables, compact, finished_trials, write_record
from trainables.trial import failed_record
from trainables.tune_trial import TuneTrial

WORKER_DEATHS_ALLOWED = 3


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where trials run: nothing here can change a trial's numbers, except by the device's own rounding.

    `address` None starts Ray on this machine. `gpus_per_trial` None is one GPU where there is one, else none.
    """

    address: str | None = None
    cpus_per_trial: float = 1
    gpus_per_trial: float | None = None
    checkpoint_seconds: float = 10.0
    keep_weights: bool = False
    dashboard: bool = True

    def __post_init__(self) -> None:
        if not self.cpus_per_trial > 0:
            raise UserError(f"`cpus-per-trial` must be above 0, got {self.cpus_per_trial}")
        if self.gpus_per_trial is not None and self.gpus_per_trial < 0:
            raise UserError(f"`gpus-per-trial` must be 0 or more, got {self.gpus_per_trial}")


@contextlib.contextmanager
def own_results_folder(folder: Path, *, resume: bool) -> Iterator[None]:
    """Makes `folder` and holds it for this process alone, until the process ends, however it ends.

    Raises UserError where another sweep is writing there, where there are results and `resume` is not asked for,
    and where the folder is something else or cannot be written.
    """
    try:
        occupied = folder.exists() and any(file.name != ".lock" for file in folder.iterdir())
        if occupied and not (folder / "trials").is_dir():
            raise UserError(f"`name` must be a new folder or one of a sweep, got {folder}, which holds other files")
        for part in ("trials", "checkpoints"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"`results` must be a folder that can be written, got {folder} ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"`name` must not be in use by another sweep, got {folder}, which is") from error
        if occupied and not resume:
            raise UserError(
                f"`name` must be a new folder, got {folder}, which has results; "
                "--resume goes on with them, --name gives this sweep another folder"
            )
        for leftover in folder.rglob(".*.tmp"):
            leftover.unlink()
        yield


def missing_trials(folder: Path, configs: Sequence[TrialConfig]) -> list[TrialConfig]:
    """Those of `configs` that the results folder does not hold yet, in their order."""
    done = finished_trials(folder)
    return [config for config in configs if config.trial_id not in done]


def run_trials(
    configs: Sequence[TrialConfig], source: Source, folder: Path, placement: Placement, progress: Progress
) -> tuple[Tables, bool]:
    """Runs `configs` under Ray Tune and merges the results; returns the tables and whether it was interrupted.

    Raises UserError where Ray has no resources for a trial, before any trial starts.
    """
    interrupted = False
    if configs:
        try:
            with _ray(placement) as (gpus_per_trial, dashboard):
                progress.begin(ray.cluster_resources(), dashboard)
                _tune(configs, source, folder, placement, gpus_per_trial, progress)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            progress.end()
    if not interrupted:
        for config in missing_trials(folder, configs):
            if not (folder / "trials" / f"{config.trial_id}.json").exists():
                reason = progress.errors.get(config.trial_id, "the worker died and no reason is known")
                write_record(folder, failed_record(config, reason))
    return compact(folder), interrupted


@contextlib.contextmanager
def _ray(placement: Placement) -> Iterator[tuple[float, str | None]]:
    """A connection to Ray, with SIGTERM made an interrupt; yields the GPUs of a trial and the dashboard's address."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    try:
        if placement.address is None:
            context = ray.init(
                address="local",
                include_dashboard=placement.dashboard,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            _tighten_token_file()
        else:
            _reach(placement.address)
            context = ray.init(address=placement.address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"`address` must be a Ray cluster that can be reached, got {placement.address} "
            f"({str(error).strip().splitlines()[0]})"
        ) from error
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        url = context.dashboard_url
        yield _check_resources(placement), f"http://{url}" if url else None
    finally:
        signal.signal(signal.SIGTERM, previous)
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError where nothing answers at host:port; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _tighten_token_file() -> None:
    """Ray writes its access token readable for everybody."""
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    with contextlib.suppress(OSError):
        token.chmod(0o600)


def _check_resources(placement: Placement) -> float:
    """The GPUs of a trial. A request that no node can meet would wait forever, so it is refused here."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most_gpus = max(node.get("GPU", 0.0) for node in nodes)
    gpus = placement.gpus_per_trial
    if gpus is None:
        gpus = 1.0 if most_gpus >= 1 else 0.0
    fits = any(node.get("CPU", 0.0) >= placement.cpus_per_trial and node.get("GPU", 0.0) >= gpus for node in nodes)
    if not fits and placement.address is None:
        raise UserError(
            f"`cpus-per-trial` and `gpus-per-trial` must fit one node, got {placement.cpus_per_trial:g} CPUs and "
            f"{gpus:g} GPUs where a node has at most {max(node.get('CPU', 0.0) for node in nodes):g} CPUs "
            f"and {most_gpus:g} GPUs"
        )
    return gpus


def _tune(
    configs: Sequence[TrialConfig],
    source: Source,
    folder: Path,
    placement: Placement,
    gpus_per_trial: float,
    progress: Progress,
) -> None:
    experiment = folder / "ray"
    shutil.rmtree(experiment, ignore_errors=True)  # of an earlier run; nothing of ours is in it
    if placement.keep_weights:
        (folder / "weights").mkdir(exist_ok=True)
    by_key = {config.trial_id: config for config in configs}
    shared = {
        "configs": ray.put(by_key),
        "folder": str(folder.resolve()),
        "source": ray.put(source),
        "cpus": placement.cpus_per_trial,
        "gpus": gpus_per_trial,
        "checkpoint_seconds": placement.checkpoint_seconds,
        "keep_weights": placement.keep_weights,
    }
    tune.Tuner(
        TuneTrial,
        param_space={"trial_id": tune.grid_search(list(by_key)), **shared},
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            trial_name_creator=lambda trial: by_key[trial.config["trial_id"]].label,
            trial_dirname_creator=lambda trial: trial.config["trial_id"],
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(folder.resolve()),
            verbose=0,
            callbacks=[progress],
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS_ALLOWED),
        ),
    ).fit()
