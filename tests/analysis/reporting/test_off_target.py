"""Where no trial is on target, the card, the map's note and the figure show the same correlation, and say so."""

from collections.abc import Callable
from pathlib import Path

from made_up import grid

from analysis.charts.gap_vs_sharpness import gap_vs_sharpness
from analysis.data.load import BOX_STRONG, load_sweep
from analysis.questions.association import associate
from analysis.questions.threshold_batch import threshold_sentence
from analysis.reporting.headline import cards
from analysis.reporting.page.sections import correlations
from analysis.reporting.summary import summary_lines
from analysis.stats.wording import correlation_text


def test_all_off_target(write_sweep: Callable[..., Path]) -> None:
    records = grid()
    for entry in records:
        entry.trial["flags"] = ["missed target loss"]
    sweep = load_sweep(write_sweep(records))
    association = associate(sweep, BOX_STRONG)
    assert association.matched.value is None
    found = association.matched_with_off_target
    card = next(card for card in cards(sweep) if card.question == "Is it sharpness?")
    assert f"ρ = {correlation_text(found)[:5]}" in card.result
    note = correlations(sweep)["large_batch_gap"][BOX_STRONG.column]
    assert f"matched {correlation_text(found)} over {found.trials} trials off target too, pooled " in note
    text = " ".join(" ".join(summary_lines(sweep)).split())
    assert f"t-interval over {found.replicates} replicates. Matched: {found.trials} trials ranked" in text
    figure = gap_vs_sharpness(sweep)
    assert (
        figure.axes[0].get_title("left").startswith(f"matched ρ = {correlation_text(found)} (off target too);  pooled")
    )
    inside = [text.get_text() for axes in figure.axes[:2] for text in axes.texts]
    for text, (rate, within) in zip(inside, association.within_learning_rate_with_off_target.items(), strict=True):
        assert text == f"learning rate {rate:g}\nρ = {correlation_text(within)} (off target too)"


def test_on_target_nothing_is_added(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(grid()))
    assert "off target" not in correlations(sweep)["large_batch_gap"][BOX_STRONG.column]
    assert "off target" not in gap_vs_sharpness(sweep).axes[0].get_title("left")


def test_too_few_batch_sizes_for_a_threshold_are_counted(write_sweep: Callable[..., Path]) -> None:
    sentence = threshold_sentence(load_sweep(write_sweep(grid())))
    assert sentence == "A threshold needs at least 4 batch sizes; this sweep has 3."
