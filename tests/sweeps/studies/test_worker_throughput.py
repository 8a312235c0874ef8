"""Steps and all-reduces of real workers: which are timed, and that each repeat has its own."""

import pytest

from sweeps.plan.grid import Grid, expand
from sweeps.plan.throughput import REPEATS
from sweeps.plan.worker_throughput import measure_workers
from trainables.data import Source


@pytest.mark.slow
def test_workers_are_measured(digits: Source) -> None:
    grid = Grid(
        batch_sizes=(50, 100), learning_rates=(0.01,), model_options={"widths": [8]}, epochs=1, train_size=300,
        measures=(),
    )  # fmt: skip
    found = measure_workers(expand(grid, digits), digits, [2], 2440, 0.1, threads=1)
    assert found.steps.groupby(["workers", "batch_size"]).size().to_dict() == {(2, 50): REPEATS, (2, 100): REPEATS}
    assert sorted(found.all_reduces["bytes"].unique()) == [36, 152, 608, 2440]  # 610 parameters, a quarter of them, ...
    for times in (found.steps["alone"], found.steps["seconds"], found.all_reduces["seconds"]):
        assert (times > 0).all()
    assert (found.steps["stretch"] >= 1).all()
