"""What cannot act together with an optimizer that has a line search, as part of TrialConfig.

A line search compares losses of one function of the weights, and its optimizer chooses the step size. So whatever
changes the gradient but not the loss, the loss from call to call, or the step size is refused. The full-batch
optimizers need the whole training set in every step. `progressive_lbfgs` chooses its batch size by the gradients of
single examples, so nothing else may change that size, or make the loss of an example depend on others.
"""

from trainables.optimizer_settings import FULL_BATCH_OPTIMIZERS, LINE_SEARCH_OPTIMIZERS, PROGRESSIVE
from trainables.remedies import Remedies, require
from trainables.runtime.errors import UserError

_NEEDS_ONE_LOSS = (
    "sam_radius", "weight_adversary", "input_adversary", "proximal", "clip_norm", "noise_batch_size",
    "gradient_penalty", "augmentation", "switch_epoch", "batch_schedule", "local_workers", "svrg_every",
)  # fmt: skip
_NOT_PROGRESSIVE = {  # and why
    **dict.fromkeys(("switch_epoch", "batch_schedule"), "which changes the batch size itself"),
    "ghost_batch_size": "which needs gradients of single examples",
    "noise_scale": "which takes gradients of its own",
}


class LineSearch(Remedies):
    """What TrialConfig has its fields for, as a check; a mixin without fields of its own."""

    optimizer: str
    parameter_groups: str | None
    weight_decay: float
    batch_size: int
    train_size: int
    precision: str
    noise_scale: str | None

    def check_line_search(self) -> None:
        """Raises UserError where a line search cannot act together with another part of the configuration."""
        if self.optimizer not in LINE_SEARCH_OPTIMIZERS:
            return
        if self.optimizer in FULL_BATCH_OPTIMIZERS and self.batch_size != self.train_size:
            raise UserError(
                f"`batch_size` must be all {self.train_size} training examples for {self.optimizer}, "
                f"got {self.batch_size}"
            )
        if self.optimizer == PROGRESSIVE:
            self._check_progressive()
        require("weight_decay", self.weight_decay, self.weight_decay == 0, f"be 0 for {self.optimizer}")
        if self.parameter_groups is not None:
            raise UserError(
                f"`parameter_groups` cannot be used with {self.optimizer}, whose line search needs one step size"
            )
        for name in ("learning_rate_scaling", "decay"):
            if getattr(self, name) is not None:
                raise UserError(f"`{name}` cannot be used with {self.optimizer}, whose line search finds the step size")
        require("precision", self.precision, self.precision == "float32", f"be float32 for {self.optimizer}")
        for name in _NEEDS_ONE_LOSS:
            if getattr(self, name) is not None:
                raise UserError(
                    f"`{name}` cannot be used with {self.optimizer}, whose line search needs one fixed loss"
                )

    def _check_progressive(self) -> None:
        for name, reason in _NOT_PROGRESSIVE.items():
            if getattr(self, name) is not None:
                raise UserError(f"`{name}` cannot be used with {self.optimizer}, {reason}")
        if self.same_steps:
            raise UserError(f"`same_steps` cannot be used with {self.optimizer}, which changes the batch size itself")
