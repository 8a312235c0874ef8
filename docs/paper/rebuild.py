"""Rebuild the measured tables and figures of docs/paper from the results kept in docs/paper/data.

    python docs/paper/rebuild.py            # writes them
    python docs/paper/rebuild.py --check    # writes nothing; exit status 1 if a page differs from its data

Each folder of docs/paper/data holds the tables of one sweep: trials, measures, and one row per epoch (of F1's batch
sizes and of pages 6 and 8 for the last epoch of each trial alone). The parts of a page between `<!-- generated: NAME
-->` and `<!-- end of NAME -->` are written by this script only.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import exhibits
import tables_of_networks
import threshold
from kept import HERE

FIGURES = HERE.parent / "figures"
MODULES = tables_of_networks, threshold, exhibits


def _with_body(body: str, marked: re.Match[str]) -> str:
    return f"{marked[1]}{body}\n{marked[2]}"


def rebuilt(page: str, parts: Mapping[str, Callable[[], Iterator[str]]]) -> str:
    """The text of `page` with its generated parts written anew. Raises SystemExit where it lacks one."""
    for name, lines in parts.items():
        marked = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        body = "\n".join(lines())
        page, count = marked.subn(partial(_with_body, body), page)
        if count != 1:
            raise SystemExit(f"the page must have one part `{name}`, got {count}")
    return page


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="only compare the pages with the data")
    check = parser.parse_args(arguments).check
    differing = []
    for name, parts in (page for module in MODULES for page in module.PARTS.items()):
        before = (HERE / name).read_text(encoding="utf-8")
        after = rebuilt(before, parts)
        if before != after:
            differing.append(name)
        if not check:
            (HERE / name).write_text(after, encoding="utf-8")
    if check:
        if differing:
            print(f"{', '.join(differing)} differ from the kept results: run python docs/paper/rebuild.py")
        return int(bool(differing))
    for module in MODULES:
        for name, figure in module.figures():
            figure.savefig(FIGURES / f"{name}.png", dpi=150)
    print(*differing, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
