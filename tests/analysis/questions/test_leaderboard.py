"""The leaderboard: that each number is the statistic it says, of the trials it says; and the counter-example."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import failed, grid, record, write
from narrow import not_none

from analysis.charts.leaderboard import leaderboard_figure
from analysis.data.load import BOX_STRONG, Sweep, comparable, load_sweep, measures_of
from analysis.questions.association import associate, beyond_hyperparameters
from analysis.questions.leaderboard import leaderboard, leaderboard_frame, leaderboard_lines
from analysis.questions.rescaling import _process, _rescaling, rescaling, rescaling_sentence
from analysis.reporting.page.sections import sections
from analysis.stats.rank_correlation import granulated_kendall
from trainables.records.tables import Record
from trainables.runtime.errors import UserError


def measured(records: list[Record]) -> list[Record]:
    """The records with a training loss, a distance, and one measure of chance and one along the run."""
    random = np.random.default_rng(0)
    changed = []
    for entry in records:
        common = {"method": "lanczos", "space": "full", "seconds": 0.5}
        rows = [
            {**common, "measure": "chance", "value": random.uniform(), "epoch": 20},
            {**common, "measure": "chance", "value": 1e9, "epoch": 10},
            {**common, "measure": "hessian_max_eig", "value": 1.0, "epoch": 20, "seconds": 3.0},
        ]
        history = [{"epoch": 20, "step": 1, "train_loss": 1e-3, "distance": random.uniform()}]
        trial = {**entry.trial, "train_loss": 1e-3 * random.uniform(0.7, 1)}
        changed.append(dataclasses.replace(entry, trial=trial, epochs=history, measures=[*entry.measures, *rows]))
    return changed


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    records = measured(grid(batch_sizes=(16, 64, 128, 512), learning_rates=(0.003, 0.01, 0.03)))
    return load_sweep(write(tmp_path_factory.mktemp("results") / "sweep", records))


def test_measures_along_the_run_are_not_those_of_the_minimum(sweep: Sweep) -> None:
    (chance,) = [measure for measure in measures_of(sweep) if measure.measure == "chance"]
    assert comparable(sweep)[chance.column].max() < 1


def test_each_number_is_the_statistic_it_says(sweep: Sweep) -> None:
    board = leaderboard(sweep)
    assert board.axes == ("batch_size", "learning_rate", "switch_epoch")
    rows = {standing.column: standing for standing in board.standings}
    box = rows["box_sharpness"]
    assert box.matched == associate(sweep, BOX_STRONG).matched
    frame = comparable(sweep)
    assert [box.partial] == beyond_hyperparameters(frame, ["box_sharpness"])
    assert box.granulated == granulated_kendall(
        frame, "box_sharpness", "test_error", board.axes, within=["seed", "split_seed"]
    )
    assert rows["hessian_max_eig"].seconds == 3.0
    assert rows["chance"].seconds == 0.5
    assert rows["batch_size"].seconds is None
    assert [rows[name].is_measure for name in ("chance", "batch_size", "distance")] == [True, False, False]


def test_a_measure_beats_chance_and_chance_beats_nothing(sweep: Sweep) -> None:
    rows = {standing.column: standing for standing in leaderboard(sweep).standings}
    assert not_none(rows["box_sharpness"].corrected_p) < 0.05 < not_none(rows["chance"].corrected_p)
    assert not_none(rows["box_sharpness"].matched_tau.value) > 0.8 > not_none(rows["chance"].matched_tau.value)
    assert not_none(rows["box_sharpness"].at_matched_loss.value) > 0.8
    # Along batch size it is right; across learning rates it is made to be wrong each time, which the worst case tells.
    worst = not_none(rows["box_sharpness"].sign_error.worst)
    assert (worst.axis, worst.sign_error) == ("learning_rate", 1.0)
    assert not_none(rows["box_sharpness"].granulated.coefficients["batch_size"]) > 0.3  # 0.9 but for switched trials
    assert not_none(rows["chance"].matched.interval).holds(0)
    values = [abs(standing.matched.value) for standing in leaderboard(sweep).standings if standing.matched.value]
    assert values == sorted(values, reverse=True)
    assert rows["learning_rate"].matched.value is None  # constant in every matched set
    assert rows["batch_size"].partial.value is None  # nothing is left of it


@pytest.mark.parametrize("target", ["generalization_gap", "test_error"])
def test_other_targets(sweep: Sweep, target: str) -> None:
    board = leaderboard(sweep, target)
    assert board.target == target
    assert board.standings[0].matched.trials == len(comparable(sweep))


def test_the_table_and_the_figure_show_every_predictor(sweep: Sweep) -> None:
    board = leaderboard(sweep)
    table = leaderboard_frame(board)
    assert table["predictor"].tolist() == [standing.name for standing in board.standings]
    assert table.loc[0, "matched"] == board.standings[0].matched.value
    assert {"psi", "psi_batch_size", "worst_sign_error", "worst_environment", "corrected_p", "seconds"} <= set(table)
    lines = leaderboard_lines(board)
    assert len(lines) == len(board.standings) + 1
    figure = leaderboard_figure(sweep)
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert len(ticks) == len(board.standings)
    assert any(tick.endswith("*") for tick in ticks)
    assert "large-batch gap" in figure.axes[0].get_xlabel()


def test_when_no_trials_on_target_can_be_compared_all_are_and_it_is_said(write_sweep: Callable[..., Path]) -> None:
    records = grid(switch_epochs=[None])
    for entry in records:
        entry.trial["flags"] = ["missed target loss"]
    sweep = load_sweep(write_sweep(records))
    assert leaderboard(sweep).off_target_too
    assert "off target ones too" in leaderboard_figure(sweep).get_supxlabel()


def test_one_huge_sharpness_is_the_largest_and_no_more(write_sweep: Callable[..., Path]) -> None:
    records = grid(batch_sizes=(16, 64, 128, 512))
    largest = max(records, key=lambda entry: entry.trial["box_sharpness"])
    boards = []
    for value in (largest.trial["box_sharpness"], 1e300):
        largest.trial["box_sharpness"] = value
        sweep = load_sweep(write_sweep(records, f"{value:g}"))
        boards.append({standing.column: standing for standing in leaderboard(sweep).standings}["box_sharpness"])
    assert dataclasses.replace(boards[0], corrected_p=None) == dataclasses.replace(boards[1], corrected_p=None)


def test_every_layer_has_a_row_and_no_row_is_a_copy(write_sweep: Callable[..., Path]) -> None:
    """Layer 0 follows the gap, layer 2 is noise, layer 4 opposes the gap."""
    generator, records = np.random.default_rng(0), []
    for size, rate, seed in itertools.product((16, 32, 64, 128, 300), (0.003, 0.01), range(4)):
        lost = 0.002 * np.log2(size / 16)
        values = {"0": 1000 * lost + 0.1 * generator.normal(), "2": generator.random(), "4": 50 - 1000 * lost}
        common = {"measure": "layer_max_eig", "method": "lanczos", "epoch": 20}
        found = [common | {"space": layer, "value": value} for layer, value in values.items()]
        config: dict[str, Any] = {"batch_size": size, "learning_rate": rate, "seed": seed, "split_seed": seed}
        records.append(record(0.95 - lost + 3e-4 * generator.normal(), generator.random(), found=found, **config))
    rows = {standing.column: standing for standing in leaderboard(load_sweep(write_sweep(records))).standings}
    first, second, third = (rows[f"layer_max_eig_{layer}"] for layer in "024")
    assert not_none(first.matched.value) > 0.9 > 0.5 > abs(not_none(second.matched.value))
    assert not_none(third.matched.value) < -0.9
    assert not_none(first.corrected_p) < 0.05
    assert not_none(third.corrected_p) < 0.05 < not_none(second.corrected_p)


def test_what_cannot_be_ranked(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep([failed("boom"), record()]))
    with pytest.raises(UserError, match=r"^`results` must hold at least two"):
        leaderboard(sweep)
    with pytest.raises(UserError, match="`target` must be one of"):
        leaderboard(sweep, "sharpness")


@pytest.fixture
def forgotten_rescaling() -> None:
    """As in a new process."""
    for found in (_process, _rescaling):
        found.cache_clear()


def test_one_function_two_sharpnesses(sweep: Sweep) -> None:
    """The eigenvalues of the rescaled network are others, its predictions are not (Dinh et al. 2017)."""
    found = rescaling(sweep)
    assert found.function_error < 1e-12
    assert found.accuracy[0] == found.accuracy[1] > 0.9
    box, eig, adaptive = found.rows
    assert eig.ratio > 4
    assert box.ratio > 1.5
    assert adaptive.ratio == pytest.approx(1, rel=1e-6)
    assert eig.ratio == pytest.approx(eig.after / eig.before)
    assert "leave every prediction as it is" in rescaling_sentence(found)


def test_a_page_without_the_rescaled_network(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten_rescaling: None
) -> None:
    """Where its process fails the page says why, and has the rest."""
    (tmp_path / "torch.py").write_text("raise ImportError('no space left')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"could not be computed \(exit status 1: ImportError: no space left\)"):
        rescaling(sweep)
    shown = {table["caption"]: table for section in sections(sweep) for table in section["tables"]}
    assert "no space left" in shown["The counter-example is missing"]["rows"][0]["cells"][0]
    assert any(caption.startswith("Spearman") for caption in shown)
    monkeypatch.undo()
    assert rescaling(sweep).function_error < 1e-12
