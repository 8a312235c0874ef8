"""How often the intervals and claims of the analysis hold, in simulated sweeps of known truth.

    python benchmarks/coverage.py [--sections gap ...] [--runs 1000] [--processes 2] [--write]

Prints a table per section, a row for each design and a column for each statement, in percent of the sweeps that said
something; 95 is what each of them promises. With --write the tables replace those of docs/statistics.md. The designs
and the statements are those of tests/analysis/simulations/.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(PROJECT), str(PROJECT / "tests" / "analysis")]

from simulations import Count, Design, Statement, measure  # noqa: E402
from simulations.correlations import STATEMENTS as CORRELATIONS  # noqa: E402
from simulations.critical import STATEMENTS as CRITICAL_BATCH  # noqa: E402
from simulations.gaps import STATEMENTS as GAPS  # noqa: E402

STATEMENTS: tuple[Statement, ...] = (*GAPS, *CORRELATIONS, *CRITICAL_BATCH)
SECTIONS = tuple(dict.fromkeys(statement.section for statement in STATEMENTS))
CHUNK = 50  # runs of one task
Found = dict[tuple[Design, Statement], Count]


def run_chunk(section: str, design: Design, first: int, runs: int) -> tuple[Design, list[Count]]:
    """The counts of one design's statements in some of its runs; they are found anew, as closures cannot be pickled."""
    return design, measure(_statements(section, design), design, range(first, first + runs))


def _statements(section: str, design: Design) -> list[Statement]:
    return [one for one in STATEMENTS if one.section == section and design in one.designs]


def measured(section: str, runs: int, processes: int) -> Found:
    """All statements of a section in all of their designs, with progress and the time left on standard error."""
    designs = dict.fromkeys(design for one in STATEMENTS if one.section == section for design in one.designs)
    found: Found = {(design, one): Count() for design in designs for one in _statements(section, design)}
    tasks = [(design, first) for design in designs for first in range(0, runs, CHUNK)]
    started = time.monotonic()
    with ProcessPoolExecutor(processes) as pool:
        futures = [pool.submit(run_chunk, section, design, first, min(CHUNK, runs - first)) for design, first in tasks]
        for done, future in enumerate(as_completed(futures), 1):
            design, counts = future.result()
            for statement, count in zip(_statements(section, design), counts, strict=True):
                found[design, statement] += count
            left = (time.monotonic() - started) / done * (len(tasks) - done)
            print(f"\r{section}: {done} of {len(tasks)}, {left:.0f} s left  ", end="", file=sys.stderr)
    print(file=sys.stderr)
    return found


def table(found: Found, runs: int) -> Iterator[str]:
    """The lines of a Markdown table: designs down, statements across."""
    statements = list(dict.fromkeys(statement for _, statement in found))
    yield f"{runs} sweeps of each design; % in which the statement holds (95 or more is right)."
    yield ""
    yield "| " + " | ".join(["design", *(statement.name for statement in statements)]) + " |"
    yield "|---" * (len(statements) + 1) + "|"
    for design in dict.fromkeys(design for design, _ in found):
        cells = [_cell(found.get((design, statement)), runs) for statement in statements]
        yield "| " + " | ".join([design.name, *cells]) + " |"


def _cell(count: Count | None, runs: int) -> str:
    if count is None or count.rate is None:
        return "–"
    return f"{100 * count.rate:.1f}" + (f" (of {count.said})" if count.said < runs else "")


def write(section: str, lines: Sequence[str]) -> None:
    """Replaces a table of docs/statistics.md, between the lines `<!-- coverage: SECTION -->` and `<!-- end -->`."""
    path = PROJECT / "docs" / "statistics.md"
    text, mark = path.read_text(), f"<!-- coverage: {section} -->"
    if mark not in text:
        sys.exit(f"{path} has no line `{mark}`")
    body = "\n".join([mark, "", *lines, "", "<!-- end -->"])
    path.write_text(re.sub(re.escape(mark) + r".*?<!-- end -->", lambda _: body, text, count=1, flags=re.DOTALL))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--runs", type=int, default=1000, help="sweeps of each design (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--write", action="store_true", help="replace the tables of docs/statistics.md")
    options = parser.parse_args()
    for section in options.sections:
        lines = list(table(measured(section, options.runs, options.processes), options.runs))
        print(f"\n{section}\n\n" + "\n".join(lines))
        if options.write:
            write(section, lines)


if __name__ == "__main__":
    main()
