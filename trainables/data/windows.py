"""A text's tokens as examples of a language model: windows that do not overlap, and the token that follows each."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from trainables.data.source import Source
from trainables.runtime.errors import UserError

TEST_SHARE = 0.1


def window_options(context: object, vocabulary: object = None) -> tuple[int, int | None]:
    """The two. Raises UserError for others than a positive integer, and an integer of 2 or more or None."""
    if type(context) is not int or context < 1:
        raise UserError(f"`context` must be a positive integer, got {context!r}")
    if vocabulary is not None and (type(vocabulary) is not int or vocabulary < 2):
        raise UserError(f"`vocabulary` must be an integer of 2 or more, got {vocabulary!r}")
    return context, vocabulary


def train_and_test(parts: Sequence[Any]) -> Sequence[Any]:
    """The two parts of tokens; the last TEST_SHARE of a single part is the test part."""
    if len(parts) == 2:
        return parts
    (tokens,) = parts
    cut = len(tokens) - round(TEST_SHARE * len(tokens))
    return [tokens[:cut], tokens[cut:]]


def windows(tokens: NDArray[Any], context: int, part: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Views (N, context) of the tokens (L,) and of those that follow. Raises UserError where there is no window."""
    count = (len(tokens) - 1) // context
    if count < 1:
        raise UserError(
            f"`context` must be shorter than the {part} text of {len(tokens)} tokens, got {context}; "
            "a smaller context or a longer text"
        )
    end = count * context
    return tokens[:end].reshape(count, context), tokens[1 : end + 1].reshape(count, context)


def token_source(
    name: str,
    parts: Sequence[NDArray[Any]],
    context: int,
    vocabulary: int | None,
    digests: object,
    largest: Mapping[Path, int],
) -> Source:
    """The source of the windows of mapped parts, which `digests` identify.

    Args:
        vocabulary: the number of classes; None: the largest id plus one.
        largest: the largest id of each place.

    Raises UserError for an id outside of the vocabulary, and a part with fewer than `context` + 1 tokens.
    """
    for place, most in largest.items():
        if vocabulary is not None and most >= vocabulary:
            raise UserError(f"`vocabulary` must be larger than the token ids, got {vocabulary} and {most} in {place}")
    (train, train_labels), (test, test_labels) = (
        windows(tokens, context, part) for tokens, part in zip(train_and_test(parts), ("training", "test"), strict=True)
    )
    classes = vocabulary or 1 + max(largest.values())
    source = Source(name, train, train_labels, test, test_labels, classes, task="language", is_checked=True)
    vars(source)["fingerprint"] = hashlib.sha256(f"{digests} {context} {classes}".encode()).hexdigest()[:16]
    return source
