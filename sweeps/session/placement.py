"""Where the trials of a sweep run."""

import dataclasses

from trainables.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where trials run: nothing here can change a trial's numbers, except by the device's own rounding.

    `address` None starts Ray on this machine. `gpus_per_trial` None is one GPU where there is one, else none. With
    `dashboard` the sweep's numbers are published through Ray's metrics too; `track` are the (kind, target) of trackers.
    CPUs, GPUs and `memory_per_trial` (GiB) are those of each of `workers_per_trial` workers; `micro_batch_size` is the
    most examples that one takes at once; with `cuda_graphs` a GPU replays updates of small whole batches. A trial that
    takes longer than `trial_timeout` seconds fails.
    """

    address: str | None = None
    cpus_per_trial: float = 1
    gpus_per_trial: float | None = None
    workers_per_trial: int = 1
    memory_per_trial: float | None = None
    micro_batch_size: int | None = None
    cuda_graphs: bool = True
    checkpoint_seconds: float = 10.0
    checkpoint_every: str | None = None  # an amount of trainables.units, without tokens
    trial_timeout: float | None = None
    keep_weights: bool = False
    reuse_actors: bool = True
    dashboard: bool = True
    track: tuple[tuple[str, str | None], ...] = ()

    def __post_init__(self) -> None:
        if not self.cpus_per_trial > 0:
            raise UserError(f"`cpus-per-trial` must be above 0, got {self.cpus_per_trial}")
        if self.gpus_per_trial is not None and self.gpus_per_trial < 0:
            raise UserError(f"`gpus-per-trial` must be 0 or more, got {self.gpus_per_trial}")
        if self.workers_per_trial < 1:
            raise UserError(f"`workers-per-trial` must be 1 or more, got {self.workers_per_trial}")
        if self.workers_per_trial > 1 and not float(self.gpus_per_trial or 0).is_integer():
            raise UserError(
                f"`gpus-per-trial` must be a whole number with several workers per trial, got {self.gpus_per_trial}; "
                "NCCL takes no two workers on one GPU"
            )
