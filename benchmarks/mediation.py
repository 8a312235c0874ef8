"""How often the intervals of analysis/stats/mediation.py hold, in simulated experiments of known truth.

    python benchmarks/mediation.py [--runs 1000] [--processes 2] [--write]

Prints a table, a row for each truth. --write puts it into docs/intervention.md. The model is in
simulations/experiments.py of the tests.
"""

import argparse
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(PROJECT), str(PROJECT / "tests" / "analysis")]

from simulations.experiments import Held, Truth  # noqa: E402

TRUTHS = [
    *(Truth(share, replicates) for replicates in (8, 6) for share in (0.0, 0.5, 1.0)),
    Truth(0.5, replicates=4),
    *(Truth(share, strength=0.5) for share in (0.0, 0.5, 1.0)),
    *(Truth(0.5, strength=strength) for strength in (0.3, 0.65, 2.0)),
    Truth(0.5, replicates=6, strength=0.5),
    *(Truth(0.5, strength=strength, confounding=0.0) for strength in (0.5, 1.0)),
    Truth(0.5, violation=1.0),
]
PAGE = PROJECT / "docs" / "intervention.md"


def measured(task: tuple[Truth, int]) -> Held:
    truth, runs = task
    held = Held()
    for run in range(runs):
        held.add(truth, run)
    return held


def row(truth: Truth, one: Held) -> str:
    other = ", no confounder" if not truth.confounding else ", learning rates act otherwise too" * (truth.violation > 0)
    rates = [(one.given, one.runs), (one.held, one.given), (one.mediated_given, one.runs)]
    rates += [(one.mediated_held, one.mediated_given), (one.disagree, one.runs)]
    cells = [f"{100 * truth.share:.0f}{other}", f"{truth.strength:g}", str(truth.replicates)]
    cells += [f"{np.median(one.strengths):.0f}", *(f"{100 * count / of:.1f}" if of else "" for count, of in rates)]
    return f"| {' | '.join(cells)} | {100 * one.association:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="experiments of each truth (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--write", action="store_true", help="replace the table of docs/intervention.md")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.processes) as pool:
        found = list(pool.map(measured, [(truth, options.runs) for truth in TRUTHS]))
    lines = [
        f"{options.runs} experiments of each truth; shares and rates in %.",
        "",
        "| true share | strength | replicates | median F | share: determined | holds the truth | mediated points: "
        "determined | hold | interventions disagree (p < 0.05) | mean share by association |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(row, TRUTHS, found),
    ]
    print("\n".join(lines))
    if options.write:
        body = "\n".join(["<!-- coverage -->", "", *lines, "", "<!-- end -->"])
        text = re.sub(r"<!-- coverage -->.*?<!-- end -->", lambda _: body, PAGE.read_text(), count=1, flags=re.DOTALL)
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
