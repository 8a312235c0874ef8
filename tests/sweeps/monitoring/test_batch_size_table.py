"""The table by batch size on the terminal: means, gaps and sharpness of what has ended, computed by hand."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from narrow import not_none
from rich.console import Console

from sweeps.monitoring.batch_size_table import BatchSizeTable, Cells
from trainables.config import NUMBERS_VERSION, TrialConfig

Make = Callable[..., TrialConfig]


def result(accuracy: float, sharpness: float | None = 1.0) -> dict[str, Any]:
    return {"status": "completed", "test_accuracy": accuracy, "box_sharpness": sharpness}


def assert_cells(found: Cells, expected: Cells) -> None:
    assert vars(found) == pytest.approx(vars(expected))


def configs_of(make_config: Make) -> dict[tuple[int, int], TrialConfig]:
    return {
        (size, seed): make_config(batch_size=size, seed=seed, split_seed=seed) for size in (16, 300) for seed in (0, 1)
    }


def test_the_gap_is_paired_with_the_trials_of_the_same_split(make_config: Make) -> None:
    configs = configs_of(make_config)
    switched = make_config(batch_size=16, switch_epoch=2, switch_batch_size=300)
    table = BatchSizeTable([*configs.values(), switched])
    assert table.rows() == [Cells(16, 0, 3, None, None, None), Cells(300, 0, 2, None, None, None)]
    table.add(configs[300, 1], result(0.90, 4.0))
    assert_cells(table.rows()[1], Cells(300, 1, 2, 0.90, None, 4.0))  # its reference has not ended
    table.add(configs[16, 0], result(0.97))
    assert table.rows()[1].gap is None  # of another split
    table.add(configs[16, 1], result(0.95))
    table.add(switched, result(0.10, 9.0))  # counts as done, in no mean
    assert_cells(table.rows()[0], Cells(16, 3, 3, 0.96, None, 1.0))
    assert table.rows()[1].gap == pytest.approx(0.05)
    table.add(configs[300, 0], result(0.94, 1.0))
    assert_cells(table.rows()[1], Cells(300, 2, 2, 0.92, 0.04, 2.0))


def test_the_placebo_is_in_no_mean(make_config: Make) -> None:
    plain, placebo = make_config(), make_config(rescaling=8.0)
    table = BatchSizeTable([plain, placebo])
    table.add(plain, result(0.9, 1.0))
    table.add(placebo, result(0.9, 64.0))
    (row,) = table.rows()
    assert_cells(row, Cells(32, 2, 2, 0.9, None, 1.0))


def test_trials_of_an_earlier_run_count_and_may_be_the_reference(make_config: Make) -> None:
    configs = configs_of(make_config)
    ended = [
        {**vars(configs[16, seed]), "trial_id": configs[16, seed].trial_id, "numbers_version": NUMBERS_VERSION,
         "remedy": "none", **result(0.95)}
        for seed in (0, 1)
    ]  # fmt: skip
    table = BatchSizeTable([configs[300, 0], configs[300, 1]], ended)
    table.add(configs[300, 0], result(0.93))
    table.add(configs[300, 1], {"status": "failed"})
    small, large = table.rows()
    assert (small.done, small.planned, small.gap) == (2, 2, None)
    assert (large.done, large.planned) == (2, 2)
    assert large.gap == pytest.approx(0.02)


def test_where_lower_is_better_a_higher_loss_is_a_gap(make_config: Make) -> None:
    about = {"metric": "nats", "metric_unit": "nats per token", "metric_direction": "lower", "status": "completed"}
    configs = configs_of(make_config)
    table = BatchSizeTable(configs.values())
    for (size, _), config in configs.items():
        table.add(config, {**about, "test_metric": 1.5 if size == 16 else 1.75, "test_accuracy": 0.3})
    assert table.rows()[1] == Cells(300, 2, 2, 1.75, 0.25, None)
    written = io.StringIO()
    Console(file=written, width=80, markup=False).print(table.table())
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "loss [nats" in "".join(lines[:-2])
    assert lines[-1].split() == ["300", "2/2", "1.75", "+0.25", "–"]


def test_batch_sizes_are_told_in_tokens_once_a_trial_has_ended(make_config: Make) -> None:
    configs = configs_of(make_config)
    failed = {**vars(configs[16, 0]), "trial_id": configs[16, 0].trial_id, "status": "failed", "remedy": "none",
              "numbers_version": NUMBERS_VERSION, "examples": float("nan"), "tokens": float("nan")}  # fmt: skip
    for tokens, shown in ((3200, "300 (9600 tokens)"), (None, "300")):
        table = BatchSizeTable([configs[16, 1], configs[300, 0]], [failed])
        sizes = [list(not_none(table.table()).columns[0].cells)]
        table.add(configs[300, 0], {**result(0.9), "examples": 100, "tokens": tokens})
        sizes.append(list(not_none(table.table()).columns[0].cells))
        assert [size[1] for size in sizes] == ["300", shown]
