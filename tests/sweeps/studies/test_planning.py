"""`--plan`: how many trials run side by side, which its times are divided by."""

import pytest

from sweeps.studies.planning import trials_at_once


@pytest.mark.parametrize(
    ("cpus", "gpus", "cpus_per_trial", "gpus_per_trial", "workers", "expected"),
    [
        (2, 0, 1, None, 1, 2),
        (2, 0, 0.5, None, 1, 4),
        (1, 0, 2, None, 1, 1),  # at least one
        (8, 0, 1, 0, 3, 2),
        (64, 8, 1, None, 1, 8),  # a GPU each
        (64, 8, 1, 0, 1, 64),
        (64, 8, 1, 2, 1, 4),
        (64, 8, 1, 0.5, 1, 16),
        (64, 8, 1, 0.1, 1, 64),  # 80 by GPUs
        (64, 2, 1, 0.3, 1, 6),  # three on each, none on two
        (64, 8, 1, 1, 4, 2),
        (3, 8, 1, 1, 1, 3),
    ],
)
def test_trials_at_once(
    cpus: int, gpus: int, cpus_per_trial: float, gpus_per_trial: float | None, workers: int, expected: int
) -> None:
    found = trials_at_once(
        cpus, gpus, cpus_per_trial=cpus_per_trial, gpus_per_trial=gpus_per_trial, workers_per_trial=workers
    )
    assert found == expected
