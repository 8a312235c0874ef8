"""What the studies share that set one small batch against one large one, at a size for two cores or at the paper's.

    small  digits, 300 training images, an MLP 64-128-128-10 without batch norm, Adam at 0.006, batch 16 against the
           full batch, to a training loss of 0.001. Another dataset: at most 2000 training examples.
    paper  CIFAR-10 and C1 (F1 for MNIST, F2 for TIMIT, C3 for CIFAR-100), Adam at 0.001, batch 256 against 10 % of the
           training set, 100 epochs, 5 seeds; sharpness with batch norm on the statistics of batches of 5000 (Keskar et
           al. 2017, arXiv 1609.04836, sections 2 and appendix; its learning rate is not given, this is Adam's default).

At the small scale every trial stops at one loss: at a fixed number of epochs the final losses differ, and with them the
sharpness. Every seed has a data split of its own. Nothing heavy is imported until options are right.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeps.cli.arguments import (
    Distinct,
    add_batch_sizes,
    add_data,
    add_run,
    add_scale,
    examples,
    integer,
    number,
    run_command,
)
from trainables.runtime.errors import UserError
from trainables.runtime.options import KeyValues
from trainables.runtime.parser import Parser
from trainables.storage.folders import AnyPath

if TYPE_CHECKING:
    from trainables.config import TrialConfig
    from trainables.data import Source

OF_SCALE = "that of --scale"
SMALL_BATCH = {"small": 16, "paper": 256}
LARGE_SHARE = {"small": 1.0, "paper": 0.1}  # of the training set
LEARNING_RATE = {"small": 0.006, "paper": 0.001}
EPOCHS = {"small": 1500, "paper": 100}  # a cap at the small scale
TARGET_LOSS = {"small": 1e-3, "paper": None}
MOST_SMALL_EXAMPLES = 2000
PAPER_SEEDS = 5
PAPER_NETWORKS = {"mnist": "f1", "timit": "f2", "cifar10": "c1", "cifar100": "c3"}
SMALL_WIDTHS = [128, 128]


@dataclass(frozen=True)
class TwoBatches:
    """A study's options on its data: the two batch sizes, and the trials that it is made of."""

    options: argparse.Namespace
    source: "Source"

    @property
    def small(self) -> int:
        return self._sizes[0]

    @property
    def large(self) -> int:
        return self._sizes[1]

    @property
    def train_size(self) -> int:
        size = self.options.train_size
        if size is None and self.options.scale == "small" and self.source.default_train_size is None:
            size = min(MOST_SMALL_EXAMPLES, len(self.source.inputs) * 4 // 5)
        return self.source.sizes(size, None)[0]

    @property
    def model(self) -> str:
        default = "mlp" if self.options.scale == "small" else PAPER_NETWORKS.get(self.source.name)
        if (self.options.model or default) is None:
            raise UserError(
                f"`--model` must be given with --scale paper for {self.source.name}, because the paper has no "
                "network for it"
            )
        return str(self.options.model or default)

    @property
    def model_options(self) -> dict[str, Any]:
        default = {"widths": SMALL_WIDTHS} if self.model == "mlp" else {}
        return {**default, **dict(self.options.model_options)}

    def trials(self, *batch_sizes: int, **changes: Any) -> "list[TrialConfig]":
        """The trials at these batch sizes, one for each seed; `changes` are fields of sweeps.plan.grid.Grid."""
        from sweeps.plan.grid import ALL, Grid, expand

        options, scale = self.options, self.options.scale
        fields: dict[str, Any] = {
            "learning_rates": [options.learning_rate or LEARNING_RATE[scale]],
            "seeds": options.seeds,
            "build_timeout": options.trial_timeout,
            "epochs": options.epochs or EPOCHS[scale],
            "target_loss": options.target_loss if options.epochs else options.target_loss or TARGET_LOSS[scale],
            "train_size": self.train_size,
            "measure_examples": options.measure_examples,
        }
        if "model" not in changes:
            fields |= {"model": self.model, "model_options": self.model_options}
        if scale == "paper":
            fields |= {"measure_dtype": "float32", "measure_batch_norm": "batch"}
            fields["measure_examples"] = options.measure_examples or ALL
        return expand(Grid(batch_sizes=batch_sizes, **fields | changes), self.source)

    @property
    def _sizes(self) -> tuple[int, int]:
        from sweeps.plan.units import batch_sizes_of

        scale, given = self.options.scale, self.options.batch_sizes
        if given is None:
            given = SMALL_BATCH[scale], round(LARGE_SHARE[scale] * self.train_size)
        small, large = batch_sizes_of(given, self.source)
        if not small < large:
            raise UserError(f"`--batch-sizes` must be a small one and a larger one, got {small} {large}")
        return small, large


def run_script(
    name: str,
    about: str | None,
    arguments: Sequence[str],
    plan: Callable[[TwoBatches], "list[TrialConfig]"],
    report: Callable[[AnyPath], Sequence[str]],
    *,
    seeds: int,
    add_options: Callable[[Parser], None] = lambda parser: None,
) -> int:
    """A whole study: options, the trials of `plan`, then the lines of `report`; returns the exit status.

    `about` is the script's docstring; `seeds` how many replicates the small scale has.
    """
    options = study_parser(name, about or "", seeds, add_options).parse_args(arguments)
    options.seeds = options.seeds or list(range(seeds if options.scale == "small" else PAPER_SEEDS))
    if options.dataset == OF_SCALE:
        options.dataset = "digits" if options.scale == "small" else "cifar10"

    def run() -> int:
        from sweeps.studies.study import run_study, source_of

        source = source_of(options, options.dataset)

        def finish(folder: AnyPath, console: Any) -> None:
            console.print()
            for line in report(folder):
                console.print(line, soft_wrap=True)

        return run_study(plan(TwoBatches(options, source)), source, options, finish)

    return run_command(f"{name}.py", run)


def study_parser(name: str, about: str, seeds: int, add_options: Callable[[Parser], None]) -> Parser:
    """The command line of such a study, the one of `run_script`."""
    parser = Parser(
        prog=f"{name}.py",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_scale(parser)
    study = parser.add_argument_group("the study (defaults are those of --scale, see sweeps/studies/two_batches.py)")
    add_batch_sizes(study, nargs=2)
    study.add_argument(
        "--seeds",
        nargs="+",
        action=Distinct,
        type=integer(0),
        metavar="N",
        help=f"replicates, each with a data split of its own (default: {seeds} at the small scale, {PAPER_SEEDS} at "
        "the paper's)",
    )
    study.add_argument("--learning-rate", type=number(above=0), metavar="X", help="learning rate of both batch sizes")
    study.add_argument("--model", metavar="NAME", help="mlp, f1, f2, c1 to c4, resnet, or your package.module:function")
    study.add_argument(
        "--model-options",
        nargs="+",
        action=KeyValues,
        default={},
        metavar="KEY=VALUE",
        help="options of the model (docs/models.md)",
    )
    study.add_argument("--train-size", type=integer(1), metavar="N", help="training examples, drawn by the seed")
    study.add_argument(
        "--epochs", type=integer(1), metavar="N", help="epochs of every trial, or at most this many with --target-loss"
    )
    study.add_argument("--target-loss", type=number(above=0), metavar="X", help="stop at this training loss")
    study.add_argument(
        "--measure-examples",
        type=examples,
        metavar="N",
        help="training examples that the measures see, or all (default: in proportion to the work of training, see "
        "docs/measures.md; at the paper's scale all)",
    )
    add_options(parser)
    add_data(parser, dataset=OF_SCALE)
    add_run(parser, name=name)
    return parser
