"""The parser of all command lines: its errors are one line, which names the option that was probably meant."""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from trainables.runtime.errors import one_line


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and exits with status 2.

    `often`: the options that `--help` shows where there are many; `--help-all` then shows all.
    `refused`: options of other scripts that this one cannot use, by name, and why. No help shows them.
    """

    def __init__(self, *, often: Sequence[str] = (), refused: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._refused = refused or {}
        self._often = {"--help", "--help-all", *often} if often else set()
        if often:
            self.usage = "%(prog)s [OPTION ...]"
            self.add_argument("--help-all", action=_HelpAll, nargs=0, help="show all options and exit")

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        options: argparse.Namespace = super().parse_args(args, namespace)
        for name, reason in self._refused.items():
            if getattr(options, name) != self.get_default(name):
                self.error(f"argument --{name.replace('_', '-')}: cannot be used: {reason}")
        return options

    def format_help(self) -> str:
        hidden = [action for action in self._actions if not self._is_shown(action)]
        texts = [action.help for action in hidden]
        for action in hidden:
            action.help = argparse.SUPPRESS
        try:
            return super().format_help()
        finally:
            for action, text in zip(hidden, texts, strict=True):
                action.help = text

    def format_whole_help(self) -> str:
        """The help with all options."""
        often, self._often = self._often, set()
        try:
            return self.format_help()
        finally:
            self._often = often

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            first = (unknown.split() or ["''"])[0]
            usable = [action for action in self._actions if action.dest not in self._refused]
            known = [option for action in usable for option in action.option_strings]
            close = difflib.get_close_matches(first.split("=")[0], known, n=1)
            kind = "option" if first.startswith("-") else "argument"
            message = f"unknown {kind} {first}; " + (f"did you mean {close[0]}?" if close else "see --help")
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")

    def _is_shown(self, action: argparse.Action) -> bool:
        is_asked = not self._often or not self._often.isdisjoint(action.option_strings)
        return is_asked and action.dest not in self._refused


class _HelpAll(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        print(parser.format_whole_help(), end="")
        parser.exit()
