"""The range of the warmup in other units than epochs: what each batch size searches, without Ray."""

from collections.abc import Callable

import pytest

from sweeps.cli.ladder_options import parse as parse_ladder
from sweeps.cli.tuning_options import parse
from sweeps.plan.units import warmup_range_of
from sweeps.tuned_gap import main
from sweeps.tuning.optimizer_ladder import plan_of_ladder
from sweeps.tuning.run import plan_of
from trainables.data import Source
from trainables.runtime.errors import UserError
from trainables.units import Amount

SMALL = "--batch-sizes 30 300 --train-size 300 --test-size 500 --model-options widths=8 --seeds 0 1".split()  # noqa: SIM905


def warmups(source: Source, words: str) -> dict[tuple[int, str], tuple[float, float]]:
    """LOW and HIGH in epochs by batch size and remedy."""
    plan = plan_of(parse([*SMALL, *words.split()]), source)
    return {(cell.batch_size, cell.remedy): plan.rules_of(cell).space.warmup_epochs for cell in plan.cells}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", {30: (0, 10), 300: (0, 10)}),
        ("--warmup-epochs-range 1 2", {30: (1, 2), 300: (1, 2)}),
        ("--warmup-range 0 600examples", {30: (0, 2), 300: (0, 2)}),
        ("--warmup-range 1epochs 900examples", {30: (1, 3), 300: (1, 3)}),
        ("--warmup-range 0 20steps", {30: (0, 2), 300: (0, 20)}),  # 10 steps, and one, make an epoch
        ("--warmup-range 5steps 25steps", {30: (0.5, 2.5), 300: (5, 25)}),
    ],
)
def test_a_range_in_any_unit(digits: Source, words: str, expected: dict[int, tuple[float, float]]) -> None:
    found = warmups(digits, words)
    for (size, _), ends in found.items():
        assert ends == pytest.approx(expected[size], rel=1e-12)


def test_the_trials_warm_up_for_as_many_steps(digits: Source) -> None:
    """Also where a remedy stretches epochs: at `same_steps` batch 300 trains ten times as many of them."""
    words = [*SMALL, "--warmup-range", "0", "20steps", "--remedies", "none", "same_steps=true", "--epochs", "40"]
    plan = plan_of(parse(words), digits)
    for cell in plan.cells:
        space = plan.rules_of(cell).space
        config = plan.tuned(cell, space.whole({}) | {"warmup_epochs": space.warmup_epochs[1]})
        assert config.warmup_epochs * config.stretch * config.train_size / config.batch_size == pytest.approx(20)
    assert max(cell.batch_size for cell in plan.cells if cell.remedy != "none") == 300


@pytest.mark.parametrize(("words", "expected"), [("--warmup-range 0 20steps", 5.0), ("", 0.5)])
def test_the_untuned_setting_has_the_warmup_of_the_smallest_batch(digits: Source, words: str, expected: float) -> None:
    """Half an epoch of batch 30 is 5 steps, which are 5 epochs of batch 300; without steps it is half an epoch."""
    plan = plan_of(parse([*SMALL, *words.split()]), digits)
    small, large = plan.cells
    values = {"learning_rate": 0.01, "warmup_epochs": 0.5, "weight_decay": 1e-5}
    assert plan.carried(values, small, large) == values | {"warmup_epochs": pytest.approx(expected)}
    assert plan.carried(values, small, small) == values


def test_every_rung_of_a_ladder_has_the_range(digits: Source) -> None:
    words = [*SMALL, "--optimizer", "sgd", "adam", "--goal", "0.5", "--warmup-range", "0", "20steps"]
    plan = plan_of_ladder(parse_ladder(words), digits)
    ends = {(cell.rung, cell.batch_size): plan.rules_of(cell).space.warmup_epochs[1] for cell in plan.cells}
    assert [ends[key] for key in sorted(ends, key=str)] == pytest.approx([2, 20, 2, 20])
    assert len({plan.rules_of(cell).space.learning_rate for cell in plan.cells}) == 2  # each optimizer's own


def test_mistakes(digits: Source, refusal: Callable[..., str]) -> None:
    with pytest.raises(UserError, match="must have both ends in steps or neither, got 2epochs 20steps"):
        warmup_range_of([Amount(2, "epochs"), Amount(20, "steps")], digits, 300)
    assert "`warmup_epochs` must be LOW HIGH with LOW <= HIGH" in refusal(main, ["--warmup-range", "20steps", "0"])
    both = ["--warmup-range", "0", "20steps", "--warmup-epochs-range", "0", "1"]
    assert "not allowed with argument" in refusal(main, both)
    assert "must be in steps, examples, epochs for this dataset" in refusal(main, ["--warmup-range", "0", "2Mtokens"])
