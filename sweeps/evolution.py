"""Sharpness during training, and the distance of the final weights from the start (Keskar et al. 2017, section 4).

    python sweeps/evolution.py

Small and large batch from the same first weights; box sharpness every few epochs against the training loss of that
moment, and the distance of the final weights from the start. About a minute on two cores.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeps.cli.arguments import integer, number
from sweeps.studies.two_batches import TwoBatches, run_script
from trainables.runtime.parser import Parser
from trainables.storage.folders import AnyPath

if TYPE_CHECKING:
    from trainables.config import TrialConfig

MEASURE_EVERY = {"small": (2, 4), "paper": (5, 5)}


def plan(study: TwoBatches) -> "list[TrialConfig]":
    """Both batches, measured along the run."""
    options = study.options
    if options.measure_share is not None:
        return study.trials(study.small, study.large, measure_share=options.measure_share)
    small, large = options.measure_every or MEASURE_EVERY[options.scale]
    return [*study.trials(study.small, measure_every=small), *study.trials(study.large, measure_every=large)]


def report(folder: AnyPath) -> Sequence[str]:
    from analysis.paper.evolution import report

    return report(folder)


def add_options(parser: Parser) -> None:
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--measure-every",
        nargs=2,
        type=integer(1),
        metavar=("SMALL", "LARGE"),
        help="epochs between two measurements of the small and of the large batch (default: 2 4; --scale paper: 5 5)",
    )
    either.add_argument(
        "--measure-share",
        type=number(above=0),
        metavar="X",
        help="or measure for at most this share of the training time",
    )


def main(arguments: Sequence[str]) -> int:
    """Runs the study; returns the exit status."""
    return run_script("evolution", __doc__, arguments, plan, report, seeds=8, add_options=add_options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
