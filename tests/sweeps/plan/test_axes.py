"""The first line of a dry run: how many values of what make how many trials."""

from collections.abc import Callable

from sweeps.plan.axes import axes_line
from trainables.config import TrialConfig


def test_axes_with_several_values_are_counted(make_config: Callable[..., TrialConfig]) -> None:
    configs = [
        make_config(batch_size=size, seed=seed, split_seed=seed, sam_radius=radius)
        for size in (16, 32, 64) for seed in (0, 1) for radius in (None, 0.05)
    ]  # fmt: skip
    assert axes_line(configs) == "3 batch sizes x 2 remedies x 2 seeds -> 12 distinct trials"
    assert axes_line(configs[:-1]) == "3 batch sizes x 2 remedies x 2 seeds -> 11 distinct trials"
    assert axes_line(configs[:1]) == "1 distinct trial"


def test_data_splits_are_an_axis_where_they_are_not_the_seeds(make_config: Callable[..., TrialConfig]) -> None:
    configs = [make_config(seed=seed, split_seed=split) for seed in (0, 1) for split in (5, 6, 7)]
    assert axes_line(configs) == "2 seeds x 3 data splits -> 6 distinct trials"
