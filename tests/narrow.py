"""Values of a narrower type than their declaration says, checked when a test runs."""

from typing import TypeVar

T = TypeVar("T")


def not_none(value: T | None) -> T:
    """`value`, which must not be None."""
    assert value is not None
    return value


def as_a(kind: type[T], value: object) -> T:
    """`value`, which must be a `kind`."""
    assert isinstance(value, kind), type(value)
    return value
