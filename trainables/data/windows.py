"""A text's tokens as examples of a language model: windows that do not overlap, and the token that follows each."""

from typing import Any

from numpy.typing import NDArray

from trainables.runtime.errors import UserError


def require_context(context: object) -> int:
    """`context`. Raises UserError where it is no positive integer."""
    if type(context) is not int or context < 1:
        raise UserError(f"`context` must be a positive integer, got {context!r}")
    return context


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
