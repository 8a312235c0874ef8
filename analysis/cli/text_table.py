"""Tables as lines of text."""

import math
from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], *, right: int = 0, width: float = math.inf, kept: int = 1) -> list[str]:
    """Return rows of cells as aligned lines of at most `width`; the first row is the header.

    The first `right` columns are aligned to the right, the others to the left. Columns that do not fit follow below,
    with the first `kept` columns again.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= width else " "
    first, parts = list(range(kept)), [list(range(kept))]
    for column in range(kept, len(widths)):
        if sum(widths[one] + len(gap) for one in parts[-1]) + widths[column] > width and parts[-1] != first:
            parts.append([*first])
        parts[-1].append(column)
    return [
        gap.join(
            row[column].rjust(widths[column]) if column < right else row[column].ljust(widths[column])
            for column in part
        ).rstrip()
        for part in parts
        for row in rows
    ]
