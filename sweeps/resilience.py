"""Does the gap persist over activation, batch norm, dropout, depth, width and optimizer (the authors' talk)?

    python sweeps/resilience.py

Each variant changes one thing from the base network and Adam, and compares the small with the large batch at the same
training loss. SGD (momentum 0.9) and Adagrad have their own learning rates: the largest of 0.01, 0.03 and 0.1 at
which both batch sizes reached the target loss in 1500 epochs, on splits outside the study and without looking at test
accuracy. About two minutes on two cores.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeps.cli.arguments import number
from sweeps.studies.two_batches import TwoBatches, run_script
from trainables.runtime.errors import UserError
from trainables.runtime.parser import Parser
from trainables.storage.folders import AnyPath

if TYPE_CHECKING:
    from trainables.config import TrialConfig

ACTIVATIONS: list[dict[str, Any]] = [{"activation": "tanh"}, {"activation": "gelu"}]
DENSE: list[dict[str, Any]] = [
    *ACTIVATIONS, {"batch_norm": False}, {"dropout": 0.3}, {"depth": 2}, {"depth": 10}, {"width": 128}, {"width": 1024},
]  # fmt: skip
CONVOLUTIONAL: list[dict[str, Any]] = [
    *ACTIVATIONS, {"batch_norm": False}, {"dropout": 0.0}, {"width": 32}, {"width": 128},
]  # fmt: skip
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "mlp": [
        *ACTIVATIONS, {"batch_norm": True}, {"dropout": 0.3},
        {"widths": [128]}, {"widths": [128] * 4}, {"widths": [32, 32]}, {"widths": [256, 256]},
    ],
    "f1": DENSE, "f2": DENSE, "c1": CONVOLUTIONAL, "c2": CONVOLUTIONAL, "c3": CONVOLUTIONAL, "c4": CONVOLUTIONAL,
}  # fmt: skip
LEARNING_RATES = {"small": {"sgd": 0.1, "adagrad": 0.1}, "paper": {"sgd": 0.01, "adagrad": 0.01}}


def plan(study: TwoBatches) -> "list[TrialConfig]":
    """The base, each variant of the network, and each other optimizer, at both batches."""
    if study.model not in VARIANTS:
        raise UserError(f"`--model` must be one of {', '.join(VARIANTS)}, got {study.model}")
    sizes = study.small, study.large
    trials = []
    for variant in [{}, *VARIANTS[study.model]]:
        trials += study.trials(*sizes, model_options={**study.model_options, **variant})
    for optimizer, rate in LEARNING_RATES[study.options.scale].items():
        own = getattr(study.options, f"{optimizer}_learning_rate")
        trials += study.trials(*sizes, optimizers=[(optimizer, {})], learning_rates=[own or rate])
    return list({trial.trial_id: trial for trial in trials}.values())


def report(folder: AnyPath) -> Sequence[str]:
    from analysis.paper.resilience import report

    return report(folder)


def add_options(parser: Parser) -> None:
    for optimizer, rate in LEARNING_RATES["small"].items():
        parser.add_argument(
            f"--{optimizer}-learning-rate",
            type=number(above=0),
            metavar="X",
            help=f"learning rate of {optimizer} (default: {rate:g}; --scale paper: "
            f"{LEARNING_RATES['paper'][optimizer]:g})",
        )


def main(arguments: Sequence[str]) -> int:
    """Runs the study; returns the exit status."""
    return run_script("resilience", __doc__, arguments, plan, report, seeds=6, add_options=add_options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
