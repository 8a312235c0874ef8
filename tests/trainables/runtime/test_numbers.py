"""Numbers from the command line."""

import argparse
import re

import pytest

from trainables.runtime.numbers import number


@pytest.mark.parametrize(
    ("options", "text", "value"),
    [({}, "-1e3", -1000.0), ({}, "0", 0.0), ({"above": 0}, "1e-300", 1e-300), ({"least": 0}, "0", 0.0)],
)
def test_numbers_within_the_bound_are_read(options: dict[str, float], text: str, value: float) -> None:
    assert number(**options)(text) == value


@pytest.mark.parametrize(
    ("options", "text", "rule"),
    [
        ({}, "nan", "finite number"), ({}, "inf", "finite number"), ({}, "-inf", "finite number"),
        ({}, "1e999", "finite number"), ({}, "", "finite number"), ({}, "1,5", "finite number"),
        ({"above": 0}, "0", "number above 0"), ({"above": 0}, "nan", "number above 0"),
        ({"above": 0}, "inf", "number above 0"), ({"least": 0.5}, "0.4", "number of 0.5 or more"),
        ({"least": 0}, "inf", "number of 0 or more"),
    ],
)  # fmt: skip
def test_others_are_refused(options: dict[str, float], text: str, rule: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(f"must be a {rule}, got {text}")):
        number(**options)(text)
