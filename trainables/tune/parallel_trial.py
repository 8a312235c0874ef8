"""The Ray adapter of data-parallel trials: one Tune trial drives a TorchTrainer of Ray Train, whose workers share it.

Why it is as it is (Ray 2.60, Train V2):
- The Tune actor only waits, and asks for next to nothing: its workers are a placement group of the trainer's own. The
  launcher runs no more trials at once than there is room for their workers.
- Train's restarts are switched off. Here a worker that died is told from a trial that raises: only the first is
  worth going on with, from the trial's own checkpoint, which the first worker writes, as it does the record.
- A measure that fails on one worker leaves the others in the middle of a sum. So all of them end, and begin again from
  the checkpoint with the first worker measuring alone, where a failure costs the measure's own rows.
- The process group is set up here rather than by Train, whose store listens on all interfaces: ours listens on the
  address that Ray has given the node, which is 127.0.0.1 where the sweep runs on one machine.
- A trainer's placement group outlives a controller that is killed, for Ray keeps it until the sweep ends and Train's
  own cleaner needs the dashboard's server. So whoever comes next removes the groups that have lost their owner.
- A trainer takes seconds to start, so this is for trials that take minutes.
"""

import dataclasses
import json
import os
import socket
import time
from datetime import timedelta
from typing import Any

# Read by Ray Train when it is imported: no actors for metrics and preemption, and time for a node to start.
os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "900")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")

import ray
import ray.train
import torch
import torch.distributed as dist
from ray import tune
from ray.train.backend import Backend
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from trainables.config import TrialConfig
from trainables.records.tables import Record, write_record
from trainables.records.unmeasured import Unmeasured
from trainables.runtime.errors import text_of, traceback_of
from trainables.runtime.memory import is_out_of_memory, limit_memory
from trainables.runtime.process import prepare_process
from trainables.storage.folders import AnyPath, arrow_path, place
from trainables.training.parallel import Workers
from trainables.trial import MeasuringError, Trial
from trainables.tune.ray_compat import remove_orphaned_groups
from trainables.tune.trial_placement import TrialPlacement
from trainables.tune.tune_trial import TuneTrial, leaving_curves, out_of_memory
from trainables.units import read_amount

DEATHS_ALLOWED = 3
DRIVER_BYTES = 2**28  # what the waiting Tune actor asks for
COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # a worker may measure alone for long
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "socket", "store")


class ParallelTrial(TuneTrial):
    """A TuneTrial whose work is done by `workers_per_trial` processes, each with CPUs, GPUs and memory of its own."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([{"memory": DRIVER_BYTES}])

    def setup(self, config: dict[str, Any]) -> None:
        self._settings = {name: config[name] for name in ("configs", "source", "folder", "placement")}
        super().setup({**config, "placement": dataclasses.replace(config["placement"], gpus_per_trial=0.0)})

    def _limit_memory(self) -> None:
        """This process only waits."""

    def _advance(self) -> Record:
        deaths, measures_alone = 0, False
        while True:
            try:
                self._fit(deaths + self._ran_out_of_memory + measures_alone, measures_alone)
                return self._record()
            except ray.train.WorkerGroupError as error:
                failures = [failure for _, failure in sorted(error.worker_failures.items())]
                if not measures_alone and any(isinstance(failure, MeasuringError) for failure in failures):
                    measures_alone = True
                    continue
                short = [failure for failure in failures if isinstance(failure, WorkerError) and failure.is_short]
                smaller = min((one.smaller for one in short if one.smaller is not None), default=None)
                own = [failure for failure in failures if not _is_loss_of_a_worker(failure)]
                if smaller is not None and not self._ran_out_of_memory:
                    self._micro_batch_size, self._ran_out_of_memory = smaller, True
                elif short:
                    return self._failed(_text_of(short[0]) + out_of_memory(self._micro_batch_size))
                elif deaths == DEATHS_ALLOWED or own:
                    return self._failed(_text_of((own or failures)[0]))
                else:
                    deaths += 1

    def _fit(self, attempt: int, measures_alone: bool) -> None:
        """Runs the trial from its last checkpoint to its end. Raises WorkerGroupError."""
        remove_orphaned_groups()
        placement: TrialPlacement = self._settings["placement"]
        storage_path, file_system = arrow_path(self._folder / "ray" / "train")
        TorchTrainer(
            work_together,
            train_loop_config={
                **self._settings,
                "trial_id": self._config.trial_id,
                "micro_batch_size": self._micro_batch_size,
                "measures_alone": measures_alone,
                "known": self._known,
            },
            torch_config=_NoGroup(),
            scaling_config=ray.train.ScalingConfig(
                num_workers=placement.workers_per_trial,
                use_gpu=placement.gpus > 0,
                resources_per_worker=placement.resources(),
            ),
            run_config=ray.train.RunConfig(
                name=f"{self._config.trial_id}-{attempt}",
                storage_path=storage_path,
                storage_filesystem=file_system,
                failure_config=ray.train.FailureConfig(max_failures=0),
            ),
        ).fit()

    def _record(self) -> Record:
        content = json.loads((self._folder / "trials" / f"{self._config.trial_id}.json").read_bytes())
        return Record(content["trial"], content["epochs"], content["measures"])


class WorkerError(Exception):
    """What a trial raised in a worker, as the text of its traceback: not every exception of a user can be pickled.

    `is_loss`: another worker is gone, so the trial may go on from its checkpoint. `is_short`: it was refused memory;
    with `smaller` as micro-batch size, if not None, it is worth another try.
    """

    def __init__(self, text: str, is_loss: bool = False, is_short: bool = False, smaller: int | None = None) -> None:
        super().__init__(text, is_loss, is_short, smaller)
        self.text, self.is_loss, self.is_short, self.smaller = text, is_loss, is_short, smaller


def work_together(settings: dict[str, Any]) -> None:
    """What each worker does. Raises MeasuringError where a measure failed, and otherwise WorkerError."""
    try:
        _train_and_measure(settings)
    except (MeasuringError, WorkerError):
        raise
    except BaseException as error:  # a user's code may raise any
        if hasattr(error, "ray_terminate_msg"):  # Ray ends this worker: no fault of the trial
            raise
        raise WorkerError(traceback_of(error), _is_of_the_group(error)) from None


def _train_and_measure(settings: dict[str, Any]) -> None:
    """The whole trial, with this worker's share of every batch. The first worker keeps checkpoint and record."""
    placement: TrialPlacement = settings["placement"]
    prepare_process(placement.cpus_per_trial)
    workers = _join(uses_gpu=placement.gpus > 0)
    config: TrialConfig = ray.get(settings["configs"])[settings["trial_id"]]
    folder = place(settings["folder"], has_answered=True)
    checkpoint, weights = (folder / part / f"{config.trial_id}.pt" for part in ("checkpoints", "weights"))
    trial: Trial | None = None
    limit_memory(workers.device, gib=placement.memory_per_trial, gpu_share=placement.gpus)
    try:
        source, micro_batch_size = ray.get(settings["source"]), settings["micro_batch_size"]
        trial = Trial(config, source, workers.device, workers, micro_batch_size, known=settings["known"])
        if not trial.load_weights(weights):
            trial.resume(checkpoint)
        trial.measures_alone = settings["measures_alone"]
        if workers.rank == 0:
            saver = _Saver(trial, checkpoint, placement.checkpoint_seconds, placement.checkpoint_every)
            trial.after_epoch = leaving_curves(folder, trial, saver)
        trial.train()
        if workers.rank == 0:
            if placement.keep_weights and not weights.exists():
                trial.save_weights(weights)
            trial.while_measuring = Unmeasured(folder, trial.record)
            trial.save(checkpoint)  # a measure that fails ends all workers
        trial.measure()
    except MeasuringError as error:
        if error.__cause__ and _is_of_the_group(error.__cause__):
            raise error.__cause__ from None
        raise
    except Exception as error:
        if is_out_of_memory(error):
            smaller = trial.smaller_micro_batch() if trial else None
            raise WorkerError(traceback_of(error), is_short=True, smaller=smaller) from None
        raise
    if workers.rank == 0:
        record = trial.record()
        record.trial.setdefault("ray_version", ray.__version__)
        write_record(folder, record)


class _Saver:
    """Saves `trial`, not more often than every `seconds`, and after `every` amount of training."""

    def __init__(self, trial: Trial, path: AnyPath, seconds: float, every: str | None) -> None:
        self._trial, self._path, self._seconds = trial, path, seconds
        self._every = None if every is None else read_amount("checkpoint_every", every)
        self._saved_at = time.monotonic()

    def __call__(self) -> None:
        is_due = self._every is not None and self._trial.has_passed(self._every)
        if is_due or time.monotonic() - self._saved_at > self._seconds:
            self._trial.save(self._path)
            self._saved_at = time.monotonic()


class _NoGroup(TorchConfig):  # type: ignore[misc]
    """Leaves the process group to `_join`."""

    @property
    def backend_cls(self) -> type[Backend]:
        return Backend  # type: ignore[no-any-return]


def _join(uses_gpu: bool) -> Workers:
    """Sets up the process group of this trial's workers."""
    context = ray.train.get_context()
    rank, count = context.get_world_rank(), context.get_world_size()
    listener, address = None, None
    if rank == 0:
        host = ray.util.get_node_ip_address()
        listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        address = host, listener.getsockname()[1]
    host, port = broadcast_from_rank_zero(address)
    if host == "127.0.0.1":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.TCPStore(  # type: ignore[attr-defined]
        host,
        port,
        count,
        is_master=rank == 0,
        timeout=COLLECTIVE_TIMEOUT,
        master_listen_fd=listener.detach() if listener else None,
    )
    backend = "nccl" if uses_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=COLLECTIVE_TIMEOUT)
    return Workers.of_process_group(get_device() if uses_gpu else torch.device("cpu"))


def _is_of_the_group(error: BaseException) -> bool:
    """Whether `error` is of the process group, which fails in a worker where another one is lost."""
    text = text_of(error).lower()
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and any(one in text for one in _LOST))


def _is_loss_of_a_worker(failure: BaseException) -> bool:
    """Whether Ray lost a worker, or another worker noticed it."""
    is_of_ray = type(failure).__module__.split(".")[0] == "ray"
    return is_of_ray or (isinstance(failure, WorkerError) and failure.is_loss)


def _text_of(failure: BaseException) -> str:
    return failure.text if isinstance(failure, WorkerError) else traceback_of(failure)
