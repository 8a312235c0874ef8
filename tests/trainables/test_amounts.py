"""Amounts of training: how they are read, where their multiples are, and what is refused."""

import math

import pytest

from trainables.runtime.errors import UserError
from trainables.training.batches import epoch_batches
from trainables.units import Amount, epochs_after, in_examples, read_amount, steps_per_epoch, steps_to


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("100steps", Amount(100, "steps")),
        ("1step", Amount(1, "steps")),
        ("2Mtokens", Amount(2_000_000, "tokens")),
        ("2.1Mtokens", Amount(2_100_000, "tokens")),
        ("3kexamples", Amount(3000, "examples")),
        ("1Btokens", Amount(10**9, "tokens")),
        ("1.5epochs", Amount(1.5, "epochs")),
        ("2 epochs", Amount(2, "epochs")),
        ("1e3steps", Amount(1000, "steps")),
    ],
)
def test_reading(text: str, amount: Amount) -> None:
    assert read_amount("budget", text) == amount
    assert read_amount("budget", str(amount)) == amount


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0steps", "`budget` must be a whole number of steps, 1 or more"),
        ("1.5steps", "`budget` must be a whole number of steps, 1 or more"),
        ("0epochs", "`budget` must be a number of epochs above 0"),
        ("100", "a number and a unit \\(steps, examples, tokens, epochs\\)"),
        ("-3steps", "a number and a unit"),
        ("5weeks", "a number and a unit"),
        ("steps", "a number and a unit"),
        ("99999Btokens", None),
        ("9999999999Btokens", "below 2\\*\\*63"),
    ],
)
def test_what_is_no_amount(text: str, reason: str | None) -> None:
    if reason is None:
        assert read_amount("budget", text).value == 99999 * 10**9
        return
    with pytest.raises(UserError, match=reason):
        read_amount("budget", text)


def test_tokens_are_examples_of_a_window() -> None:
    assert in_examples("budget", Amount(2048, "tokens"), 32) == Amount(64, "examples")
    assert in_examples("budget", Amount(2049, "tokens"), 32) == Amount(65, "examples")  # reached by one more
    assert in_examples("budget", Amount(5, "steps"), None) == Amount(5, "steps")
    with pytest.raises(
        UserError, match="`budget` must be in steps, examples, epochs for this dataset, which has no to"
    ):
        in_examples("budget", Amount(2048, "tokens"), None)


@pytest.mark.parametrize(("examples", "size"), [(300, 32), (300, 30), (301, 30), (7, 7), (10, 1)])
def test_steps_and_epochs_are_those_of_the_batches(examples: int, size: int) -> None:
    ends = [0.0]
    for epoch in range(3):
        seen = 0
        for batch in epoch_batches(examples, size, seed=0, epoch=epoch):
            seen += len(batch)
            ends.append(epoch + seen / examples)
    for step, end in enumerate(ends):
        assert epochs_after(step, examples, size) == pytest.approx(end, abs=1e-12)
        assert steps_to(end, examples, size) == step
    assert steps_to(ends[1] + 0.1 / examples, examples, size) == 2
    assert steps_per_epoch(examples, size) == (len(ends) - 1) / 3


def test_bounds_and_multiples() -> None:
    assert Amount(7, "steps").as_bounds(300) == (7, math.inf)
    assert Amount(0.1, "epochs").as_bounds(300) == (math.inf, 30)
    assert Amount(0.101, "epochs").as_bounds(300) == (math.inf, 31)
    assert Amount(7, "steps").next_multiple(7, 0, 300) == (14, math.inf)
    assert Amount(100, "examples").next_multiple(0, 299, 300) == (math.inf, 300)
    assert Amount(0.1, "epochs").next_multiple(0, 90, 300) == (math.inf, 120)  # 0.3 of an epoch is no number of float
    assert Amount(1, "epochs").next_multiple(0, 450, 300) == (math.inf, 600)
    assert Amount(2, "epochs").is_reached(0, 2.0, 300)
    assert not Amount(2, "epochs").is_reached(0, 2.0, 300, stretch=1.5)
    assert Amount(2, "steps").is_reached(2, 0.1, 300, stretch=1.5)  # steps are not stretched
