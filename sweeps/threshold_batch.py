"""Accuracy and box sharpness against batch size, and the threshold beyond which accuracy falls (the paper's figure 4).

    python sweeps/threshold_batch.py
    python sweeps/threshold_batch.py --scale paper --dataset cifar10 --download    # C1; --dataset timit: F2

Batch sizes double from the first of --batch-sizes to the second: 8 to the whole set at the small scale, where every
trial is trained to the same loss; 64 to 10 % of the training set at the paper's, 100 epochs each, as there. The paper
reads a threshold of about 15000 for F2 and 500 for C1 off its figure; here it is fitted, with an interval
(analysis/threshold_batch.py). About a minute on two cores.

Trap: one learning rate serves all batch sizes, as in the paper. A large batch that would do as well at a rate of its
own looks worse than it is; `sweeps/batch_grid.py` has learning rates as an axis.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeps.studies.two_batches import TwoBatches, run_script
from trainables.storage.folders import AnyPath

if TYPE_CHECKING:
    from trainables.config import TrialConfig

SMALLEST = {"small": 8, "paper": 64}


def doublings(smallest: int, largest: int) -> list[int]:
    """smallest, 2 smallest, 4 smallest, ..., and `largest` last, at least a factor sqrt(2) beyond the one before."""
    sizes = [smallest]
    while 2 * sizes[-1] * 2**0.5 <= largest:
        sizes.append(2 * sizes[-1])
    return [*sizes, largest]


def plan(study: TwoBatches) -> "list[TrialConfig]":
    given = study.options.batch_sizes is not None
    smallest = study.small if given else min(SMALLEST[study.options.scale], study.large - 1)
    return study.trials(*doublings(smallest, study.large))


def report(folder: AnyPath) -> Sequence[str]:
    from analysis.data.load import load_sweep
    from analysis.paper.keskar_figure4 import write_figure4

    return [str(line) for line in write_figure4(load_sweep(folder))]


def main(arguments: Sequence[str]) -> int:
    """Runs the study; returns the exit status."""
    return run_script("threshold_batch", __doc__, arguments, plan, report, seeds=8)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
