"""The measures of a trial: by name, with their costs, as rows. `measure(loss, names)` takes any of `MEASURES`."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`measure` and `MEASURES`, on first use: they bring PyTorch, which `--help` does without."""
    if name not in ("measure", "MEASURES"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trainables.measures import by_name

    return getattr(by_name, name)
