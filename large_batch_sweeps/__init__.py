"""Large-batch sweeps from Python: run a sweep, load its results, ask its questions, draw its figures.

    import large_batch_sweeps as lbs

    results = lbs.run_sweep(name="mine", batch_sizes=[16, 64, 300], learning_rates=[0.003, 0.01], seeds=[0, 1, 2])
    results = lbs.load_sweep("results/mine")        # the same object, later
    results                                         # in a notebook: a card for each question
    results.trials, results.epochs, results.measures    # DataFrames
    lbs.free_batch(results)                         # every question, as a DataFrame with its intervals
    lbs.figures.gap_vs_sharpness(results)           # every figure, as a matplotlib Figure

The sharpness measures work on any differentiable loss and need no sweep: `lbs.sharpness`, docs/python.md.
"""

from typing import TYPE_CHECKING, Any

from analysis.stats.rank_correlation import granulated_kendall
from large_batch_sweeps import figures, paper
from large_batch_sweeps.questions import (
    association,
    averaging,
    by_batch_size,
    compare,
    critical_batch,
    free_batch,
    importance,
    leaderboard,
    remedies,
    steps_to_result,
    threshold_batch,
)
from large_batch_sweeps.results import SweepResults, load_sweep
from large_batch_sweeps.run import SweepError, run_sweep, show_options
from large_batch_sweeps.studies import (
    branched_batch,
    data_size,
    optimizer_ladder,
    scaling_rules,
    sharpness_intervention,
    time_to_result,
    tuned_gap,
)
from trainables.runtime.errors import UserError

if TYPE_CHECKING:
    from trainables import sharpness

__version__ = "0.1.0"  # pyproject.toml reads it here; CITATION.cff has the same

__all__ = [
    "SweepError",
    "SweepResults",
    "UserError",
    "association",
    "averaging",
    "branched_batch",
    "by_batch_size",
    "compare",
    "critical_batch",
    "data_size",
    "figures",
    "free_batch",
    "granulated_kendall",
    "importance",
    "leaderboard",
    "load_sweep",
    "optimizer_ladder",
    "paper",
    "remedies",
    "run_sweep",
    "scaling_rules",
    "sharpness",
    "sharpness_intervention",
    "show_options",
    "steps_to_result",
    "threshold_batch",
    "time_to_result",
    "tuned_gap",
]


def __getattr__(name: str) -> Any:
    if name == "sharpness":  # brings PyTorch, which results do not need
        from trainables import sharpness

        return sharpness
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
