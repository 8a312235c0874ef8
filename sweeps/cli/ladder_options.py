"""Which optimizer makes use of large batches?

Every optimizer is tuned at every batch size: Optuna searches the learning rate that takes the fewest steps to a
held-out goal, with the same number of trials for each. Other seeds then judge the fastest settings on the test set. The
answer is the curve of steps against batch size, the critical batch size and the time of each optimizer.

A name of an optimizer is followed by what makes this entry of the ladder: options of the optimizer, fields of remedies
(docs/remedies.md), `momentum` of sgd, and the ranges in which hyperparameters are searched: `lr=LOW,HIGH`, and
`momentum=LOW,HIGH`, `beta1=LOW,HIGH` or `beta2=LOW,HIGH` of an optimizer that has them.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.cli.arguments import number
from sweeps.cli.steps_options import REFUSED as REFUSED_BY_GOALS
from sweeps.cli.steps_options import add_goal_search, checked
from sweeps.cli.values import Optimizers
from trainables.optimizer_settings import FULL_BATCH_OPTIMIZERS, MOMENTS, PROGRESSIVE
from trainables.remedies import GIVEN, read_remedy
from trainables.runtime.errors import UserError
from trainables.runtime.parser import Parser

GOALS = [0.35]  # nats, of digits
DEFAULT: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {}),
    ("sgd", {"svrg_every": "1epochs"}),
    ("adamw", {}),
    ("muon", {}),
]
TIMES = {"sgd": 10.0, "muon": 10.0, PROGRESSIVE: 30.0}  # the range of rates that suits these, relative to Adam's
_TIMES = " and ".join(f"{times:g} for {name}" for name, times in TIMES.items())
REFUSED = REFUSED_BY_GOALS | {
    "momentum": "it follows the name of an optimizer: --optimizer sgd momentum=0.9",
    "trial": "optimizers are compared",
    "parameter_groups": "they are about the options of one optimizer",
    **{f"{name}_range": f"it follows the name of an optimizer: {name}=LOW,HIGH" for name in MOMENTS},
}

OFTEN = (
    "--optimizer", "--batch-sizes", "--goal", "--metric", "--seeds", "--learning-rate-range", "--trials", "--dataset",
    "--model", "--name", "--resume", "--dry-run",
)  # fmt: skip

EXAMPLES = """\
examples:
  python sweeps/optimizer_ladder.py
      digits: SGD with momentum, with variance-reduced gradients too, AdamW and Muon at four batch sizes
  python sweeps/optimizer_ladder.py --name mine --optimizer sgd lr=0.01,3 sgd momentum=0 adamw betas=0.9,0.95 \\
      adamw sam_radius=0.05
      with a range of its own, options, and a remedy
  python sweeps/optimizer_ladder.py --name mine --optimizer sgd momentum=0,0.99 adamw beta1=0.5,0.99 beta2=0.9,0.9999
      momentum and betas are searched beside the learning rate
  python sweeps/optimizer_ladder.py --name mine --optimizer adamw progressive_lbfgs memory=10 theta=0.9
      against L-BFGS on batches that grow from each batch size
  python sweeps/optimizer_ladder.py --resume --trials 24
      a larger search than the first one; a finished trial is never run again
"""


@dataclass(frozen=True)
class Rung:
    """An entry of the ladder; `words` is how it was given, its name. `ranges`: of its own, by hyperparameter."""

    words: str
    optimizer: str
    options: Mapping[str, Any]
    momentum: float | None
    remedy: Mapping[str, Any]
    ranges: Mapping[str, tuple[float, float]]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of `optimizer_ladder.py`, with `rungs`; exits with status 2 and one line where they are wrong."""
    parser = Parser(
        prog="optimizer_ladder.py",
        description=(__doc__ or "").split("\n\n")[1],
        epilog=EXAMPLES,
        often=OFTEN,
        refused=REFUSED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        conflict_handler="resolve",  # --optimizer takes the place of that of one training
    )
    compared = parser.add_argument_group("what is compared")
    add_goal_search(parser, compared, GOALS, name="optimizer_ladder")
    compared.add_argument(
        "--optimizer",
        nargs="+",
        action=Optimizers,
        default=DEFAULT,
        metavar="NAME [KEY=VALUE ...]",
        help="each name begins an entry, with options of the optimizer, remedies, momentum=X of sgd, lr=LOW,HIGH "
        f"(default range: --learning-rate-range, times {_TIMES}), and ranges of momentum, "
        "beta1 and beta2 (default: not searched); default: "
        f"{' '.join(_words(*entry) for entry in DEFAULT)}",
    )
    options = checked(parser, parser.parse_args(arguments))
    try:
        options.rungs = [_rung(name, given, options.learning_rate_range) for name, given in options.optimizer]
    except UserError as error:
        parser.error(f"argument --optimizer: {error}")
    names = [rung.words for rung in options.rungs]
    if twice := [name for name in names if names.count(name) > 1]:
        parser.error(f"argument --optimizer: must be different entries, got {twice[0]} twice")
    if len(names) < 2:
        parser.error(f"argument --optimizer: must be two or more to compare, got {names[0]}")
    options.optimizer = [(options.rungs[0].optimizer, options.rungs[0].options)]
    return options


def _rung(name: str, given: Mapping[str, Any], common: Sequence[float]) -> Rung:
    if name in FULL_BATCH_OPTIMIZERS:
        raise UserError(f"{name} takes the whole training set at each step; choose optimizers that take batches")
    low, high = (TIMES.get(name, 1.0) * end for end in common)
    ranges = {"learning_rate": (low, high)}
    options, remedies, momentum = {}, [], None
    for key, value in given.items():
        if key == "lr":
            ranges["learning_rate"] = _range(value)
        elif key in MOMENTS and isinstance(value, list):
            ranges[key] = _range_of_moment(key, value)
        elif key == "momentum" and name == "sgd":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"momentum of sgd must be a number, got {value}")
            momentum = float(value)
        elif key in GIVEN:
            remedies.append(f"{key}={_text(value)}")
        else:
            options[key] = value
    return Rung(_words(name, given), name, options, momentum, read_remedy(",".join(remedies) or "none"), ranges)


def _words(name: str, given: Mapping[str, Any]) -> str:
    return " ".join([name, *(f"{key}={_text(value)}" for key, value in given.items() if key != "lr")])


def _range(value: object) -> tuple[float, float]:
    ends = value if isinstance(value, list) else []
    if len(ends) != 2 or not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        raise UserError(f"lr must be a range LOW,HIGH of learning rates to search, got {_text(value)}")
    if not 0 < ends[0] <= ends[1] < float("inf"):
        raise UserError(f"lr must be LOW,HIGH with 0 < LOW <= HIGH, got {_text(value)}")
    return float(ends[0]), float(ends[1])


def _range_of_moment(name: str, ends: list[object]) -> tuple[float, float]:
    try:
        low, high = map(number(least=0, below=1), map(str, ends))
    except (ValueError, argparse.ArgumentTypeError):
        low, high = 1.0, 0.0
    if low > high:
        raise UserError(f"{name} must be a range LOW,HIGH with 0 <= LOW <= HIGH < 1, got {_text(ends)}")
    return low, high


def _text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
