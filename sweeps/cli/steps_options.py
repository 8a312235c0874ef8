"""How many steps does each batch size need, when each is tuned for it?

For every batch size Optuna searches the setting with the fewest steps to the goals, on validation examples and with the
same number of trials. For each goal the fastest setting is then trained again with other seeds and other draws of the
training examples, and judged on the test set, so no setting is judged by the run that chose it. The answer is the curve
of steps against batch size (Shallue et al. 2019, arXiv 1811.03600), the largest useful batch size by three definitions,
and the share of settings that reach the goal.

A trial ends at the hardest goal, or at `--epochs` or `--budget`. This cap must leave enough steps for the largest batch
size, which takes the fewest steps per epoch.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from sweeps.cli.arguments import add_axis, add_batch_sizes, add_data, add_run, integer, number
from sweeps.cli.options import add_noise_scale, add_training, with_stopping, without_measures
from sweeps.cli.tuning_options import NOT_AXES, add_search
from sweeps.cli.tuning_options import REFUSED as REFUSED_BY_SEARCHES
from trainables.runtime.parser import Parser

CAP = 200  # epochs
GOALS = [0.5, 0.35]  # nats, of digits
NEVER = 10**9  # epochs before early stopping: a trial that is stopped would count as one that misses the goal
_AT_GOAL = "a trial ends at the hardest --goal"
REFUSED = REFUSED_BY_SEARCHES | {"target_loss": _AT_GOAL, "target_metric": _AT_GOAL}

OFTEN = (
    "--batch-sizes", "--goal", "--metric", "--seeds", "--learning-rate-range", "--trials", "--dataset", "--model",
    "--name", "--resume", "--dry-run",
)  # fmt: skip

EXAMPLES = """\
examples:
  python sweeps/steps_to_result.py
      digits: four batch sizes, 12 tuning trials each, to two test losses
  python sweeps/steps_to_result.py --name mine --metric accuracy --goal 0.9 0.93 --batch-sizes 16 64 300
      to test accuracies
  python sweeps/steps_to_result.py --name mine --optimizer sgd --learning-rate-range 0.001 1 --momentum-range 0 0.99
      the momentum of every batch size is searched too
  python sweeps/steps_to_result.py --resume --trials 24
      a larger search than the first one; a finished trial is never run again
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of `steps_to_result.py`; exits with status 2 and one line where they are wrong."""
    parser = Parser(
        prog="steps_to_result.py",
        description="Tune every batch size for the fewest steps to a held-out goal, train the fastest settings again\n"
        "with other seeds, and show steps against batch size and the largest useful batch.",
        epilog=EXAMPLES,
        often=OFTEN,
        refused=REFUSED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_goal_search(parser, parser.add_argument_group("what is compared"), GOALS, name="steps_to_result")
    return checked(parser, parser.parse_args(arguments))


def add_goal_search(parser: Parser, compared: Any, goals: list[float], *, name: str) -> None:
    """All options of a search for the fewest steps to `goals`, with what is compared in the group `compared`."""
    add_batch_sizes(compared, [8, 32, 128, 300])
    add_axis(compared, "--goal", number(), goals, "goals; each gets its own answer")
    compared.add_argument(
        "--metric",
        dest="objective",
        default="loss",
        metavar="NAME",
        help="quantity that the goals refer to, on held-out examples: loss, or metric for the task's primary metric, "
        "such as accuracy (default: %(default)s)",
    )
    add_axis(
        compared,
        "--seeds",
        integer(0),
        list(range(5)),
        "seeds that judge the chosen settings, each with its own data split",
        distinct=True,
    )
    compared.add_argument(
        "--margin",
        type=number(above=0),
        metavar="X",
        help="how much worse a batch size may be after the same number of examples, in the unit of the goals "
        "(default: 5 %% of the hardest goal that is reached)",
    )
    add_search(
        parser,
        "the search, the same for every batch size (LOW = HIGH fixes a value)",
        warmup_epochs=[0.0, 0.0],
        weight_decay=[0.0, 0.0],
    )
    add_data(parser, dataset="digits")
    add_noise_scale(add_training(parser, f"of every trial at most (default: {CAP})"))
    add_run(parser, name=name)
    parser.set_defaults(**NOT_AXES, remedies=[{}], grace_epochs=NEVER, **without_measures())


def checked(parser: Parser, options: argparse.Namespace) -> argparse.Namespace:
    """`options` of `add_goal_search`; exits with status 2 and one line where they are wrong."""
    if len(set(options.batch_sizes)) < 2:
        parser.error(f"argument --batch-sizes: must be two or more to compare, got {options.batch_sizes[0]}")
    if options.epochs is None and options.budget is None:
        options.epochs = CAP
    return with_stopping(options)
