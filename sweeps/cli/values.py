"""Options that take several words each, and how they are read: optimizers, remedies, measures, schedules, groups."""

import argparse
from typing import Any

from trainables.optimizer_settings import read_parameter_groups, require_optimizer
from trainables.remedies import read_remedy
from trainables.runtime.errors import UserError
from trainables.runtime.options import key_value, with_next


class Optimizers(argparse.Action):
    """Names, each followed by its options: a word without `=` begins the next one."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        found: list[tuple[str, dict[str, Any]]] = []
        try:
            for word, after in with_next(values):
                if "=" not in word:
                    if found and not after[:1].isalpha():
                        raise UserError(
                            f"must be NAME [KEY=VALUE ...], got {word} {after}; did you mean {word}={after}?"
                        )
                    require_optimizer(word if ":" in word else word.lower())
                    found.append((word if ":" in word else word.lower(), {}))
                    continue
                key, value = key_value(word)
                if not found or key in found[-1][1]:
                    what = "begin with a name" if not found else f"have each option once, {key}"
                    parser.error(f"argument {option}: must {what}, got {' '.join(values)}")
                found[-1][1][key] = value
        except (UserError, argparse.ArgumentTypeError) as error:
            parser.error(f"argument {option}: {error}")
        setattr(namespace, self.dest, found)


class Remedies(argparse.Action):
    """Remedies, a word each; where a field and its value are two words, the error joins them."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        try:
            setattr(namespace, self.dest, [read_remedy(word, after) for word, after in with_next(values)])
        except UserError as error:
            parser.error(f"argument {option}: {error}")


class NoneOrNames(argparse.Action):
    """A list of names, or none."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        if "none" in values and len(values) > 1:
            parser.error(f"argument {option}: none must be alone, got {' '.join(values)}")
        setattr(namespace, self.dest, [] if values == ["none"] else values)


def schedule(text: str) -> dict[str, Any]:
    """The fields of a schedule of the learning rate, NAME,OPTION=VALUE,...: none of them for `constant`."""
    name, _, options = text.partition(",")
    if name == "constant" and not options:
        return {}
    try:
        fields = read_remedy(f"decay={text}")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if other := [field for field in fields if not field.startswith("decay")]:
        raise argparse.ArgumentTypeError(f"must have options that begin with decay_, got {other[0]}")
    return fields


def parameter_group(text: str) -> str:
    """A group of parameters as it is given, once it is known to be one."""
    try:
        read_parameter_groups(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
