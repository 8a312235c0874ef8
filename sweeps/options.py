"""The command line of a sweep: options in groups, each checked when it is read, errors in one line.

Nothing heavy is imported here, so `--help` answers at once.
"""

import argparse
import difflib
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from trainables.config import (
    MEASURE_BATCH_NORMS,
    MEASURE_DTYPES,
    OPTIMIZERS,
    PAPER_EVALUATION_BATCH,
    SWITCH_LEARNING_RATES,
    SWITCH_OPTIMIZER_STATES,
)

EPOCHS_CAP = 400
TARGET_LOSS = 1e-3

EXAMPLES = """\
examples:
  python sweeps/batch_grid.py
      the default study: digits, 300 training images, every trial trained to the same loss
  python sweeps/batch_grid.py --name mine --dataset mnist --download --train-size 2000 --model-options widths=256,256 \\
      --batch-sizes 16 64 200 2000 --learning-rates 0.001 --warmup-epochs 0 --switch-epochs none
      MNIST with 2000 training images: train small-batch and large-batch to the same loss
  python sweeps/batch_grid.py --name mine --resume --seeds 0 1 2 3 4 5 6 7
      the same sweep with more replicates: what is done is reused, only the new trials run
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            known = [option for action in self._actions for option in action.option_strings]
            close = difflib.get_close_matches(unknown.split()[0].split("=")[0], known, n=1)
            message = f"unknown option {unknown.split()[0]}; " + (
                f"did you mean {close[0]}?" if close else "see --help"
            )
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        sys.exit(2)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of `batch_grid.py`; exits with status 2 and one line where they are wrong."""
    options = _parser().parse_args(arguments)
    if options.epochs is None:
        options.epochs = EPOCHS_CAP
        options.target_loss = options.target_loss or TARGET_LOSS
    return options


def _parser() -> _Parser:
    parser = _Parser(
        prog="batch_grid.py",
        description="Trains a grid of batch sizes, learning rates, warmups and switch-points under Ray Tune, "
        "measures the sharpness of every minimum, and maps the generalization gap against it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    grid = parser.add_argument_group("the grid (every combination is a trial; those that mean the same run once)")
    _axis(grid, "--batch-sizes", _integer(1), [16, 32, 64, 128, 300], "examples per optimizer step")
    _axis(grid, "--learning-rates", _number(above=0), [0.003, 0.01], "peak learning rates")
    _axis(grid, "--warmup-epochs", _number(least=0), [0.0, 5.0], "epochs of linear warmup")
    _axis(
        grid,
        "--switch-epochs",
        _integer_or_none,
        [None, 5],
        "go on at the switch batch size after so many epochs, or none",
    )
    _axis(grid, "--seeds", _integer(0), [0, 1, 2, 3], "replicates: initial weights and order of the data")
    grid.add_argument(
        "--split-seeds",
        nargs="+",
        type=_integer(0),
        metavar="N",
        help="data splits, each with each seed (default: every seed has a split of its own)",
    )
    grid.add_argument(
        "--switch-batch-size", type=_integer(1), metavar="N", help="(default: the largest of --batch-sizes)"
    )
    grid.add_argument(
        "--switch-learning-rate",
        choices=SWITCH_LEARNING_RATES,
        default=SWITCH_LEARNING_RATES[0],
        help="at a switch keep the rate, or scale it by the ratio of batch sizes or its root (default: %(default)s)",
    )
    grid.add_argument(
        "--switch-optimizer-state",
        choices=SWITCH_OPTIMIZER_STATES,
        default=SWITCH_OPTIMIZER_STATES[0],
        help="at a switch start the optimizer afresh, as a warm start does, or keep its moments (default: %(default)s)",
    )

    task = parser.add_argument_group("data, model and training")
    task.add_argument(
        "--dataset",
        default="digits",
        metavar="NAME",
        help="digits, mnist, cifar10, parquet, image_folder, or your package.module:function (default: %(default)s)",
    )
    task.add_argument(
        "--data-dir",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="where its files are (default: %(default)s)",
    )
    task.add_argument("--download", action="store_true", help="fetch mnist or cifar10 into --data-dir")
    task.add_argument(
        "--train-size",
        type=_integer(1),
        metavar="N",
        help="training examples drawn by the split seed (default: all; digits 300)",
    )
    task.add_argument(
        "--test-size",
        type=_integer(1),
        metavar="N",
        help="test examples drawn by the split seed (default: all)",
    )
    task.add_argument(
        "--model",
        default="mlp",
        metavar="NAME",
        help="mlp, f1, c1, or your package.module:function (default: %(default)s)",
    )
    task.add_argument(
        "--model-options",
        nargs="+",
        type=_model_option,
        default=[],
        metavar="KEY=VALUE",
        help="such as widths=256,256 batch_norm=true for mlp",
    )
    task.add_argument("--optimizer", choices=OPTIMIZERS, default=OPTIMIZERS[0], help="(default: %(default)s)")
    task.add_argument("--momentum", type=_number(least=0), metavar="X", help="of sgd (default: 0.9)")
    task.add_argument(
        "--weight-decay",
        type=_number(least=0),
        default=0.0,
        metavar="X",
        help="L2 term in the gradient (default: %(default)s)",
    )
    task.add_argument(
        "--epochs",
        type=_integer(1),
        metavar="N",
        help=f"epochs of every trial, or the cap when --target-loss is given (default: {EPOCHS_CAP} as a cap)",
    )
    task.add_argument(
        "--target-loss",
        type=_number(above=0),
        metavar="X",
        help=f"train until the loss on all training data is at most X (default: {TARGET_LOSS:g}; none with --epochs)",
    )

    measures = parser.add_argument_group("sharpness")
    measures.add_argument(
        "--measures",
        nargs="+",
        default=[],
        metavar="NAME",
        help="beside box_sharpness and hessian_max_eig any of those in docs/measures.md, such as hessian_trace",
    )
    measures.add_argument(
        "--measure-examples",
        type=_integer(1),
        metavar="N",
        help="training examples that the measures see (default: all)",
    )
    measures.add_argument(
        "--measure-dtype", choices=MEASURE_DTYPES, default=MEASURE_DTYPES[0], help="(default: %(default)s)"
    )

    measures.add_argument(
        "--measure-batch-norm",
        choices=MEASURE_BATCH_NORMS,
        default=MEASURE_BATCH_NORMS[0],
        help="statistics of batch norm: trained, of each batch as in the paper's code, or of all data at the point "
        "(default: %(default)s)",
    )
    measures.add_argument(
        "--measure-batch-size",
        type=_integer(2),
        metavar="N",
        help=f"of --measure-batch-norm batch (default: {PAPER_EVALUATION_BATCH}, or all)",
    )

    run = parser.add_argument_group("the run")
    run.add_argument(
        "--name",
        type=_name,
        default="batch_grid",
        help="the sweep's folder in --results (default: %(default)s)",
    )
    run.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="(default: %(default)s)")
    run.add_argument(
        "--resume",
        action="store_true",
        help="go on with the sweep of this name; the grid may be wider than before",
    )
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="print the trials, their number and an estimate of the time, and run nothing",
    )
    run.add_argument("--keep-weights", action="store_true", help="keep each trial's final weights in weights/")
    run.add_argument(
        "--checkpoint-seconds",
        type=_number(least=0),
        default=10.0,
        metavar="X",
        help="at most so much training is lost when a worker dies, and an epoch or 2 s (default: %(default)g)",
    )
    run.add_argument("--address", help="a Ray cluster, such as auto (default: start Ray on this machine)")
    run.add_argument(
        "--cpus-per-trial",
        type=_integer(1),
        default=1,
        metavar="N",
        help="threads of a trial; fixed, so that numbers do not depend on it by accident (default: %(default)s)",
    )
    run.add_argument(
        "--gpus-per-trial",
        type=_number(least=0),
        metavar="X",
        help="may be a fraction (default: 1 where there is a GPU)",
    )
    run.add_argument("--no-dashboard", dest="dashboard", action="store_false", help="start Ray without its dashboard")
    return parser


def _axis(group: Any, option: str, kind: Callable[[str], Any], default: list[Any], text: str) -> None:
    shown = " ".join("none" if value is None else f"{value:g}" for value in default)
    group.add_argument(option, nargs="+", type=kind, default=default, metavar="X", help=f"{text} (default: {shown})")


def _integer(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of {least} or more, got {text}")
        return value

    return read


def _integer_or_none(text: str) -> int | None:
    if text.lower() == "none":
        return None
    try:
        return _integer(0)(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"must be none or a whole number of 0 or more, got {text}") from None


def _number(*, above: float | None = None, least: float | None = None) -> Callable[[str], float]:
    rule = f"above {above:g}" if above is not None else f"of {least:g} or more"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (above is not None and value <= above) or (least is not None and value < least):
            raise argparse.ArgumentTypeError(f"must be a number {rule}, got {text}")
        return value

    return read


def _model_option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got {text}")
    for candidate in (value, f"[{value}]"):
        try:
            return key, json.loads(candidate)
        except ValueError:
            continue
    return key, value


def _name(text: str) -> str:
    if not text or text.startswith(".") or Path(text).name != text:
        raise argparse.ArgumentTypeError(f"must be a plain folder name, got {text!r}")
    return text
