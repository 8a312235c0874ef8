"""What a sweep must know of an optimizer before its trials have IDs: that its options are right, and its source."""

from sweeps.plan.users_network import fingerprint_of_source
from trainables.config import TrialConfig
from trainables.optimizer_settings import OPTIMIZERS
from trainables.runtime.importing import is_import_path


def with_checked_optimizer(config: TrialConfig) -> TrialConfig:
    """`config` without options that are its optimizer's defaults. Raises UserError for an option that it does not have.

    Loads PyTorch, which the driver does without for the optimizers of this project without options.
    """
    if config.optimizer in OPTIMIZERS and config.optimizer_options == "{}" and config.parameter_groups is None:
        return config
    from trainables.training.optimizers.options import checked

    return checked(config)


def optimizer_fingerprint(name: str) -> str | None:
    """The fingerprint of the source of a user's own optimizer; None for those of PyTorch and of this project."""
    if not is_import_path(name):
        return None
    return fingerprint_of_source(name, "optimizer")
