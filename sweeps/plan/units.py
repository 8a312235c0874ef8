"""Convert amounts of the command line to a trial's units: tokens to examples, and points within an epoch to epochs.

A dataset of tokens has examples of T tokens each, so a batch of B tokens has B / T examples.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from trainables.data import Source
from trainables.runtime.errors import UserError
from trainables.units import Amount, epochs_after, in_examples, read_amount

if TYPE_CHECKING:
    from sweeps.plan.grid import Grid


def resolved(grid: "Grid", source: Source) -> "Grid":
    """`grid` without tokens in what all trials share and in the remedies.

    Raises UserError for a unit that the dataset does not have.
    """
    window = tokens_of_example(source)

    def text(name: str, amount: str | None) -> str | None:
        return None if amount is None else str(in_examples(name, read_amount(name, amount), window))

    return dataclasses.replace(
        grid,
        budget=text("budget", grid.budget),
        evaluate_every=text("evaluate_every", grid.evaluate_every),
        schedule=_without_tokens(grid.schedule, window),
        remedies=[_without_tokens(remedy, window) for remedy in grid.remedies],
    )


def batch_sizes_of(given: Iterable[int | Amount], source: Source, option: str = "--batch-tokens") -> list[int]:
    """The examples of each batch that the options of `sweeps.cli.arguments.add_batch_sizes` name, such as 2048 tokens.

    Raises UserError, which names the `option`, for tokens of a dataset without them, and for those that are not whole
    windows.
    """
    window = tokens_of_example(source)
    return [one if isinstance(one, int) else _windows(int(one.value), window, option) for one in given]


def tokens_of_example(source: Source) -> int | None:
    """T, the tokens of an example; None where an example has one label."""
    shape = source.labels.shape
    return int(shape[-1]) if source.of_tokens and len(shape) > 1 and shape[-1] == source.input_shape[-1] else None


def warmup_of(warmup: float | Amount, source: Source, train_size: int) -> dict[str, Any]:
    """The fields of a warmup: a number of epochs, or an amount."""
    if not isinstance(warmup, Amount):
        return {"warmup_epochs": warmup}
    amount = in_examples("warmup", warmup, tokens_of_example(source))
    if amount.unit == "steps":
        return {"warmup_steps": int(amount.value)}
    return {"warmup_epochs": float(amount.in_epochs(train_size))}


def warmup_range_of(
    ends: Sequence[float | Amount], source: Source, train_size: int
) -> tuple[tuple[float, float], bool]:
    """LOW and HIGH of a search of the warmup, in epochs, or in steps where the second is true.

    Raises UserError for steps beside another unit.
    """
    low, high = (warmup_of(end, source, train_size) for end in ends)
    if not (low.keys() | high.keys()) & {"warmup_steps"}:
        return (low["warmup_epochs"], high["warmup_epochs"]), False
    if low.get("warmup_epochs") or high.get("warmup_epochs"):
        raise UserError(f"`--warmup-range` must have both ends in steps or neither, got {' '.join(map(str, ends))}")
    return (float(low.get("warmup_steps", 0)), float(high.get("warmup_steps", 0))), True


def switch_epoch_of(
    switch: float | Amount | None, source: Source, train_size: int, batch_size: int, planned: Amount
) -> float | None:
    """The epoch of a switch: of a number of epochs itself, of an amount where it is reached at `batch_size`.

    Raises UserError for an amount that is reached only when the training, `planned`, is over.
    """
    if not isinstance(switch, Amount):
        return switch
    amount = in_examples("switch", switch, tokens_of_example(source))
    steps = amount.unit == "steps"
    epochs = epochs_after(int(amount.value), train_size, batch_size) if steps else amount.in_epochs(train_size)
    last = planned.value if planned.unit == "steps" else planned.in_epochs(train_size)
    if planned.unit == "steps" and not steps:
        last = epochs_after(int(planned.value), train_size, batch_size)
    if (amount.value if steps and planned.unit == "steps" else epochs) >= last:
        raise UserError(
            f"`--switch` must be before the end of the training ({planned.words}) at batch size {batch_size}, "
            f"got {switch.words}"
        )
    return int(epochs) if epochs == int(epochs) else epochs


def _windows(tokens: int, window: int | None, option: str) -> int:
    if window is None:
        raise UserError(f"`{option}` has no meaning for this dataset, which has no tokens; give the batch in examples")
    if tokens % window:
        least = max(window, tokens // window * window)
        raise UserError(
            f"`{option}` must be a multiple of the window, {window} tokens, such as {least} or {least + window}, "
            f"got {tokens}"
        )
    return tokens // window


def _without_tokens(fields: Any, window: int | None) -> dict[str, Any]:
    """The fields of a remedy with amounts of tokens as examples."""

    def examples(name: str, text: str) -> str:
        return re.sub(r"[^,:]*tokens?", lambda found: str(in_examples(name, read_amount(name, found[0]), window)), text)

    texts = {name: fields[name] for name in ("decay_epochs", "batch_schedule") if isinstance(fields.get(name), str)}
    return {**fields, **{name: examples(name, text) for name, text in texts.items()}}
