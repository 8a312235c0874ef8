"""Where the trials of a sweep run."""

import dataclasses

from trainables.runtime.errors import UserError
from trainables.tune.trial_placement import TrialPlacement


@dataclasses.dataclass(frozen=True)
class Placement(TrialPlacement):
    """How each trial is placed, and what the sweep has in common.

    `address` None starts Ray on this machine. With `dashboard` the sweep's numbers are published through Ray's metrics
    too; `track` are the (kind, target) of trackers.
    """

    address: str | None = None
    dashboard: bool = True
    track: tuple[tuple[str, str | None], ...] = ()

    def __post_init__(self) -> None:
        if not self.cpus_per_trial > 0:
            raise UserError(f"`--cpus-per-trial` must be above 0, got {self.cpus_per_trial}")
        if self.gpus_per_trial is not None and self.gpus_per_trial < 0:
            raise UserError(f"`--gpus-per-trial` must be 0 or more, got {self.gpus_per_trial}")
        if self.workers_per_trial < 1:
            raise UserError(f"`--workers-per-trial` must be 1 or more, got {self.workers_per_trial}")
        if self.workers_per_trial > 1 and not self.gpus.is_integer():
            raise UserError(
                f"`--gpus-per-trial` must be a whole number with several workers per trial, got {self.gpus_per_trial}; "
                "NCCL does not allow two workers on one GPU"
            )

    def of_trial(self) -> TrialPlacement:
        """The part that goes to the trials: neither addresses nor trackers."""
        return TrialPlacement(**{field.name: getattr(self, field.name) for field in dataclasses.fields(TrialPlacement)})
