"""What a sequential sweep has fixed before its first look: sequential.json of its folder.

    margin    what a batch size may lose and still count as free, in the unit that the metric is shown in; null: its own
    seeds     of the replicates, in the order in which they are added
    looks     the replicates at each look; the last is the cap
    taken     how many looks were taken
    decided   batch size -> the number of the look that decided it, from 1; it gets no replicates after that

Only what was there at a look enters a result (analysis.data.load.comparable), and the terminal shows no result of a
trial. So a page that is open while replicates are added shows the last look, and nobody looks in between.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from trainables.runtime.errors import UserError
from trainables.storage.folders import AnyPath, is_there, read_file

if TYPE_CHECKING:
    import pandas as pd

FILE = "sequential.json"


@dataclass(frozen=True)
class SequentialDesign:
    """The content of the file; see the top of this one."""

    margin: float | None
    seeds: tuple[int, ...]
    looks: tuple[int, ...]
    taken: int = 0
    decided: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in zip(self.looks, self.looks[1:], strict=False))
        if not self.looks or not rising or self.looks[0] < 2 or self.looks[-1] != len(self.seeds):
            raise ValueError("looks must rise from 2 or more to the number of seeds")
        if not 0 <= self.taken <= len(self.looks) or not all(0 < look <= self.taken for look in self.decided.values()):
            raise ValueError("taken and decided must be numbers of looks")

    @property
    def cap(self) -> int:
        """The most replicates of any batch size."""
        return self.looks[-1]

    @property
    def standing(self) -> str:
        """Such as `After look 3 of 5 (8 replicates)`."""
        if not self.taken:
            return f"Before look 1 of {len(self.looks)} ({self.looks[0]} replicates)"
        return f"After look {self.taken} of {len(self.looks)} ({self.looks[self.taken - 1]} replicates)"

    @property
    def note(self) -> str:
        """What a reader must know before any result."""
        planned = ", ".join(str(count) for count in self.looks)
        return (
            f"A sequential sweep, with looks after {planned} replicates. {self.standing}. Confidence intervals of what "
            "a batch size loses hold over all looks together; other intervals and tests are not adjusted for the looks."
        )

    def look_of(self, batch_size: int) -> int:
        """The look that a batch size was last judged at: the one that decided it, or the last that was taken."""
        return self.decided.get(batch_size, self.taken)

    def seen(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of `frame` (columns `seed`, `batch_size`) that were there when their batch size was last judged."""
        counts = (0, *self.looks)
        order = frame["seed"].map({seed: place for place, seed in enumerate(self.seeds)})
        return frame[order < frame["batch_size"].map(lambda size: counts[self.look_of(int(size))])]

    def level_of(self, batch_size: int, seeds: pd.Series) -> float:
        """The one-sided level of the last look at a batch size, whose comparable replicates have these `seeds`.

        A look that found no new replicates saw what the one before had seen, and has its level.
        """
        from analysis.stats.group_sequential import look_levels  # SciPy, which the start of a sweep does without

        order = seeds.map({seed: place for place, seed in enumerate(self.seeds)}).drop_duplicates()
        looks = self.looks[: self.look_of(batch_size)]
        levels = look_levels(tuple(int((order < count).sum()) for count in looks), self.cap)
        return next((level for level in reversed(levels) if level), 0.0)

    def as_json(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self))


def read_design(folder: AnyPath) -> SequentialDesign | None:
    """The design of the sweep in `folder`; None where it is not sequential.

    Raises UserError for a damaged file, because results of a sequential sweep mean something else without it.
    """
    if not is_there(folder / FILE):
        return None
    try:
        content = json.loads(read_file(folder / FILE))
        lists = {name: tuple(int(value) for value in content[name]) for name in ("seeds", "looks")}
        decided = {int(size): int(look) for size, look in content["decided"].items()}
        margin = content["margin"]
        return SequentialDesign(
            None if margin is None else float(margin), lists["seeds"], lists["looks"], int(content["taken"]), decided
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"`{FILE}` must say when this sequential sweep was looked at, got {folder / FILE}, which cannot be read"
        ) from error
