"""Which rule carries a tuned setting from a small batch to larger ones?

The learning rate is tuned on a grid at batch size B and at k times B. Each scaling rule (keep, square root, linear, and
for Adam rules for its betas, epsilon and weight decay) scales the best setting at B to k B. Other seeds then train with
both settings, on the same number of examples. The answer is how much retuning still gains over each rule, up to which k
a rule is within a margin of retuning, and from which k on it is worse.
"""

import argparse
from collections.abc import Sequence

from sweeps.cli.arguments import add_axis, add_batch_sizes, add_data, add_run, integer, number
from sweeps.cli.options import NOT_ASKED, add_noise_scale, add_remedies, add_training, check_study, without_measures
from trainables.config import LINE_SEARCH_OPTIMIZERS
from trainables.runtime.parser import Parser

EPOCHS = 20
OFTEN = (
    "--batch-size", "--factors", "--margin", "--seeds", "--learning-rates", "--tuning-seeds", "--dataset", "--model",
    "--optimizer", "--epochs", "--name", "--resume", "--dry-run",
)  # fmt: skip

EXAMPLES = """\
examples:
  python sweeps/scaling_rules.py
      digits: Adam from batch 8 to 16, 32, 64 and 128, a grid of 8 learning rates
  python sweeps/scaling_rules.py --name sgd --optimizer sgd --learning-rates 0.003 0.006 0.0125 0.025 0.05 0.1 0.2
  python sweeps/scaling_rules.py --name decay --optimizer adamw --weight-decay 0.1 --factors 4 16
"""
REFUSED = {
    "target_loss": "all settings see the same number of examples",
    "target_metric": "all settings see the same number of examples",
    "trial": "rules scale the settings of an optimizer",
    "parameter_groups": "rules scale a single learning rate",
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of `scaling_rules.py`; exits with status 2 and one line where they are wrong."""
    parser = Parser(
        prog="scaling_rules.py",
        description=(__doc__ or "").split("\n\n")[1],
        epilog=EXAMPLES,
        often=OFTEN,
        refused=REFUSED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    compared = parser.add_argument_group("what is compared")
    add_batch_sizes(compared, [8], "base batch size B", nargs=1)
    add_axis(compared, "--factors", integer(2), [2, 4, 8, 16], "multiples k of the base batch size")
    compared.add_argument(
        "--margin",
        type=number(above=0),
        metavar="X",
        help="how much a rule may lose against retuning and still count as equally good, in the metric's unit "
        "(default: 0.5 percentage points, 0.01 nats per token; no default for other metrics)",
    )
    add_axis(
        compared,
        "--seeds",
        integer(0),
        list(range(8)),
        "seeds that judge the settings, each with its own data split",
        distinct=True,
    )
    tuning = parser.add_argument_group("the tuning, the same at every batch size")
    rates = [0.0005 * 2**power for power in range(8)]
    add_axis(
        tuning,
        "--learning-rates",
        number(above=0),
        rates,
        "grid of learning rates; a geometric grid is fair to all rules",
    )
    add_axis(
        tuning,
        "--tuning-seeds",
        integer(0),
        [1000, 1001, 1002],
        "seeds that choose the settings, each with its own data split",
    )
    tuning.add_argument(
        "--validation-size",
        dest="held_out",
        type=integer(1),
        default=500,
        metavar="N",
        help="training examples held out by tuning trials, on which settings are chosen (default: %(default)s)",
    )
    add_remedies(compared, "remedies of all trials: fields joined by commas, such as average=ema")
    add_data(parser, dataset="digits")
    training = add_training(parser, f"of every trial (default: {EPOCHS})")
    add_noise_scale(training)
    training.add_argument(
        "--weight-decay",
        type=number(least=0),
        default=0.0,
        metavar="X",
        help="weight decay at batch B (default: %(default)s)",
    )
    add_run(parser, name="scaling_rules")
    parser.set_defaults(warmup_epochs=[0.0], **NOT_ASKED, **without_measures())
    options = parser.parse_args(arguments)
    _check(parser, options)
    if options.epochs is None and options.budget is None:
        options.epochs = EPOCHS
    for name in ("budget", "evaluate_every"):
        value = getattr(options, name)
        setattr(options, name, None if value is None else str(value))
    return options


def _check(parser: Parser, options: argparse.Namespace) -> None:
    check_study(parser, options)
    ((optimizer, _),) = options.optimizer
    if optimizer in LINE_SEARCH_OPTIMIZERS:
        parser.error(
            f"argument --optimizer: must be an optimizer with a learning rate and mini-batches, got {optimizer}"
        )
    if len(set(options.learning_rates)) < 2:
        parser.error("argument --learning-rates: must be two or more values to tune")
    if both := set(options.seeds) & set(options.tuning_seeds):
        parser.error(f"argument --seeds: must differ from --tuning-seeds, got {min(both)} in both")
    if options.budget is not None and options.budget.unit == "steps":
        parser.error("argument --budget: must be in examples, tokens or epochs, the same at every batch size")
    if len(options.remedies) > 1:
        parser.error("argument --remedies: must be one set of fields, such as average=ema")
    for name in ("learning_rate_scaling", "same_steps", "batch_schedule"):
        if name in options.remedies[0]:
            parser.error(f"argument --remedies: {name} cannot be used, because the rules are compared at fixed batches")
