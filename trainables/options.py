"""The options that a model or a dataset takes: the keyword parameters of the function that makes it."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from trainables.errors import UserError


def check_options(argument: str, name: str, build: Callable[..., Any], options: Iterable[str], *, after: int) -> None:
    """Raises UserError where `build`, the function `name`, takes no such option after its first `after` parameters."""
    try:
        allowed = list(inspect.signature(build).parameters.values())[after:]
    except (ValueError, TypeError):  # of a function in C, which does not tell
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in allowed):
        return
    names = [parameter.name for parameter in allowed]
    for option in options:
        if option not in names:
            raise UserError(f"`{argument}` must be among {', '.join(names) or '(none)'} for {name}, got {option!r}")
