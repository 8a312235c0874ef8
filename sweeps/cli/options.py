"""The command line of a sweep: options in groups, each checked when it is read, errors in one line.

Nothing heavy is imported here, so `--help` answers at once.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from sweeps.cli.arguments import (
    add_axis,
    add_batch_sizes,
    add_data,
    add_run,
    add_shifts,
    amount,
    examples,
    integer,
    integer_or_none,
    number,
)
from sweeps.cli.planning_options import add_planning
from sweeps.cli.values import NoneOrNames, Optimizers, Remedies, parameter_group, schedule
from trainables.config import (
    DEFAULT_MEASURES,
    LARGE_NETWORK,
    PRECISIONS,
    SWITCH_LEARNING_RATES,
    SWITCH_OPTIMIZER_STATES,
)
from trainables.measures.costs import LEAST_EXAMPLES, SHARE
from trainables.measuring import MEASURE_BATCH_NORMS, MEASURE_DTYPES, NOISE_SCALES, PAPER_EVALUATION_BATCH
from trainables.optimizer_settings import OF_TORCH, OPTIMIZERS
from trainables.remedies import GIVEN
from trainables.runtime.options import KeyValues
from trainables.runtime.parser import Parser

EPOCHS_CAP = 400
WARMUPS = [0.0, 5.0]  # by default those that --epochs allows
OF_EVERY_TRIAL = f"of every trial, or at most this many when a target is given (default: at most {EPOCHS_CAP})"
TARGET_LOSS = 1e-3

OFTEN = (
    "--batch-sizes", "--learning-rates", "--seeds", "--remedies", "--dataset", "--model", "--epochs", "--name",
    "--resume", "--dry-run", "--plan", "--until-decided",
)  # fmt: skip

EXAMPLES = """\
examples:
  python sweeps/batch_grid.py
      the default study: digits, 300 training images, every trial trained to the same loss
  python sweeps/batch_grid.py --name mine --dataset mnist --download --train-size 2000 --model-options widths=256,256 \\
      --batch-sizes 16 64 200 2000 --learning-rates 0.001 --warmup-epochs 0 --switch-epochs none
      MNIST with 2000 training images: train small-batch and large-batch to the same loss
  python sweeps/batch_grid.py --resume --seeds 0 1 2 3 4 5 6 7
      the default study with more replicates: finished trials are reused, only the new ones run
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of `batch_grid.py`; exits with status 2 and one line where they are wrong."""
    options = with_stopping(_parser().parse_args(arguments))
    if options.warmup_epochs is WARMUPS and options.epochs is not None:  # not given
        options.warmup_epochs = [warmup for warmup in WARMUPS if warmup <= options.epochs]
    return options


def with_stopping(options: argparse.Namespace) -> argparse.Namespace:
    """The options of `add_training` with the default: to the target loss, EPOCHS_CAP epochs at most."""
    if options.epochs is None and options.budget is None:
        options.epochs = EPOCHS_CAP
        if options.target_metric is None:
            options.target_loss = options.target_loss or TARGET_LOSS
    for name in ("budget", "evaluate_every"):
        value = getattr(options, name)
        setattr(options, name, None if value is None else str(value))
    return options


def _parser() -> Parser:
    parser = Parser(
        prog="batch_grid.py",
        description="Train a grid of batch sizes, learning rates, warmups and switch-points under Ray Tune,\n"
        "measure the sharpness of every minimum, and relate it to the large-batch gap.",
        epilog=EXAMPLES,
        often=OFTEN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    grid = parser.add_argument_group("the grid (every combination is a trial; duplicates are merged)")
    add_batch_sizes(grid, [16, 32, 64, 128, 300])
    add_axis(grid, "--learning-rates", number(above=0), [0.003, 0.01], "peak learning rates")
    warmup = grid.add_mutually_exclusive_group()
    add_axis(warmup, "--warmup-epochs", number(least=0), WARMUPS, "epochs of linear warmup from 0")
    warmup.add_argument(
        "--warmup",
        dest="warmup_epochs",
        nargs="+",
        type=amount("warmup", or_zero=True),
        default=argparse.SUPPRESS,
        metavar="AMOUNT",
        help="or warmup in steps, examples, tokens or epochs, such as 0 100steps 1Mtokens",
    )
    switch = grid.add_mutually_exclusive_group()
    switch.add_argument(
        "--switch",
        dest="switch_epochs",
        nargs="+",
        type=amount("switch", or_none=True),
        default=argparse.SUPPRESS,
        metavar="AMOUNT",
        help="switch after steps, examples, tokens or epochs, even within an epoch, such as none 500steps",
    )
    add_axis(
        switch,
        "--switch-epochs",
        integer_or_none,
        [None, 5],
        "continue at --switch-batch-size after so many epochs, or none",
    )
    add_axis(
        grid,
        "--seeds",
        integer(0),
        [0, 1, 2, 3],
        "replicates: initial weights, order of the data, and data split (but see --split-seeds)",
    )
    grid.add_argument(
        "--split-seeds",
        nargs="+",
        type=integer(0),
        metavar="N",
        help="seeds of the data splits; every seed is trained on every split (default: one split per seed)",
    )
    switched = grid.add_mutually_exclusive_group()
    switched.add_argument(
        "--switch-batch-size",
        type=integer(1),
        metavar="N",
        help="batch size after the switch (default: the largest of --batch-sizes)",
    )
    switched.add_argument(
        "--switch-batch-tokens",
        type=integer(1),
        metavar="N",
        help="or tokens per optimizer step after the switch",
    )
    grid.add_argument(
        "--switch-learning-rate",
        choices=SWITCH_LEARNING_RATES,
        default=SWITCH_LEARNING_RATES[0],
        help="at a switch keep the learning rate, or scale it by the ratio of the batch sizes or its square root "
        "(default: %(default)s)",
    )
    grid.add_argument(
        "--switch-optimizer-state",
        choices=SWITCH_OPTIMIZER_STATES,
        default=SWITCH_OPTIMIZER_STATES[0],
        help="at a switch reset the optimizer, as a warm start does, or keep its moments (default: %(default)s)",
    )

    add_remedies(grid)
    add_data(parser, dataset="digits")
    training = add_training(parser, is_grid=True)
    training.add_argument(
        "--weight-decay",
        type=number(least=0),
        default=0.0,
        metavar="X",
        help="weight decay: an L2 term in the gradient; adamw, muon and adafactor decay the weights directly, except "
        "biases and norms (default: %(default)s)",
    )
    training.add_argument(
        "--validation-size",
        dest="held_out",
        type=integer(1),
        metavar="N",
        help="hold out N training examples and evaluate on them instead of the test set",
    )
    add_sharpness(parser)
    add_planning(parser)
    add_run(parser, name="batch_grid")
    return parser


TO_COMPARE = (
    "remedies to compare: none, or fields joined by commas, such as none sam_radius=0.05 "
    "ghost_batch_size=16,learning_rate_scaling=sqrt"
)


def add_remedies(group: Any, text: str = TO_COMPARE) -> None:
    """`--remedies`, as a list of sets of fields; `text`: what for, with an example."""
    group.add_argument(
        "--remedies",
        nargs="+",
        action=Remedies,
        default=[{}],
        metavar="FIELD=VALUE,...",
        help=f"{text}; the fields: {', '.join(GIVEN)} (docs/remedies.md)",
    )


def add_training(parser: Parser, epochs: str = OF_EVERY_TRIAL, *, is_grid: bool = False) -> Any:
    """The options of model and training that all trials share; returns their group.

    `epochs`: whose and how many. `is_grid`: of a script that takes several optimizers.
    """
    further = "; each further name adds an optimizer to the grid: adamw betas=0.9,0.95 sgd" if is_grid else ""
    task = parser.add_argument_group("model and training")
    task.add_argument(
        "--train-size",
        type=integer(1),
        metavar="N",
        help="training examples drawn by the split seed (default: all; digits 300)",
    )
    task.add_argument(
        "--test-size",
        type=integer(1),
        metavar="N",
        help="test examples drawn by the split seed (default: all)",
    )
    task.add_argument(
        "--trial",
        metavar="package.module:Class",
        help="train with your own step instead of the gradient of a loss (docs/own-step.md)",
    )
    task.add_argument(
        "--model",
        default="mlp",
        metavar="NAME",
        help="mlp, f1, f2, c1, c2, c3, c4, resnet, vit, lstm, gpt, seq2seq, noisy_quadratic, torchvision:NAME, "
        "timm:NAME, hf:FOLDER, or your package.module:function (default: %(default)s; docs/models.md)",
    )
    task.add_argument(
        "--model-options",
        nargs="+",
        action=KeyValues,
        default={},
        metavar="KEY=VALUE",
        help="options of the model, such as widths=256,256 batch_norm=true for mlp (docs/models.md)",
    )
    task.add_argument(
        "--optimizer",
        nargs="+",
        action=Optimizers,
        default=[(OPTIMIZERS[0], {})],
        metavar="NAME [KEY=VALUE ...]",
        help=f"{', '.join((*OPTIMIZERS, *OF_TORCH))}, or your package.module:Class, followed by its options, such as "
        f"adamw betas=0.9,0.95{further} (default: {OPTIMIZERS[0]}; docs/optimizers.md)",
    )
    task.add_argument(
        "--parameter-groups",
        nargs="+",
        type=parameter_group,
        default=[],
        metavar="PATTERN:KEY=VALUE,...",
        help="options of the parameters whose names match, such as 'head.*:lr=10x,weight_decay=0' '*.bias:lr=2x'; the "
        "first pattern that matches counts",
    )
    task.add_argument("--momentum", type=number(least=0), metavar="X", help="momentum of sgd (default: 0.9)")
    length = task.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs",
        type=integer(1),
        metavar="N",
        help=f"epochs {epochs}",
    )
    length.add_argument(
        "--budget",
        type=amount("budget"),
        metavar="AMOUNT",
        help="or the same in steps, examples, tokens or epochs, such as 1000steps or 2Mtokens (k, M, B: thousands, "
        "millions, billions)",
    )
    task.add_argument(
        "--evaluate-every",
        type=amount("evaluate-every"),
        metavar="AMOUNT",
        help="evaluate and log after every so many steps, examples, tokens or epochs, such as 100steps, and at the end "
        "(default: after every epoch; a large test set less often)",
    )
    task.add_argument(
        "--schedule",
        type=schedule,
        default={},
        metavar="NAME",
        help="learning-rate schedule after the warmup: constant, cosine, linear, wsd (warmup-stable-decay), step, or "
        "your package.module:function of the progress in [0, 1]; with options such as "
        "wsd,decay_share=0.1,decay_floor=0.01 or step,decay_epochs=30,60 (default: constant)",
    )
    task.add_argument(
        "--target-loss",
        type=number(above=0),
        metavar="X",
        help=f"train until the loss on all training data is at most X (default: {TARGET_LOSS:g}; none with --epochs)",
    )
    task.add_argument(
        "--target-metric",
        type=number(),
        metavar="X",
        help="train until the task's primary metric reaches X, such as an accuracy of 0.95, on the validation examples "
        "(--validation-size) or, without them, on the test set",
    )
    task.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="precision of training: bfloat16 uses autocast, which is faster with convolutions and on GPUs; evaluation "
        "and measures are not affected (default: %(default)s)",
    )
    return task


def add_noise_scale(group: Any) -> None:
    """`--noise-scale`, for trials with or without other measures."""
    group.add_argument(
        "--noise-scale",
        choices=NOISE_SCALES,
        help="track the gradient noise scale of the training steps, from the normalization layers only (cheap) or from "
        "all layers (default: off)",
    )


def add_sharpness(parser: Parser) -> None:
    """What is measured, and how."""
    measures = parser.add_argument_group("sharpness")
    add_noise_scale(measures)
    measures.add_argument(
        "--measures",
        nargs="+",
        action=NoneOrNames,
        default=list(DEFAULT_MEASURES),
        metavar="NAME",
        help="what to measure: none, or names from docs/measures.md, such as hessian_trace "
        f"(default: {' '.join(DEFAULT_MEASURES)})",
    )
    add_shifts(measures)
    measures.add_argument(
        "--measure-every", type=integer(1), metavar="N", help="also measure during training, after every N epochs"
    )
    measures.add_argument(
        "--measure-share",
        type=number(above=0),
        metavar="X",
        help="or measure during training for at most this share of the training time, such as 0.1 (at least once)",
    )
    measures.add_argument(
        "--measure-examples",
        type=examples,
        metavar="N",
        help="measure on N training examples, or all (default: as many as keep the default measures within "
        f"{100 * SHARE:g} %% of the work of training, and at least {LEAST_EXAMPLES})",
    )
    measures.add_argument(
        "--measure-dtype",
        choices=MEASURE_DTYPES,
        default=MEASURE_DTYPES[0],
        help="precision of the measures; auto: float32 for networks of at least "
        f"{LARGE_NETWORK:,} parameters if it agrees with float64, otherwise float64 (default: %(default)s)",
    )
    measures.add_argument(
        "--measure-batch-norm",
        choices=MEASURE_BATCH_NORMS,
        default=MEASURE_BATCH_NORMS[0],
        help="statistics of batch norm in measures: the trained ones, those of each batch (as in the paper's code), or "
        "those of all data at the measured point (default: %(default)s)",
    )
    measures.add_argument(
        "--measure-batch-size",
        type=integer(2),
        metavar="N",
        help=f"batch size for --measure-batch-norm batch (default: {PAPER_EVALUATION_BATCH}, or all)",
    )


NOT_ASKED: dict[str, Any] = {  # axes of batch_grid.py in studies of fixed batches without a switch, a split per seed
    "switch_epochs": [None],
    "switch_batch_size": None,
    "switch_batch_tokens": None,
    "switch_learning_rate": "keep",
    "switch_optimizer_state": "reset",
    "split_seeds": None,
}


def check_study(parser: Parser, options: argparse.Namespace) -> None:
    """One line and exit status 2 where a study of one optimizer over replicates has more or fewer."""
    names = [name for name, _ in options.optimizer]
    if len(names) > 1:
        parser.error(f"argument --optimizer: must be one, got {' '.join(names)}")
    if len(set(options.seeds)) < 2:
        parser.error("argument --seeds: must be two or more, because intervals are over replicates")


def without_measures() -> dict[str, Any]:
    """What the options of `add_sharpness` are where nothing is measured."""
    parser = Parser(allow_abbrev=False)
    add_sharpness(parser)
    return vars(parser.parse_args(["--measures", "none"]))
