"""What all generated parts of these pages share: the kept results, and rows of Markdown tables."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from analysis.data.load import Sweep, load_sweep
from analysis.paper.keskar_tables import effect_text
from analysis.stats.means import Mean

HERE = Path(__file__).resolve().parent


@cache
def kept_sweep(folder: str) -> Sweep:
    """The kept results of one sweep, docs/paper/data/FOLDER."""
    return load_sweep(HERE / "data" / folder)


def head(cells: str) -> Iterator[str]:
    """The first two lines of a table; `cells` are separated as in the first."""
    yield f"| {cells} |"
    yield "|---" * len(cells.split(" | ")) + "|"


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def with_ends(mean: Mean, number: Callable[[float], str]) -> str:
    """A mean with the ends of its interval, which one seed does not have."""
    low, high = (None, None) if mean.interval is None else (mean.interval.low, mean.interval.high)
    return effect_text(mean.value, low, high, number)
