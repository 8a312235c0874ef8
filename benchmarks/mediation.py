"""How often the intervals of analysis/stats/mediation.py hold, in simulated experiments of known truth.

    python benchmarks/mediation.py [--runs 1000] [--processes 2] [--write]

Prints a table, a row for each truth; --write puts it into docs/intervention.md. The truths are drawn as
simulations/experiments.py of the tests says.
"""

import argparse
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(PROJECT), str(PROJECT / "tests" / "analysis")]

from simulations.experiments import Held, Truth  # noqa: E402

TRUTHS = {
    "no share": Truth(0.0),
    "half": Truth(0.5),
    "all": Truth(1.0),
    "no share, 6 replicates": Truth(0.0, replicates=6),
    "half, 6 replicates": Truth(0.5, replicates=6),
    "all, 6 replicates": Truth(1.0, replicates=6),
    "half, interventions half as strong": Truth(0.5, strength=0.5),
    "half, learning rates act otherwise too": Truth(0.5, violation=1.0),
}
PAGE = PROJECT / "docs" / "intervention.md"


def measured(task: tuple[Truth, int]) -> Held:
    truth, runs = task
    held = Held()
    for run in range(runs):
        held.add(truth, run)
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="experiments of each truth (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--write", action="store_true", help="replace the table of docs/intervention.md")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.processes) as pool:
        found = list(pool.map(measured, [(truth, options.runs) for truth in TRUTHS.values()]))
    lines = [
        f"{options.runs} experiments of each truth, in %.",
        "",
        "| true share | replicates | share: interval given | holds the truth | mediated points: holds | interventions "
        "disagree (p < 0.05) | mean share by association |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, truth), one in zip(TRUTHS.items(), found, strict=True):
        shares = [one.given / one.runs, one.held / max(1, one.given), one.mediated_held / one.runs]
        cells = [f"{100 * value:.1f}" for value in (*shares, one.disagree / one.runs)]
        lines.append(f"| {name} | {truth.replicates} | {' | '.join(cells)} | {100 * one.association:.0f} |")
    print("\n".join(lines))
    if options.write:
        body = "\n".join(["<!-- coverage -->", "", *lines, "", "<!-- end -->"])
        text = re.sub(r"<!-- coverage -->.*?<!-- end -->", lambda _: body, PAGE.read_text(), count=1, flags=re.DOTALL)
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
