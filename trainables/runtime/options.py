"""The options that a model or a dataset takes: the keyword parameters of the function that makes it.

On the command line they are KEY=VALUE, where VALUE is JSON, a comma-separated list of JSON, or text.
"""

import argparse
import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from trainables.runtime.errors import UserError, did_you_mean, quoted

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def key_value(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE. Raises argparse.ArgumentTypeError."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got {text}")
    try:
        return key, value_of(value)
    except RecursionError:
        raise argparse.ArgumentTypeError(f"must not be nested so deeply, got {value[:20]}...") from None


def value_of(text: str) -> Any:
    """A value: JSON, a comma-separated list of JSON, or else the text."""
    for candidate in (text, f"[{text}]"):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    return text


class KeyValues(argparse.Action):
    """Options KEY=VALUE as a dictionary. One JSON object with all of them is read too, as in earlier versions."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        found: dict[str, Any] = {}
        try:
            for text, after in with_next(values):
                if text.isidentifier():
                    raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got {text}; did you mean {text}={after}?")
                found |= _json_object(text) if text.startswith("{") else dict([key_value(text)])
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        setattr(namespace, self.dest, found)


def with_next(words: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Each word with the value that it may be meant to have: the next word, or VALUE where that is a `NAME=VALUE`."""
    following = [*words[1:], "="]
    return zip(words, ("VALUE" if "=" in after else after for after in following), strict=True)


def _json_object(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, RecursionError):
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got {quoted(text)}") from None


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
            known = ", ".join(names) or "(none)"
            raise UserError(
                f"`{argument}` must be among {known} for {name}, got {option!r}{did_you_mean(option, names)}"
            )
