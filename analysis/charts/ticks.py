"""Labels of the ticks of a logarithmic axis: plain numbers that do not touch each other."""

from collections.abc import Sequence

from matplotlib.axis import Axis, XAxis
from matplotlib.ticker import Formatter

from analysis.stats.wording import plain_number

DIGIT = 0.64  # of the size of the letters: the width of a digit
APART = 0.5  # of the size of the letters, between two labels


class PlainLabels(Formatter):
    """The first label of `axis`, the last, and from the first on each of the others that has room between them."""

    def __init__(self, axis: Axis) -> None:
        self._axis = axis

    def __call__(self, value: float, pos: int | None = None) -> str:
        return tick_label(value)

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """The labels of all ticks, empty where there is no room."""
        labels = [tick_label(value) for value in values]
        if len(labels) < 3:
            return labels
        ends = self._ends(values, labels)
        last, reached = len(labels) - 1, ends[0][1]
        for place in range(1, last):
            low, high = ends[place]
            if low < reached or high > ends[last][0]:
                labels[place] = ""
            else:
                reached = high
        return labels

    def _ends(self, values: Sequence[float], labels: Sequence[str]) -> list[tuple[float, float]]:
        """Where each label begins and ends along the axis, with half of the space between two, in pixels."""
        axes, is_x = self._axis.axes, isinstance(self._axis, XAxis)
        points = [(value, axes.get_ylim()[0]) if is_x else (axes.get_xlim()[0], value) for value in values]
        places = axes.transData.transform(points)[:, 0 if is_x else 1]
        size = float(self._axis.majorTicks[0].label1.get_fontsize()) * self._axis.figure.dpi / 72
        halves = [size / 2 * (APART + (DIGIT * len(label) if is_x else 1)) for label in labels]
        return [(place - half, place + half) for place, half in zip(places, halves, strict=True)]


def tick_label(value: float) -> str:
    """Whole numbers such as batch sizes in full, others short, also where they are small."""
    if value >= 1 and value == round(value) and value < 1e6:
        return f"{value:.0f}"
    return plain_number(value) if value >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")
