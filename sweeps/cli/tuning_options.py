"""Does the large-batch gap remain when every batch size is tuned separately?

A large batch compared at a small batch's learning rate proves nothing (Shallue et al. 2019, arXiv 1811.03600). Here
Optuna searches learning rate, warmup and weight decay of every batch size (and remedy) on validation examples, each
with the same budget and the same ranges; the best of each is then trained again with fresh seeds and fresh draws of the
training examples, and tested once. The answer is the gap with each batch size at its own best, beside the gap with all
at the small batch's best.

What is equal: the ranges, the first 8 points, and the number of tuning trials of every batch size and remedy, each with
the same cap of epochs and the same target loss; or, with `--budget-steps`, the optimizer steps they may take in all.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from sweeps.cli.arguments import add_axis, add_batch_sizes, add_data, add_run, amount, integer, number
from sweeps.cli.options import NOT_ASKED, add_remedies, add_sharpness, add_training, with_stopping
from trainables.runtime.parser import Parser

OFTEN = (
    "--batch-sizes", "--remedies", "--seeds", "--learning-rate-range", "--trials", "--dataset", "--model", "--name",
    "--resume", "--dry-run",
)  # fmt: skip

EXAMPLES = """\
examples:
  python sweeps/tuned_gap.py
      digits: batch sizes 16, 64 and 300, 12 tuning trials each, 8 fresh seeds
  python sweeps/tuned_gap.py --name mine --batch-sizes 16 300 --remedies none sam_radius=0.05
      is a remedy still worth something when plain training is tuned as hard?
  python sweeps/tuned_gap.py --name mine --optimizer sgd --learning-rate-range 0.001 1 --momentum-range 0 0.99
      the momentum of every batch size is searched too
  python sweeps/tuned_gap.py --resume --trials 24
      a larger search than the first one; a finished trial is never run again
  optuna-dashboard sqlite:///results/tuned_gap/optuna.db
      the studies in a browser, even while they run (pip install optuna-dashboard)
"""

WARMUP_RANGE = [0.0, 10.0]  # by default as far as --epochs allows
NOT_AXES = NOT_ASKED | {  # axes of batch_grid.py that a search sets itself, or that have no meaning there
    "held_out": None,
    "learning_rates": [1.0],
    "warmup_epochs": [0.0],
    "weight_decay": 0.0,
}
REFUSED = {"workers_per_trial": "a trial of a search runs in one worker"}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of `tuned_gap.py`; exits with status 2 and one line where they are wrong."""
    parser = Parser(
        prog="tuned_gap.py",
        description="Tune every batch size separately on validation examples, train the best settings again with\n"
        "fresh seeds, and show how much of the large-batch gap remains.",
        epilog=EXAMPLES,
        often=OFTEN,
        refused=REFUSED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    compared = parser.add_argument_group("what is compared")
    add_batch_sizes(compared, [16, 64, 300])
    add_remedies(compared)
    add_axis(
        compared,
        "--seeds",
        integer(0),
        list(range(8)),
        "seeds of the retraining, each with its own data split",
        distinct=True,
    )
    search = add_search(
        parser,
        "the search, the same for every batch size and remedy (LOW = HIGH fixes a value)",
        warmup_epochs=WARMUP_RANGE,
        weight_decay=[1e-7, 1e-4],
    )
    search.add_argument(
        "--objective",
        metavar="NAME",
        default="metric",
        help="choose settings by the final loss or metric on the validation examples; metric is the task's primary "
        "metric, such as accuracy, and ties go to the lower loss (default: %(default)s)",
    )
    search.add_argument(
        "--grace-epochs",
        type=integer(1),
        default=20,
        metavar="N",
        help="early stopping decides after N, 2N, 4N, ... epochs; an N above --epochs turns it off (default: "
        "%(default)s)",
    )
    add_data(parser, dataset="digits")
    add_training(parser)
    add_sharpness(parser)
    add_run(parser, name="tuned_gap")
    parser.set_defaults(**NOT_AXES)
    options = with_stopping(parser.parse_args(arguments))
    if options.warmup_epochs_range is WARMUP_RANGE and options.epochs is not None:  # not given
        options.warmup_epochs_range = [min(warmup, options.epochs) for warmup in WARMUP_RANGE]
    return options


def add_search(parser: Parser, title: str, *, warmup_epochs: list[float], weight_decay: list[float]) -> Any:
    """The options of an Optuna study for each batch size, with the default ranges; returns their group."""
    search = parser.add_argument_group(title)
    share = number(least=0, below=1)
    ranges: list[tuple[str, Any, list[float] | None, str]] = [
        ("--learning-rate-range", number(above=0), [0.0003, 0.1], "learning rate, log-uniform"),
        ("--weight-decay-range", number(least=0), weight_decay, "weight decay, log-uniform; 0 0 for none"),
        ("--momentum-range", share, None, "momentum of sgd and other optimizers with one, log-uniform in 1 - momentum"),
        ("--beta1-range", share, None, "beta1 of Adam and related optimizers, log-uniform in 1 - beta1"),
        ("--beta2-range", share, None, "the same for beta2"),
    ]
    warmup = search.add_mutually_exclusive_group()
    warmup.add_argument(
        "--warmup-epochs-range",
        nargs=2,
        type=number(least=0),
        default=warmup_epochs,
        metavar=("LOW", "HIGH"),
        help=f"warmup, uniform (default: {' '.join(f'{value:g}' for value in warmup_epochs)})",
    )
    warmup.add_argument(
        "--warmup-range",
        dest="warmup_epochs_range",
        nargs=2,
        type=amount("warmup-range", or_zero=True),
        default=argparse.SUPPRESS,
        metavar=("LOW", "HIGH"),
        help="or warmup in steps, examples, tokens or epochs, such as 0 200steps",
    )
    for name, kind, default, text in ranges:
        shown = "not searched" if default is None else " ".join(f"{value:g}" for value in default)
        search.add_argument(
            name, nargs=2, type=kind, default=default, metavar=("LOW", "HIGH"), help=f"{text} (default: {shown})"
        )
    budget = search.add_mutually_exclusive_group()
    budget.add_argument(
        "--trials",
        type=integer(1),
        default=12,
        metavar="N",
        help="number of tuning trials in each study (default: %(default)s)",
    )
    budget.add_argument(
        "--budget-steps",
        type=integer(1),
        metavar="N",
        help="or the optimizer steps of each study: no round of trials starts once N steps are done",
    )
    search.add_argument(
        "--validation-size",
        type=integer(1),
        default=500,
        metavar="N",
        help="training examples held out in tuning trials (default: %(default)s)",
    )
    search.add_argument(
        "--tuning-seed",
        type=integer(0),
        default=1000,
        metavar="N",
        help="seed of the search, and seed and split of all tuning trials (default: %(default)s)",
    )
    search.add_argument(
        "--round-size",
        type=integer(1),
        default=4,
        metavar="N",
        help="trials that a study proposes at once; results depend on this number, not on how many run in parallel "
        "(default: %(default)s)",
    )
    search.add_argument(
        "--storage",
        metavar="URL",
        help="storage of the Optuna studies, such as postgresql://user@host/db (default: SQLite file optuna.db in the "
        "results folder)",
    )
    return search
