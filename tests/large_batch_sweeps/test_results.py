"""Results in Python: tables, answers, every question and every figure, with the numbers of the analysis."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up
import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from narrow import not_none

import large_batch_sweeps as lbs
from analysis.data.load import comparable
from analysis.questions.free_batch import free_batch
from analysis.reporting.headline import cards
from analysis.reporting.report import FIGURES
from analysis.stats.means import paired_difference
from large_batch_sweeps import studies

LACKING = {  # figures that the made-up sweep has no data for, and what is said
    "switch_point": "must hold completed trials with a switch-point",
    "learning_rate_heatmap": "must hold at least 3 learning rates",
    "warmup_heatmap": "at 2 or more warmups, got 1",
    "threshold_batch": "must hold at least 4 batch sizes",
    "critical_batch": "must hold completed trials with their epochs",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> lbs.SweepResults:
    remedies: list[tuple[float, dict[str, Any]]] = [(0.004, {"sam_radius": 0.05}), (0.001, {"label_smoothing": 0.1})]
    records = [
        *made_up.grid(switch_epochs=(None,)),
        *(
            made_up.record(
                accuracy=0.94 + gain + 0.001 * seed,
                sharpness=1.0,
                batch_size=512,
                learning_rate=0.01,
                seed=seed,
                split_seed=seed,
                **remedy,
            )
            for gain, remedy in remedies
            for seed in range(3)
        ),
    ]
    return lbs.load_sweep(made_up.write(tmp_path_factory.mktemp("results") / "mine", records))


def test_it_is_short_in_a_terminal_and_shows_the_cards_in_a_notebook(results: lbs.SweepResults) -> None:
    assert repr(results) == "SweepResults('mine': 24 trials (24 completed), batch sizes 16 to 512)"
    page, found = results._repr_html_(), cards(results.sweep)
    shown, folded = re.sub("<details>.*?</details>", "", page), re.findall("<summary>why\\?</summary>(.*?)<", page)
    for card in found:
        for text in (card.question, card.verdict, card.result):
            assert html.escape(text) in shown
    assert "n = 3 replicates" in shown
    for text, paragraph in zip(folded, results.answer(), strict=True):
        assert text.startswith(html.escape(paragraph))
    assert "PRELIMINARY" not in page


@pytest.mark.parametrize(("at_512", "verdicts"), [(8, 3), (20, 0)])  # 6 have ended there
def test_a_sweep_that_has_not_ended_is_preliminary_in_a_notebook(tmp_path: Path, at_512: int, verdicts: int) -> None:
    folder = made_up.write(tmp_path / "mine", made_up.grid(switch_epochs=(None,)))
    planned = {"16": 6, "64": 6, "512": at_512}
    (folder / "sweep.json").write_text(json.dumps({"planned": sum(planned.values()), "batch_sizes": planned}))
    page = lbs.load_sweep(folder)._repr_html_()
    assert f"<b>PRELIMINARY</b> 18 of {12 + at_512} trials." in page
    assert page.count("<details>") == verdicts


def test_the_tables_are_data_frames(results: lbs.SweepResults) -> None:
    assert len(results.trials) == 24
    assert {"trial_id", "batch_size", "test_accuracy"} <= set(results.trials)
    assert set(results.epochs["trial_id"]) <= set(results.trials["trial_id"])
    assert set(results.measures["trial_id"]) == set(results.trials["trial_id"])


def test_the_free_batch_with_its_intervals(results: lbs.SweepResults) -> None:
    frame = lbs.free_batch(results)
    expected = not_none(free_batch(results.sweep)).rows
    assert frame["batch_size"].tolist() == [row.batch_size for row in expected]
    for row, (_, found) in zip(expected, frame.iterrows(), strict=True):
        lost = not_none(row.lost)
        interval = not_none(lost.interval)
        assert found["lost"] == lost.value
        assert (found["lost_low"], found["lost_high"]) == (interval.low, interval.high)
        assert found["lost_replicates"] == 3
    wide = lbs.free_batch(results, margin=0.5)
    assert wide["free"].all()
    assert wide["margin"].eq(0.5).all()


def test_the_margin_may_be_given_when_results_are_loaded(results: lbs.SweepResults) -> None:
    loaded = lbs.load_sweep(results.folder, metric="accuracy", margin=0.5)
    pd.testing.assert_frame_equal(lbs.free_batch(loaded), lbs.free_batch(results, margin=0.5))
    assert "Batch 512 is as good as 16, within 50.00 points" in loaded._repr_html_()


def test_a_remedy_against_another(results: lbs.SweepResults) -> None:
    frame = lbs.compare(results, "sam_radius=0.05", "label_smoothing=0.1")
    trials = comparable(results.sweep)
    one, other = (trials[trials["remedy"] == name] for name in ("sam_radius=0.05", "label_smoothing=0.1"))
    expected = not_none(paired_difference(one, other, "test_accuracy", match="remedy_set"))
    assert frame["batch_size"].tolist() == [512]
    assert frame["difference"].item() == pytest.approx(0.003)
    assert frame["difference"].item() == expected.value
    with pytest.raises(
        lbs.UserError, match=r"`remedy` must be one of label_smoothing=0\.1, none, sam_radius=0\.05, got"
    ):
        lbs.compare(results, "sam", "none")


@pytest.mark.parametrize("question", [lbs.association, lbs.by_batch_size, lbs.leaderboard, lbs.remedies])
def test_every_question_is_a_frame_with_intervals(
    results: lbs.SweepResults, question: Callable[[lbs.SweepResults], pd.DataFrame]
) -> None:
    frame = question(results)
    assert len(frame)
    lows = [name for name in frame if name.endswith("_low")]
    assert lows
    for low in lows:
        high = low.replace("_low", "_high")
        known = frame[low].notna() & frame[high].notna()
        assert (frame.loc[known, low] <= frame.loc[known, high]).all()


def test_importance_has_a_share_for_each_source(tmp_path: Path) -> None:
    """Of a made-up sweep where splits differ by 0.01 and batch sizes by at most 0.01."""
    records = made_up.grid(switch_epochs=(None,))
    frame = lbs.importance(lbs.load_sweep(made_up.write(tmp_path / "grid", records)))
    named = frame[frame["with_interactions"].notna()]
    assert named["hyperparameter"].tolist() == ["batch size", "learning rate"]
    assert frame["share"].sum() == pytest.approx(1)


def test_the_critical_batch(tmp_path: Path) -> None:
    found = lbs.load_sweep(made_up.write(tmp_path / "law", made_up.law(factors=(0.9, 1.0, 1.1))))
    frame = lbs.critical_batch(found)
    assert frame["b_crit"].nunique() == 1
    assert frame["b_crit"].iloc[0] == pytest.approx(100, rel=1e-4)
    assert frame["b_crit_low"].iloc[0] < 100 < frame["b_crit_high"].iloc[0]
    steps = lbs.steps_to_result(found, metric="train_loss", goal=1e-3)
    assert steps["steps_replicates"].eq(3).all()


def test_steps_to_a_result_of_a_frame_of_ones_own() -> None:
    rows = [
        {"run": str(size), "batch_size": size, "step": step, "val_loss": 1 / (1 + step * size / 8)}
        for size in (8, 16, 32)
        for step in range(40)
    ]
    frame = lbs.steps_to_result(pd.DataFrame(rows), metric="val_loss", goal=0.1)
    np.testing.assert_allclose(frame["steps"], [9, 4.5, 2.25], rtol=0.04)  # evaluated after whole steps


def test_results_in_a_frame_of_ones_own_are_no_settings() -> None:
    rows = [
        {"run": f"{size} {seed}", "batch_size": size, "seed": seed, "final_loss": size + seed / 7, "step": step}
        for size in (8, 16, 32)
        for seed in range(3)
        for step in range(40)
    ]
    frame = pd.DataFrame(rows)
    frame["val_loss"] = 1 / (1 + frame["step"] * (frame["batch_size"] + frame["seed"]) / 8)
    with pytest.warns(UserWarning, match="taken as results or names, not as settings: final_loss"):
        found = lbs.steps_to_result(frame, metric="val_loss", goal=0.1)
    assert found["steps_replicates"].eq(3).all()
    named = lbs.steps_to_result(frame, metric="val_loss", goal=0.1, settings=["final_loss"])
    assert named["steps_replicates"].eq(1).all()


@pytest.mark.parametrize("name", [name for name in lbs.figures.__all__
                                  if name not in (*studies.__all__, *lbs.paper.__all__)
                                  and name not in ("landscape", "parametric", "steps_to_result")])  # fmt: skip
def test_every_figure_is_a_figure(results: lbs.SweepResults, name: str) -> None:
    draw = getattr(lbs.figures, name)
    if name in LACKING:
        with pytest.raises(lbs.UserError, match=LACKING[name]):
            draw(results)
    else:
        figure = draw(results)
        assert isinstance(figure, matplotlib.figure.Figure)
        assert not any("_" in title for axes in figure.axes for title in (axes.get_xlabel(), axes.get_ylabel()))


def test_the_page_of_the_interface_has_every_name() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api" / "large_batch_sweeps.md").read_text(encoding="utf-8")
    modules = {name: getattr(lbs, name) for name in ("questions", "studies", "paper", "figures")}
    assert all(f"::: large_batch_sweeps.{name}\n" in page for name in modules)
    listed = {name for module in modules.values() for name in module.__all__}
    single = set(re.findall(r"^::: [\w.]+\.(\w+)$", page, re.MULTILINE))
    assert set(lbs.__all__) - listed - single == {"sharpness"}  # a page of its own
    assert {name for name in FIGURES if f"`{name}`" not in page} == set()


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="results"):
        lbs.load_sweep(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lbs.nothing
