"""Batch sizes and amounts of data in tokens: when they are known, and that answers and figures of one law say them."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import grid, law
from matplotlib.text import Text

from analysis.charts.batch_size_curves import batch_size_curves
from analysis.charts.critical_batch import critical_batch_figure
from analysis.charts.data_size import data_size_figure
from analysis.charts.time_to_result import time_to_result_figure
from analysis.data.batch_unit import EXAMPLES, BatchUnit, batch_unit_of
from analysis.data.load import Sweep, load_sweep
from analysis.data.replicates import Estimate
from analysis.data.runs import read_results
from analysis.questions.critical_batch import critical_batch_sentence
from analysis.questions.data_size import data_sizes
from analysis.questions.data_size import lines as lines_of_sizes
from analysis.questions.steps_to_result import lines, steps_to_result
from analysis.questions.sweep_parts import sweep_parts
from analysis.questions.time_to_result import lines as time_lines
from analysis.questions.time_to_result import throughput_lines, throughput_of_rows, times_to_goals
from analysis.reporting.answer import cost_sentence
from analysis.reporting.headline import headline_lines
from analysis.reporting.summary import summary_lines
from analysis.reporting.tables import batch_size_rows, free_batch_rows
from analysis.stats.means import Interval
from trainables.records.tables import Record

SWEEP = Callable[..., Path]


def of_tokens(records: list[Record]) -> list[Record]:
    """The same trials, whose examples are sequences of 32 tokens."""
    for entry in records:
        entry.trial.update(examples=100, tokens=3200)
    return records


@pytest.mark.parametrize(
    ("examples", "tokens", "unit"),
    [
        ([10, 30], [320, 960], BatchUnit(32)),
        ([10, 0, np.nan], [320, 0, np.nan], BatchUnit(32)),  # one that ended at once, and one that failed
        ([10, 30], [np.nan, np.nan], EXAMPLES),
        ([10, 30], [320, 480], EXAMPLES),  # sequences of two lengths
        ([10, 30], [320, np.nan], EXAMPLES),
        ([10], [325], EXAMPLES),
        ([np.nan], [np.nan], EXAMPLES),
    ],
)
def test_the_tokens_of_an_example(examples: list[float], tokens: list[float], unit: BatchUnit) -> None:
    assert batch_unit_of(pd.DataFrame({"examples": examples, "tokens": tokens})) == unit


def test_words() -> None:
    assert (EXAMPLES.batch(32), BatchUnit(64).batch(32)) == ("32", "32 (2048 tokens)")
    assert EXAMPLES.batch(32, "1 diverged", "2 off target") == "32 (1 diverged, 2 off target)"
    assert BatchUnit(64).batch(32, "1 diverged") == "32 (2048 tokens, 1 diverged)"
    assert (EXAMPLES.label, BatchUnit(64).label) == ("batch size [examples]", "batch size [sequences of 64 tokens]")
    assert Estimate(3.0, Interval(1.0, np.inf), 4).times(8) == Estimate(24.0, Interval(8.0, np.inf), 4)
    assert Estimate(3.0, None, 2).times(8) == Estimate(24.0, None, 2)


def critical(sweep: Sweep) -> list[str]:
    return [critical_batch_sentence(sweep)]


def critical_figure(sweep: Sweep) -> list[str]:
    figure = critical_batch_figure(sweep)
    return [
        *(" ".join(text.get_text().split()) for text in figure.findobj(Text)),
        figure.legends[0].get_title().get_text(),
    ]


def sizes(sweep: Sweep) -> list[str]:
    found = data_sizes([sweep])
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in data_size_figure(found).axes]
    return [*lines_of_sizes(found), *itertools.chain(*labels)]


def steps(sweep: Sweep) -> list[str]:
    runs = read_results(sweep, "train_loss", None)
    return lines(runs, steps_to_result(runs, 1e-3))


def times(sweep: Sweep) -> list[str]:
    whole = sweep_parts(sweep, [1e-3], "train_loss")
    throughput = throughput_of_rows(sweep, whole.parts)
    (found,) = times_to_goals(whole, throughput)[0]
    figure = time_to_result_figure([found], "train_loss", unit=sweep.batch_unit)
    return [
        *throughput_lines(throughput, unit=sweep.batch_unit),
        *time_lines(found, "train loss", None, unit=sweep.batch_unit),
        *(axes.get_xlabel() for axes in figure.axes),
    ]


@pytest.mark.parametrize(
    ("told", "wordings"),
    [
        (
            critical,
            [
                # 50 steps at least and a critical batch of 100, so 5000 examples at least. Of batches of 8 the law
                # needs 675 steps and 5400 examples, to which lines between evaluations of a loss that falls
                # exponentially add 0.8 %.
                ("critical batch size is 100 [", "critical batch size is 100 ["),
                ("doubles the examples", "] sequences, in tokens 3200 ["),
                ("and 5000 [", "and 160000 ["),
            ],
        ),
        (
            critical_figure,
            [
                ("Dashed: critical batch size 100 [", "] sequences, in tokens 3200 ["),
                ("batch size [examples]", "batch size [sequences of 32 tokens]"),
            ],
        ),
        (
            sizes,
            [
                (" training examples: critical batch size 100 [", " training sequences of 32 tokens: critical batch"),
                ("least number of examples 5000 [", "least number of tokens 160000 ["),
                ("critical batch size 100 [", "] sequences, in tokens 3200 ["),
                ("training examples", "training sequences of 32 tokens"),
                ("least number of examples", "least number of sequences of 32 tokens"),
                ("critical batch size", "critical batch size\n[sequences of 32 tokens]"),
            ],
        ),
        (
            steps,
            [
                ("  batch 8: 680 (", "  batch 8 (256 tokens): 680 ("),
                (" steps, 5440 (", " steps, 174000 ("),
                ("B_crit is 101 (95 %: 99.8 to", "B_crit is 101 sequences (3230 tokens; 95 %: 3190 to"),
                ("Within 20 % more examples than", "Within 20 % more tokens than"),
            ],
        ),
        (
            times,
            [
                ("Examples per second, measured here:", "Tokens per second, measured here:"),
                ("  batch 8: ", "  batch 8 (256 tokens): "),
                (" s, 5440 (", " s, 174000 ("),
                (" examples/s", " tokens/s"),
                ("Pareto front of time and examples", "Pareto front of time and tokens"),
                ("batch size [examples]", "batch size [sequences of 32 tokens]"),
                ("examples to the goal", "tokens to the goal"),
            ],
        ),
    ],
)
def test_a_law_in_tokens(
    write_sweep: SWEEP, told: Callable[[Sweep], list[str]], wordings: list[tuple[str, str]]
) -> None:
    """`wordings`, each as it is in examples and in tokens."""
    factors = (0.98, 1.0, 1 / 0.98)
    plain = "\n".join(told(load_sweep(write_sweep(law(factors=factors), "plain"))))
    of_sequences = "\n".join(told(load_sweep(write_sweep(of_tokens(law(factors=factors)), "tokens"))))
    assert " tokens" not in plain
    assert [words for words, _ in wordings if words not in plain] == []
    assert [words for _, words in wordings if words not in of_sequences] == []


def cells(sweep: Sweep) -> list[str]:
    return [row[0] for _, row in batch_size_rows(sweep)] + [row[1] for _, row in free_batch_rows(sweep)]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (lambda sweep: [cost_sentence(sweep)], ["to batch 16 (512 tokens) within", "batch 512 (16384 tokens) loses"]),
        (headline_lines, [" training sequences of 32 tokens)", "batch 512 (16384 tokens) loses"]),
        (lambda sweep: summary_lines(sweep, 200), ["512 (16384 tokens)"]),
        (cells, ["64 (2048 tokens)"]),
        (
            lambda sweep: [axes.get_xlabel() for axes in batch_size_curves(sweep).axes],
            ["batch size [sequences of 32 tokens]"],
        ),
    ],
)
def test_a_grid_in_tokens(write_sweep: SWEEP, told: Callable[[Sweep], list[str]], expected: list[str]) -> None:
    plain = " ".join(told(load_sweep(write_sweep(grid(), "plain"))))
    said = " ".join(told(load_sweep(write_sweep(of_tokens(grid()), "tokens"))))
    assert " tokens" not in plain
    for text in expected:
        assert text in said
