"""Sequential sweeps: what was seen at a look enters, and nothing else; intervals hold over all looks."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import record
from narrow import not_none
from scipy import stats
from simulations import Design, grouped, simulated
from simulations.sequential import Study, judged

from analysis.charts.free_batch import free_batch_figure
from analysis.data.load import Sweep, attempted, comparable, load_sweep
from analysis.data.sequential_design import SequentialDesign, read_design
from analysis.questions.free_batch import free_batch
from analysis.questions.sequential import verdicts, verdicts_sentence
from analysis.reporting.gap_answer import by_batch_size
from analysis.reporting.headline import cards, standing
from analysis.reporting.page.means import gap_chart
from analysis.reporting.summary import summary_lines
from analysis.stats.group_sequential import levels_of_plan
from trainables.runtime.errors import UserError

LOSSES = {  # of seeds 0 to 5, in accuracy
    32: [0.0001, -0.0002, 0.0, 0.0002],  # free at the first look
    64: [0.006, -0.005, 0.004, -0.003, 0.02, 0.02],
    128: [0.1, 0.1, 0.101, 0.099],  # not free at the first look
}
DESIGN = SequentialDesign(0.5, (0, 1, 2, 3, 4, 5), (2, 4, 6))


def sweep_of(
    write_sweep: Callable[..., Path],
    design: SequentialDesign,
    name: str = "sweep",
    losses: Mapping[int, Sequence[float]] = LOSSES,
) -> Sweep:
    records = [record(0.9, batch_size=16, seed=seed, split_seed=seed, test_size=10**7) for seed in range(6)]
    records += [
        record(0.9 - lost, batch_size=size, seed=seed, split_seed=seed, test_size=10**7)
        for size, found in losses.items()
        for seed, lost in enumerate(found)
    ]
    folder = write_sweep(records, name)
    (folder / "sequential.json").write_text(design.as_json())
    return load_sweep(folder)


def test_intervals_are_those_of_the_look(write_sweep: Callable[..., Path]) -> None:
    sweep = sweep_of(write_sweep, dataclasses.replace(DESIGN, taken=2))
    rows = {row.batch_size: not_none(row.lost) for row in not_none(free_batch(sweep)).rows}
    level = levels_of_plan(DESIGN.looks)[1]
    for size in (32, 64, 128):
        seen = np.array(LOSSES[size][:4])  # of 64 two more are there, which no look has seen
        half = stats.t.ppf(1 - level, 3) * stats.sem(seen)
        interval = not_none(rows[size].interval)
        assert rows[size].replicates == 4
        assert interval.low == pytest.approx(seen.mean() - half, rel=1e-9)
        assert interval.high == pytest.approx(seen.mean() + half, rel=1e-9)
    assert verdicts(sweep) == {32: "free", 64: "undecided", 128: "not free"}
    assert verdicts_sentence(sweep) == (
        "After look 2 of 3 (4 replicates): batch 32 free; batch 128 not free; batch 64 undecided."
    )


def test_charts_have_the_intervals_of_the_look(write_sweep: Callable[..., Path]) -> None:
    """There is one learning rate, so the chart's gap is the loss that the verdict is on; its margin is beside it."""
    sweep = sweep_of(write_sweep, dataclasses.replace(DESIGN, taken=2))
    expected = {row.batch_size: not_none(row.lost) for row in not_none(free_batch(sweep)).rows}
    ((_, points),) = not_none(gap_chart(sweep))["lines"].items()
    found = {size: (low, high) for size, _, low, high, _ in points if size > 16}
    for size, lost in expected.items():
        interval = not_none(lost.interval)
        assert found[size] == pytest.approx((100 * interval.low, 100 * interval.high), rel=1e-4)
    assert len(found) == 3
    footnotes = [text.get_text() for text in free_batch_figure(sweep).texts]
    assert any("95 % intervals that hold over all looks, with up to 4 replicates" in text for text in footnotes)


def test_a_look_that_found_nothing_new_keeps_the_interval(write_sweep: Callable[..., Path]) -> None:
    """All trials of the second and third look failed: what the first look saw has its interval still."""
    first = {size: found[:2] for size, found in LOSSES.items()}
    ends = []
    for taken in (1, 3):
        sweep = sweep_of(write_sweep, dataclasses.replace(DESIGN, taken=taken), f"taken{taken}", first)
        ends.append([not_none(not_none(row.lost).interval) for row in not_none(free_batch(sweep)).rows])
    assert ends[0] == ends[1]


def test_a_decided_batch_size_stays_at_its_look(write_sweep: Callable[..., Path]) -> None:
    losses = {**LOSSES, 32: [0.0001, -0.0002, 0.0, 0.0002, 0.3, 0.3]}
    design = dataclasses.replace(DESIGN, taken=3, decided={32: 2, 128: 2})
    sweep = sweep_of(write_sweep, design, losses=losses)
    rows = {row.batch_size: row.lost for row in not_none(free_batch(sweep)).rows}
    assert (not_none(rows[32]).replicates, not_none(rows[64]).replicates) == (4, 6)
    assert verdicts(sweep)[32] == "free"


def test_nothing_is_seen_before_the_first_look(write_sweep: Callable[..., Path]) -> None:
    sweep = sweep_of(write_sweep, DESIGN)
    assert free_batch(sweep) is None
    assert verdicts(sweep) == {}
    assert verdicts_sentence(sweep) == ""
    assert by_batch_size(sweep) == []
    text = " ".join(" ".join(summary_lines(sweep)).split())
    assert "Before look 1 of 3 (2 replicates)." in text
    assert "Nothing is compared before the first look." in text
    assert "not measured" not in text
    assert standing(sweep, None) == ("No verdict before the first look.", [])


def test_nothing_is_seen_between_two_looks(write_sweep: Callable[..., Path]) -> None:
    """What the tables and figures are made of: the trials of the third look are there, and only two looks are taken."""
    sweep = sweep_of(write_sweep, dataclasses.replace(DESIGN, taken=2, decided={128: 1}))
    for frame in (comparable(sweep), attempted(sweep)):
        assert frame.groupby("batch_size").size().to_dict() == {16: 4, 32: 4, 64: 4, 128: 2}
    assert {row.batch_size: row.attempted for row in by_batch_size(sweep)} == {16: 4, 32: 4, 64: 4, 128: 2}
    level = not_none(next(row.level for row in by_batch_size(sweep) if row.batch_size == 64))
    assert level.value == pytest.approx(0.9 - np.mean(LOSSES[64][:4]))
    assert len(sweep.trials) == 20  # all of them are in the tables


def test_a_batch_size_that_diverged_is_not_free(write_sweep: Callable[..., Path]) -> None:
    records = [record(0.9, batch_size=16, seed=seed, split_seed=seed) for seed in range(4)]
    records += [
        record(0.9, batch_size=64, seed=seed, split_seed=seed, row={"status": "diverged"} if seed == 3 else {})
        for seed in range(4)
    ]
    folder = write_sweep(records)
    (folder / "sequential.json").write_text(dataclasses.replace(DESIGN, taken=2).as_json())
    assert verdicts(load_sweep(folder)) == {64: "not free"}


def test_the_report_says_that_it_is_sequential(write_sweep: Callable[..., Path]) -> None:
    sweep = sweep_of(write_sweep, dataclasses.replace(DESIGN, taken=2))
    text = " ".join(" ".join(summary_lines(sweep)).split())
    assert "A sequential sweep, with looks after 2, 4, 6 replicates. After look 2 of 3 (4 replicates)." in text
    assert "batch 32 free; batch 128 not free; batch 64 undecided" in text
    assert cards(sweep)[0].result.endswith(", at look 2 of 3")
    interval = not_none(not_none(not_none(free_batch(sweep)).rows[1].lost).interval)
    half = (interval.high - interval.low) / 2
    assert f"0.05 ± {100 * half:.2f}" in text  # the gap of batch 64 in the table


def test_the_file_is_read_back_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    design = dataclasses.replace(DESIGN, taken=1, decided={32: 1})
    path = tmp_path / "sequential.json"
    assert read_design(tmp_path) is None
    path.write_text(design.as_json())
    assert read_design(tmp_path) == design
    content = json.loads(design.as_json())
    damages: list[dict[str, Any]] = [
        {"looks": [4, 2, 6]}, {"taken": 9}, {"decided": {"32": 3}}, {"seeds": [1]}, {"decided": []},
    ]  # fmt: skip
    for damage in damages:
        path.write_text(json.dumps({**content, **damage}))
        with pytest.raises(UserError, match="cannot be read"):
            read_design(tmp_path)
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        read_design(tmp_path)


@pytest.mark.slow
def test_simulated_studies_say_what_sweeps_say() -> None:
    """The verdicts on whole sweeps are those of simulations/sequential.py, which the error rates are counted with."""
    design = Design(
        name="",
        batch_sizes=(16, 300),
        learning_rates=(0.01,),
        warmups=(0.0,),
        switches=(None,),
        replicates=8,
        gap=0.004,
    )
    looks, random = (3, 5, 8), np.random.default_rng(0)
    decided = 0
    for _ in range(60):
        sweep = simulated(design, random)
        scores = sweep.trials.pivot(index="seed", columns="batch_size", values="test_accuracy")
        lost = (scores[16] - scores[300]).to_numpy() / 0.005
        study = Study("", looks, (0.8,), step=1 / design.test_size / 0.005)
        claims, used = judged(study, lost[None, :, None])
        plan = SequentialDesign(None, tuple(range(8)), looks)
        found: dict[int, Any] = {300: "undecided"}
        with grouped(design, sweep):
            for taken in (1, 2, 3):
                plan = dataclasses.replace(plan, taken=taken)
                found = verdicts(dataclasses.replace(sweep, sequential=plan))
                if found[300] != "undecided":
                    break
        assert found[300] == {1: "free", -1: "not free", 0: "undecided"}[int(claims[0, 0])]
        assert looks[plan.taken - 1] == used[0, 0]
        decided += found[300] != "undecided"
    assert 0 < decided < 60
