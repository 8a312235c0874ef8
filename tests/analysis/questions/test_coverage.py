"""Every interval and claim under sweeps of known truth, with few runs: see simulations/ and benchmarks/coverage.py."""

import numpy as np
import pandas as pd
import pytest
from simulations import Count, Design, Statement, grouped, measure, simulated
from simulations.correlations import STATEMENTS as CORRELATIONS
from simulations.critical import STATEMENTS as CRITICAL_BATCH
from simulations.gaps import STATEMENTS as GAPS
from simulations.quadratic_statements import STATEMENTS as NOISY_QUADRATIC
from simulations.quadratic_sweeps import EVEN, PLAIN

from analysis.data.load import attempted, comparable
from analysis.data.runs import read_results

RUNS = 30  # as many as a slow test can afford; benchmarks/coverage.py makes 1000
QUADRATIC_RUNS = 15
STATEMENTS: tuple[Statement, ...] = (*GAPS, *CORRELATIONS, *CRITICAL_BATCH, *NOISY_QUADRATIC)
OTHERS = (*GAPS, *CORRELATIONS, *CRITICAL_BATCH)
DESIGNS = (*dict.fromkeys(design for statement in OTHERS for design in statement.designs), PLAIN, EVEN)


def test_a_rate_fails_where_93_percent_is_refuted() -> None:
    assert Count(173, 200).fails  # P(X <= 173 | 200, 0.93) = 0.00083
    assert not Count(174, 200).fails  # 0.00177
    assert not Count().fails


def test_groups_from_the_template_are_those_of_the_sweep() -> None:
    design = Design(name="", remedies=(0.0,), replicates=3, missing=0.2, off_target=0.2, learning_rates=(0.01,))
    sweep = simulated(design, np.random.default_rng(0))
    expected = comparable(sweep), attempted(sweep)
    with grouped(design, sweep):
        found = comparable(sweep), attempted(sweep)
    for one, other in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_quadratic_sweeps_count_the_examples_of_their_steps() -> None:
    runs = read_results(PLAIN.sweep(np.random.default_rng(0)), "test_loss", "lower")
    assert not runs.about["changes_size"].any()
    sizes = runs.curves["run"].map(runs.about["batch_size"])
    np.testing.assert_allclose(runs.curves["examples"], runs.curves["step"] * sizes, rtol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_statements_hold_as_often_as_they_say(design: Design) -> None:
    statements = [statement for statement in STATEMENTS if design in statement.designs]
    counts = measure(statements, design, range(QUADRATIC_RUNS if design in (PLAIN, EVEN) else RUNS))
    wrong = [
        f"{statement.name}: {count.held} of {count.said}"
        for statement, count in zip(statements, counts, strict=True)
        if count.fails
    ]
    assert not wrong
