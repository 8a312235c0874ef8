"""Warm starts: small-batch training for some epochs, then large-batch training to the end (the paper's figure 5).

    python sweeps/warm_start.py

Final accuracy and box sharpness of the large batch against the epoch at which it took over, beside the small and the
large batch alone. The small-batch run is done once per seed; the runs that switch start from the states it left. About
a minute on two cores.

The paper gives each large-batch run 100 epochs after its switch; here all trials of the paper's scale have 200 in all,
so that they can be compared. Its states of C1 take 20 MB each, 10 GB until the sweep is complete.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeps.cli.arguments import integer
from sweeps.studies.two_batches import TwoBatches, run_script
from trainables.runtime.parser import Parser
from trainables.storage.folders import AnyPath

if TYPE_CHECKING:
    from trainables.config import TrialConfig

SWITCH_EPOCHS = {"small": [1, 2, 4, 8, 12, 16], "paper": list(range(1, 101))}
PAPER_EPOCHS = 200


def plan(study: TwoBatches) -> "list[TrialConfig]":
    """Both batches alone, then the small one that gives way to the large one after each of the switch epochs."""
    options = study.options
    switches = options.switch_epochs or SWITCH_EPOCHS[options.scale]
    epochs = {"epochs": PAPER_EPOCHS} if options.scale == "paper" and options.epochs is None else {}
    alone = study.trials(study.small, study.large, **epochs)
    switched = study.trials(study.small, switch_epochs=switches, switch_batch_size=study.large, **epochs)
    return [*alone, *(trial for trial in switched if trial.switch_epoch is not None)]


def report(folder: AnyPath) -> Sequence[str]:
    from analysis.paper.warm_start import report

    return report(folder)


def add_options(parser: Parser) -> None:
    parser.add_argument(
        "--switch-epochs",
        nargs="+",
        type=integer(1),
        metavar="N",
        help="small-batch epochs before the switch (default: 1 2 4 8 12 16; --scale paper: 1 to 100)",
    )


def main(arguments: Sequence[str]) -> int:
    """Runs the study; returns the exit status."""
    return run_script("warm_start", __doc__, arguments, plan, report, seeds=8, add_options=add_options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
