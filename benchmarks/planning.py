"""How often sequential sweeps are wrong, and how much power plans have, in simulated studies of known truth.

    python benchmarks/planning.py [--studies 100000] [--write]

Prints three tables; with --write they replace those of docs/planning.md. About half a minute on one core.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(PROJECT), str(PROJECT / "tests" / "analysis")]

from simulations.sequential import MARGIN, Study, errors, fixed_power, plans  # noqa: E402

from analysis.stats.group_sequential import levels_of_plan, planned_looks  # noqa: E402
from analysis.stats.power import cap_for, power, replicates_for  # noqa: E402

WANTED, FIRST = 0.8, 4
LOOKS = [(3, 6, 9, 12), (4, 6, 8, 10, 12), tuple(range(3, 13)), (3, 4), (4, 8, 12), (4, 21, 38, 55, 72)]
THREE = (0.0, MARGIN, 2 * MARGIN)


def wrong_claims(studies: int) -> Iterator[str]:
    """The table of error rates: the true loss of the only batch size is the margin, so either claim is wrong."""
    yield "| looks after | sigma | called free | called not free | either | any of three batch sizes |"
    yield "|---|---|---|---|---|---|"
    for looks in LOOKS:
        for sigma, step in ((0.5, 0.0), (2.0, 0.0)) + (((0.5, 0.4),) if len(looks) == 5 and looks[-1] == 12 else ()):
            random = np.random.default_rng(len(looks))
            one = errors(Study("", looks, (MARGIN,), sigma, step), random, studies)
            three = errors(Study("", looks, THREE, sigma, step), random, studies)
            name = f"{looks[0]}, {looks[1]}, ..., {looks[-1]}" if len(looks) > 5 else ", ".join(map(str, looks))
            rounded = f", losses rounded to {step:g}" if step else ""
            shares = (one.free, one.not_free, one.free + one.not_free, three.any)
            yield f"| {name} | {sigma:g}{rounded} | " + " | ".join(f"{100 * share:.2f}" for share in shares) + " |"


def powers(studies: int) -> Iterator[str]:
    """The table of power: promised, and how often a batch size that loses nothing is called free."""
    yield (
        "| margin / sigma | replicates | promised | found | cap of a sequential sweep | promised | found | "
        "mean replicates |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for effect in (0.4, 0.6, 0.8, 1.0, 1.5, 2.0):
        random = np.random.default_rng(round(10 * effect))
        count, cap = replicates_for(effect, WANTED), cap_for(effect, WANTED, FIRST)
        assert count is not None
        assert cap is not None
        looks = planned_looks(FIRST, cap)
        promised = power(cap, effect, levels_of_plan(looks)[-1])
        found = errors(Study("", looks, (0.0,), MARGIN / effect), random, studies)
        yield (
            f"| {effect:g} | {count} | {100 * power(count, effect):.1f} | "
            f"{100 * fixed_power(count, effect, random, studies):.1f} | {cap} | {100 * promised:.1f} | "
            f"{100 * found.answered:.1f} | {found.replicates:.1f} |"
        )


def pilots(studies: int) -> Iterator[str]:
    """The table of plans from small pilots: in how many the true power is as wanted, and its mean."""
    yield "| replicates of the pilot | plug-in: as promised | mean power | safe: as promised | mean power |"
    yield "|---|---|---|---|---|"
    for pilot in (3, 4, 6, 8, 12):
        found = plans(pilot, 0.5, WANTED, np.random.default_rng(pilot), studies // 10)
        cells = [f"{100 * (one >= WANTED).mean():.0f} | {100 * one.mean():.0f}" for one in found.values()]
        yield f"| {pilot} | " + " | ".join(cells) + " |"


def write(name: str, lines: list[str]) -> None:
    """Replaces a table of docs/planning.md, between the lines `<!-- planning: NAME -->` and `<!-- end -->`."""
    path = PROJECT / "docs" / "planning.md"
    mark = f"<!-- planning: {name} -->"
    body = "\n".join([mark, "", *lines, "", "<!-- end -->"])
    text, count = re.subn(re.escape(mark) + r".*?<!-- end -->", lambda _: body, path.read_text(), flags=re.DOTALL)
    if not count:
        sys.exit(f"{path} has no line `{mark}`")
    path.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100_000, help="of each row (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="replace the tables of docs/planning.md")
    options = parser.parse_args()
    for name, table in {"errors": wrong_claims, "power": powers, "pilots": pilots}.items():
        lines = list(table(options.studies))
        print(f"\n{name}\n\n" + "\n".join(lines))
        if options.write:
            write(name, lines)


if __name__ == "__main__":
    main()
