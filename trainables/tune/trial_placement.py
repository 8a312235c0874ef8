"""What a trial may use of the machine that it runs on, and how it keeps its state there."""

import dataclasses

from trainables.runtime.memory import GIB


@dataclasses.dataclass(frozen=True)
class TrialPlacement:
    """How one trial is placed: nothing here can change its numbers, except by the device's own rounding.

    CPUs, GPUs and `memory_per_trial` (GiB) are those of each of `workers_per_trial` workers. `gpus_per_trial` None is
    one GPU where there is one, else none: it is a number once Ray has started. `micro_batch_size` is the most examples
    that a worker takes at once. With `recordings` updates of small whole batches are replayed. A trial that takes
    longer than `trial_timeout` seconds fails. With `reuse_actors` its process takes the next trial.
    """

    cpus_per_trial: float = 1
    gpus_per_trial: float | None = None
    workers_per_trial: int = 1
    memory_per_trial: float | None = None
    micro_batch_size: int | None = None
    recordings: bool = True
    checkpoint_seconds: float = 10.0
    checkpoint_every: str | None = None  # an amount of trainables.units, without tokens
    trial_timeout: float | None = None
    keep_weights: bool = False
    reuse_actors: bool = True

    @property
    def gpus(self) -> float:
        """The GPUs of each worker, as a number."""
        return float(self.gpus_per_trial or 0)

    def resources(self) -> dict[str, float]:
        """What each worker asks Ray for."""
        memory = {"memory": float(round(self.memory_per_trial * GIB))} if self.memory_per_trial else {}
        return {"CPU": self.cpus_per_trial, "GPU": self.gpus, **memory}
