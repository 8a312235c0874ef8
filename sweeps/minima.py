"""Parametric plots between SB and LB minima, and the landscape around each (Keskar et al. 2017; Li et al. 2018).

    python sweeps/minima.py
    python sweeps/minima.py --scale paper --dataset mnist --download

One small-batch and one large-batch trial per seed, their weights kept; then loss and accuracy along the line and the
arc between the two of a seed (analysis/parametric_plot.py), and around each along filter-normalized random directions
in one and two dimensions (analysis/landscape.py). Both work on the kept weights of any other sweep as well. Less than a
minute on two cores.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeps.studies.two_batches import TwoBatches, run_script
from trainables.runtime.parser import Parser
from trainables.storage.folders import AnyPath

if TYPE_CHECKING:
    from trainables.config import TrialConfig


def main(arguments: Sequence[str]) -> int:
    """Runs the study; returns the exit status."""
    place: dict[str, Any] = {}

    def plan(study: TwoBatches) -> "list[TrialConfig]":
        options = study.options
        place.update(data_dir=options.data_dir, dataset_options=dict(options.dataset_options))
        return study.trials(study.small, study.large)

    def report(folder: AnyPath) -> Sequence[str]:
        from analysis.charts.landscape import write_landscape
        from analysis.charts.parametric_plot import write_parametric_plot
        from analysis.data.load import load_sweep

        sweep = load_sweep(folder)
        return [str(line) for line in (*write_parametric_plot(sweep, **place), *write_landscape(sweep, **place))]

    def keep_weights(parser: Parser) -> None:
        parser.set_defaults(keep_weights=True)

    return run_script("minima", __doc__, arguments, plan, report, seeds=5, add_options=keep_weights)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
