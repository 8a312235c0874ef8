"""Is the large-batch gap an optimization issue? A test with full-batch methods and line searches (the authors' talk).

    python sweeps/optimization_issue.py

Full-batch gradient descent with a backtracking line search and full-batch L-BFGS have neither gradient noise nor a
step size to tune. If they reach a low training loss and still test worse than small-batch Adam, the training loss does
not explain the gap. Adam at the small and at the large batch is trained for comparison. About a minute on two cores.

At the paper's scale the whole training set passes the network at once. For C1 this takes more memory than most GPUs
have; --train-size 10000 reduces it to a fifth. Full-batch methods get 20 times the epochs, because each of their epochs
is a single step.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeps.studies.two_batches import EPOCHS, TwoBatches, run_script
from trainables.storage.folders import AnyPath

if TYPE_CHECKING:
    from trainables.config import TrialConfig

FIRST_STEP = 1.0  # of the line searches, which find their own
FULL_BATCH_EPOCHS = {"small": 2 * EPOCHS["small"], "paper": 20 * EPOCHS["paper"]}


def plan(study: TwoBatches) -> "list[TrialConfig]":
    """Adam at both batches, and the two full-batch methods."""
    epochs = study.options.epochs or FULL_BATCH_EPOCHS[study.options.scale]
    trials = study.trials(study.small, study.large)
    for optimizer in ("gradient_descent", "lbfgs"):
        changes: dict[str, Any] = {"optimizers": [(optimizer, {})], "learning_rates": [FIRST_STEP], "epochs": epochs}
        trials += study.trials(study.train_size, **changes)
    return trials


def report(folder: AnyPath) -> Sequence[str]:
    from analysis.paper.optimization_issue import report

    return report(folder)


def main(arguments: Sequence[str]) -> int:
    """Runs the study; returns the exit status."""
    return run_script("optimization_issue", __doc__, arguments, plan, report, seeds=8)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
