"""Options that would do nothing beside the others are refused: whoever gives one expects something of it."""

import argparse
from collections.abc import Iterable

from sweeps.cli.arguments import DATA_DIR
from trainables.config import SWITCH_LEARNING_RATES, SWITCH_OPTIMIZER_STATES
from trainables.measuring import MEASURE_BATCH_NORMS, MEASURE_DTYPES
from trainables.runtime.errors import UserError
from trainables.runtime.importing import is_import_path

OF_NO_FILES = {"digits", "noisy_quadratic"}
CACHED = {"parquet", "image_folder", "arrow", "arrays", "pairs", "text", "tokens"}
DOWNLOADED = {"mnist", "cifar10", "cifar100"}


def refuse_places_without_effect(options: argparse.Namespace, datasets: Iterable[str]) -> None:
    """Raise UserError for an option that says where files are, where none of the `datasets` has such files."""
    names = list(datasets)
    made = [name for name in names if name in OF_NO_FILES or is_import_path(name)]
    own = "; a function of your own takes --dataset-options" if any(map(is_import_path, names)) else ""
    rules = [
        ("data_dir", DATA_DIR, len(made) < len(names), f"with --dataset {names[0]}, which reads no files{own}"),
        ("cache_dir", None, not CACHED.isdisjoint(names), f"with --dataset {names[0]}, which keeps nothing there"),
    ]
    for name, default, has_effect, reason in rules:
        if (value := getattr(options, name)) != default and not has_effect:
            raise UserError(f"`--{name.replace('_', '-')} {value}` has no effect {reason}")
    if options.download and DOWNLOADED.isdisjoint(names):
        raise UserError(
            f"`--download` has no effect with --dataset {names[0]}; it fetches {', '.join(sorted(DOWNLOADED))}"
        )


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
        ("switch_batch_tokens", None, switches, "without a switch; add --switch-epochs N"),
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
    for remedy in options.remedies:
        both = {**options.schedule, **remedy}
        if "base_batch_size" in remedy and not (both.get("learning_rate_scaling") or both.get("same_steps")):
            size = remedy["base_batch_size"]
            raise UserError(
                f"`base_batch_size={size}` has no effect without learning_rate_scaling or same_steps; such as "
                f"--remedies learning_rate_scaling=sqrt,base_batch_size={size}"
            )
