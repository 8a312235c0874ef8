"""The paper's remedies for the large batch: which of them win back accuracy, and which find a flat minimum?

    python sweeps/paper_remedies.py

    augmentation     flips, rotations up to 10 degrees, shifts up to 0.2 of the size
    proximal         conservative training, lambda 1e-3, 3 inner steps
    weight_adversary robust training: the worst weights in an l2 ball of 0.05 (the paper gives no radius)
    input_adversary  adversarial training: inputs moved by 0.1, or 8/255 at the paper's scale, by the sign of their
                     gradient (the paper gives no size)

each on the large batch, beside plain training at the large and at the small batch. About a minute on two cores. Trap:
flips suit photographs, not digits. Other remedies: `batch_grid.py --remedies`.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeps.studies.two_batches import TwoBatches, run_script
from trainables.storage.folders import AnyPath

if TYPE_CHECKING:
    from trainables.config import TrialConfig

INPUT_ADVERSARY = {"small": 0.1, "paper": 8 / 255}


def plan(study: TwoBatches) -> "list[TrialConfig]":
    """Both batches alone, and each remedy on the large one."""
    remedies = [
        {"augmentation": "paper"},
        {"proximal": 1e-3},
        {"weight_adversary": 0.05},
        {"input_adversary": INPUT_ADVERSARY[study.options.scale]},
    ]
    return [*study.trials(study.small, study.large), *study.trials(study.large, remedies=remedies)]


def report(folder: AnyPath) -> Sequence[str]:
    from analysis.paper.paper_remedies import report

    return report(folder)


def main(arguments: Sequence[str]) -> int:
    """Runs the study; returns the exit status."""
    return run_script("paper_remedies", __doc__, arguments, plan, report, seeds=8)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
