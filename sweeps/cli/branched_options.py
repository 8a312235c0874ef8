"""How large may the batch be at each moment of the training?

Trains a trunk at a small batch size, one run per seed. At several points branches continue it at 2, 4, 8, ... times the
batch size, for the same number of examples each and with a scaled learning rate (Merrill et al. 2025, arXiv
2505.23971). The answer is the largest batch size at each branch point that is shown to be no worse than the trunk, and
the batch schedule that follows.
"""

import argparse
from collections.abc import Sequence

from sweeps.cli.arguments import add_axis, add_batch_sizes, add_data, add_run, amount, integer, number
from sweeps.cli.options import NOT_ASKED, add_noise_scale, add_training, check_study, without_measures
from trainables.config import SWITCH_LEARNING_RATES
from trainables.runtime.parser import Parser
from trainables.units import Amount

OFTEN = (
    "--batch-size", "--learning-rate", "--seeds", "--branch-at", "--window", "--factors", "--margin",
    "--run-schedule", "--dataset", "--model", "--optimizer", "--budget", "--name", "--resume", "--dry-run",
)  # fmt: skip

EXAMPLES = """\
examples:
  python sweeps/branched_batch.py
      digits: a trunk at batch 8, branches of 2 epochs after 1, 2, 4 and 8 epochs, 8 seeds
  python sweeps/branched_batch.py --resume --run-schedule
      then the proposed schedule against a constant small and large batch and Seesaw, with fresh seeds
  python sweeps/branched_batch.py --name text --dataset text --data-dir DIR --model gpt --optimizer adamw \\
      --branch-at 100steps 400steps 1600steps --window 20000tokens --margin 0.02
"""
_ALIKE = "all branches have the same length and a constant learning rate"
REFUSED = dict.fromkeys(("target_loss", "target_metric", "schedule"), _ALIKE)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of `branched_batch.py`; exits with status 2 and one line where they are wrong."""
    parser = Parser(
        prog="branched_batch.py",
        description=(__doc__ or "").split("\n\n")[1],
        epilog=EXAMPLES,
        often=OFTEN,
        refused=REFUSED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    trunk = parser.add_argument_group("the trunk")
    add_batch_sizes(trunk, [8], "batch size of the trunk", nargs=1)
    trunk.add_argument(
        "--learning-rate",
        type=number(above=0),
        default=0.003,
        metavar="X",
        help="learning rate of the trunk (default: 0.003)",
    )
    trunk.add_argument(
        "--warmup",
        dest="warmup_epochs",
        type=amount("warmup", or_zero=True),
        default=0.0,
        metavar="AMOUNT",
        help="linear warmup of the learning rate, such as 100steps (default: none)",
    )
    add_axis(
        trunk, "--seeds", integer(0), list(range(8)), "replicates, each with a data split of its own", distinct=True
    )
    branches = parser.add_argument_group("the branches (amounts in steps of the trunk, examples, tokens or epochs)")
    branches.add_argument(
        "--branch-at",
        nargs="+",
        type=amount("branch-at"),
        default=[Amount(epochs, "epochs") for epochs in (1, 2, 4, 8)],
        metavar="AMOUNT",
        help="where branches leave the trunk (default: 1epochs 2epochs 4epochs 8epochs)",
    )
    branches.add_argument(
        "--window",
        type=amount("window"),
        default=Amount(2, "epochs"),
        metavar="AMOUNT",
        help="length of each branch, the same at every batch size (default: 2epochs)",
    )
    add_axis(
        branches, "--factors", integer(2), [2, 4, 8, 16], "batch sizes of the branches, as multiples of the trunk's"
    )
    branches.add_argument(
        "--scale-learning-rate",
        choices=SWITCH_LEARNING_RATES,
        help="learning rate of the branches: kept, multiplied by the square root of the factor, or by the factor "
        "(default: linear for sgd, sqrt for all other optimizers)",
    )
    branches.add_argument(
        "--margin",
        type=number(above=0),
        metavar="X",
        help="largest excess of the held-out loss that counts as no worse (default: 0.01 nats)",
    )
    branches.add_argument(
        "--run-schedule",
        action="store_true",
        help="afterwards train with the proposed schedule, at constant batch sizes and with Seesaw, for --epochs or "
        "--budget (default: as long as the trunk), with the same number of fresh seeds",
    )
    add_data(parser, dataset="digits")
    training = add_training(parser, "of each training of --run-schedule (default: as long as the trunk)")
    add_noise_scale(training)
    training.add_argument(
        "--weight-decay", type=number(least=0), default=0.0, metavar="X", help="weight decay (default: %(default)s)"
    )
    training.add_argument(
        "--validation-size",
        dest="held_out",
        type=integer(1),
        metavar="N",
        help="hold out N training examples and compare their loss instead of the test loss",
    )
    add_run(parser, name="branched_batch")
    parser.set_defaults(remedies=[{}], **NOT_ASKED, **without_measures())
    options = parser.parse_args(arguments)
    for name in ("epochs", "budget"):
        if getattr(options, name) and not options.run_schedule:
            parser.error(
                f"argument --{name}: has no effect without --run-schedule; --window sets the length of the branches"
            )
    check_study(parser, options)
    options.learning_rates = [options.learning_rate]
    options.warmup_epochs = [options.warmup_epochs]
    return options
