"""How numbers and correlations are written in sentences, tables and figures."""

from collections.abc import Iterable
from typing import Any

from analysis.stats.means import Mean
from analysis.stats.rank_correlation import Correlation


def plain_number(value: float) -> str:
    """Three significant digits without an exponent where that is short: 0.00123, 12.3, 12300, 1e+06."""
    short = f"{value:.3g}"
    return f"{float(short):.0f}" if "e+" in short and abs(value) < 1e6 else short


def exact_number(value: float) -> str:
    """The shortest text that reads back as `value`: 0.3, 0.30000001."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def counted(amount: str | int, plural: str) -> str:
    """`12.3 (10 to 15) steps`, `1 step`."""
    return f"{amount} {plural.removesuffix('s') if str(amount) == '1' else plural}"


def out_of(mean: Mean, replicates: int) -> str:
    """Over how many of the replicates a mean is, where some are missing: `, 3 of 8 replicates`."""
    return "" if mean.replicates == replicates else f", {mean.replicates} of {replicates} replicates"


def capitalized(text: str) -> str:
    """`text` as the beginning of a sentence; names in it keep their capitals."""
    return text[:1].upper() + text[1:]


def in_words(name: str) -> str:
    """A column's name as an axis says it: test_loss is test loss."""
    return name.replace("_", " ")


def setting_value(value: object) -> str:
    """The value of a setting, such as a learning rate: floats without trailing zeros, the rest as it is."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def told_apart(values: Iterable[Any]) -> dict[Any, str]:
    """The values of a setting in words, with all their digits where six do not tell them apart."""
    short = {value: setting_value(value) for value in values}
    return short if len({*short.values()}) == len(short) else {value: str(value) for value in short}


def fixed(value: float, decimals: int = 2, *, plus: bool = False) -> str:
    """`value` with so many decimals, a minus sign where it is negative and rounded to something, or `plus` its sign."""
    return f"{round(value, decimals) + 0.0:{'+' if plus else ''}.{decimals}f}".replace("-", "−")


def three_digits(value: float) -> str:
    """As plain_number, with all three digits: 0.580, 12.0, 300."""
    return plain_number(value) if abs(value) >= 100 or value == 0 else f"{value:#.3g}"


def correlation_text(correlation: Correlation) -> str:
    """Such as `+0.42 [+0.22, +0.58]`."""
    if correlation.value is None:
        return "undefined"
    ends = correlation.interval
    shown = f" [{fixed(ends.low, plus=True)}, {fixed(ends.high, plus=True)}]" if ends else " (no interval)"
    return f"{fixed(correlation.value, plus=True)}{shown}"
