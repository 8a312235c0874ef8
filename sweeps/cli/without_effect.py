"""Options that would do nothing beside the others are refused: whoever gives one expects something of it."""

import argparse

from trainables.config import SWITCH_LEARNING_RATES, SWITCH_OPTIMIZER_STATES
from trainables.measuring import MEASURE_BATCH_NORMS, MEASURE_DTYPES
from trainables.runtime.errors import UserError


def refuse_options_without_effect(options: argparse.Namespace) -> None:
    """Raise UserError for the first of the options of batch_grid.py that has no effect."""
    switches = any(epoch is not None for epoch in options.switch_epochs)
    scales = switches or any("batch_schedule" in remedy for remedy in options.remedies)
    measures = bool(options.measures)
    of_batch = measures and options.measure_batch_norm == "batch"
    others = [name for name, _ in options.optimizer if name != "sgd"]
    own = "; others have a momentum of their own, such as --optimizer rmsprop momentum=0.9"
    rules = [
        ("momentum", None, not others, f"with --optimizer {' '.join(others)}; --optimizer sgd uses it{own}"),
        ("switch_batch_size", None, switches, "without a switch; add --switch-epochs N"),
        ("switch_learning_rate", SWITCH_LEARNING_RATES[0], scales, "without a switch; add --switch-epochs N"),
        ("switch_optimizer_state", SWITCH_OPTIMIZER_STATES[0], switches, "without a switch; add --switch-epochs N"),
        ("measure_batch_size", None, of_batch, "without --measure-batch-norm batch"),
        ("measure_batch_norm", MEASURE_BATCH_NORMS[0], measures, "with --measures none"),
        ("measure_dtype", MEASURE_DTYPES[0], measures, "with --measures none"),
        ("measure_examples", None, measures, "with --measures none"),
        ("measure_every", None, measures, "with --measures none"),
        ("measure_share", None, measures, "with --measures none"),
    ]
    for name, default, has_effect, reason in rules:
        if (value := getattr(options, name)) != default and not has_effect:
            raise UserError(f"`--{name.replace('_', '-')} {value}` has no effect {reason}")
