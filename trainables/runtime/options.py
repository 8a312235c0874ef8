"""The options that a model or a dataset takes: the keyword parameters of the function that makes it."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from trainables.runtime.errors import UserError

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def check_options(argument: str, name: str, build: Callable[..., Any], options: Iterable[str], *, after: int) -> None:
    """Raises UserError where `build`, the function `name`, takes no such option after its first `after` parameters."""
    try:
        signature = inspect.signature(build)
    except (ValueError, TypeError):  # of a function in C, which does not tell
        return
    parameters = list(signature.parameters.values())
    takes_any = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    if not takes_any and sum(parameter.kind in POSITIONAL for parameter in parameters) < after:
        raise UserError(
            f"`{argument.removesuffix('-options')}` must be a function of (input_shape, num_classes), got {name}, "
            f"which takes {signature}; write a function of your own that calls it"
        )
    allowed = parameters[after:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in allowed):
        return
    names = [parameter.name for parameter in allowed]
    for option in options:
        if option not in names:
            raise UserError(f"`{argument}` must be among {', '.join(names) or '(none)'} for {name}, got {option!r}")
