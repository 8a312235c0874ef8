"""The README quotes no figure of speed that is not among those kept in docs/kept/speed/overview.json."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
KEPT = PROJECT / "docs" / "kept" / "speed" / "overview.json"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
OF_TESTS = "# the tests:"  # how long they take is no figure of a benchmark
RATIO = re.compile(r"\b(\d+(?:\.\d+)?) times\b")
DURATION = re.compile(r"about (\w+) minutes on (\w+) cores")
LOOSE = re.compile(r"\b[\w.]+ (?:s|ms|seconds|minutes|hours|examples per second|trials per minute)\b")


def quoted_without_a_source(text: str, parts: dict[str, Any]) -> list[str]:
    """What `text` says of speed and no part has measured."""
    lines = [line for line in text.splitlines() if OF_TESTS not in line]
    text = "\n".join(lines)
    wrong = [found[0] for found in RATIO.finditer(text) if not any(rounds_to(found[1], one) for one in numbers(parts))]
    durations = list(DURATION.finditer(text))
    wrong += [found[0] for found in durations if (found[1], found[2]) not in set(minutes_on_cores(parts))]
    return wrong + LOOSE.findall(DURATION.sub("", text))


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def rounds_to(text: str, value: float) -> bool:
    return f"{value:.{len(text.partition('.')[2])}f}" == text


def minutes_on_cores(parts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The default sweep's minutes and cores in words: CPU time over cores where its note says that other load ran."""
    if "default_sweep" in parts:
        part = parts["default_sweep"]
        figures, cores = part["figures"], part["cores"]
        seconds = figures["cpu_seconds"] / cores if part["note"] else figures["seconds"]
        yield WORDS[round(seconds / 60)], WORDS[cores]


def test_the_readme_quotes_what_was_measured() -> None:
    parts = json.loads(KEPT.read_text())["parts"]
    assert quoted_without_a_source((PROJECT / "README.md").read_text(encoding="utf-8"), parts) == []


@pytest.mark.parametrize(
    "claim", ["about seven minutes on two cores", "8.6 times plain Ray Tune", "takes 56 s", "3 ms a trial"]
)
def test_a_figure_without_a_source_is_found(claim: str) -> None:
    about = {"cores": 2, "note": ""}
    parts = {"default_sweep": {**about, "figures": {"seconds": 130.0}}, "sweep": {**about, "figures": {"ratio": 4.84}}}
    text = f"It takes about two minutes on two cores, and is 4.8 times as fast.\n{OF_TESTS} ten minutes\n"
    assert quoted_without_a_source(text, parts) == []
    assert quoted_without_a_source(text + claim, parts) != []
