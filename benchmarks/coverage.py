"""How often the intervals and claims of the analysis hold, in simulated sweeps of known truth.

    python benchmarks/coverage.py [--sections gap ...] [--runs 1000] [--processes 2] [--keep FOLDER] [--write]

Prints a table per section, a row for each design and a column for each statement, in percent of the sweeps that said
something; 95 is what each of them promises. With --write the tables replace those of docs/statistics.md. The designs
and the statements are those of tests/analysis/simulations/. With --keep what was counted is kept in a folder, from
which the same command goes on; --minutes ends a part of it early.
"""

import argparse
import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(PROJECT), str(PROJECT / "tests" / "analysis")]

from simulations import Count, Design, Statement, measure  # noqa: E402
from simulations.correlations import STATEMENTS as CORRELATIONS  # noqa: E402
from simulations.critical import STATEMENTS as CRITICAL_BATCH  # noqa: E402
from simulations.gaps import STATEMENTS as GAPS  # noqa: E402
from simulations.quadratic_statements import STATEMENTS as NOISY_QUADRATIC  # noqa: E402

STATEMENTS: tuple[Statement, ...] = (*GAPS, *CORRELATIONS, *CRITICAL_BATCH, *NOISY_QUADRATIC)
SECTIONS = tuple(dict.fromkeys(statement.section for statement in STATEMENTS))
CHUNK = 25  # runs of one task
Found = dict[tuple[Design, Statement], Count]


def run_chunk(section: str, design: Design, first: int, runs: int) -> list[Count]:
    """The counts of one design's statements in some of its runs; they are found anew, as closures cannot be pickled."""
    return measure(_statements(section, design), design, range(first, first + runs))


def _statements(section: str, design: Design) -> list[Statement]:
    return [one for one in STATEMENTS if one.section == section and design in one.designs]


def measured(section: str, runs: int, processes: int, keep: Path | None, minutes: float) -> Found:
    """All statements of a section in all of their designs, with progress and the time left on standard error."""
    designs = dict.fromkeys(design for one in STATEMENTS if one.section == section for design in one.designs)
    found: Found = {(design, one): Count() for design in designs for one in _statements(section, design)}
    tasks = [(design, first) for first in range(0, runs, CHUNK) for design in designs]
    started = time.monotonic()

    def note(design: Design, counts: Sequence[Count]) -> None:
        for statement, count in zip(_statements(section, design), counts, strict=True):
            found[design, statement] += count

    with ProcessPoolExecutor(processes) as pool:
        futures = {}
        for design, first in tasks:
            name = "" if keep is None else f"{section}, {design.name}, {first}.json".replace("/", "-")
            if keep is not None and (keep / name).exists():
                note(design, [Count(*counts) for counts in json.loads((keep / name).read_text())])
            else:
                number = min(CHUNK, runs - first)
                futures[pool.submit(run_chunk, section, design, first, number)] = design, name
        pending = set(futures)
        while pending:
            ended, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in ended:
                design, name = futures[future]
                note(design, counts := future.result())
                if keep is not None:
                    (keep / name).write_text(json.dumps([dataclasses.astuple(count) for count in counts]))
            spent, done = time.monotonic() - started, len(futures) - len(pending)
            left = spent / done * len(pending)
            print(f"\r{section}: {done} of {len(futures)}, {left:.0f} s left  ", end="", file=sys.stderr)
            if spent > 60 * minutes:
                pending = {future for future in pending if not future.cancel()}
    print(file=sys.stderr)
    return found


def table(found: Found) -> Iterator[str]:
    """The lines of a Markdown table: designs down, statements across, or the other way round where these are more."""
    statements = list(dict.fromkeys(statement for _, statement in found))
    designs = list(dict.fromkeys(design for design, _ in found))
    sweeps = {one: max(count.said for (design, _), count in found.items() if design == one) for one in designs}
    counts = sorted(set(sweeps.values()))
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    yield f"{number} sweeps of each design; % in which the statement holds (95 or more is right)."
    yield ""
    cells = [[_cell(found.get((design, one)), sweeps[design]) for one in statements] for design in designs]
    across, down, corner = [one.name for one in statements], [design.name for design in designs], "design"
    if len(statements) > len(designs):
        cells, across, down, corner = [list(row) for row in zip(*cells, strict=True)], down, across, "statement"
    yield "| " + " | ".join([corner, *across]) + " |"
    yield "|---" * (len(across) + 1) + "|"
    for name, row in zip(down, cells, strict=True):
        yield "| " + " | ".join([name, *row]) + " |"


def _cell(count: Count | None, sweeps: int) -> str:
    if count is None or count.rate is None:
        return "–"
    return f"{100 * count.rate:.1f}" + (f" (of {count.said})" if count.said < sweeps else "")


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
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where counts are kept, to go on from")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end each section after so long")
    parser.add_argument("--write", action="store_true", help="replace the tables of docs/statistics.md")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    for section in options.sections:
        found = measured(section, options.runs, options.processes, options.keep, options.minutes)
        lines = list(table(found))
        print(f"\n{section}\n\n" + "\n".join(lines))
        if options.write:
            write(section, lines)


if __name__ == "__main__":
    main()
