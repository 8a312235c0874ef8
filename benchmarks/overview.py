"""The ratios that the README quotes, from one run of all benchmarks.

    python benchmarks/overview.py [--json FOLDER]

Runs measures.py, training.py, gpt.py, sweep.py and scale.py (100 and 1000 trials) one after another, about twenty
minutes on two cores, with everything they print, and ends with one line for each.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
COMMANDS = {
    "measures": ["measures.py"],
    "training": ["training.py", "--networks", "mlp", "f1", "c1", "--batch-sizes", "16", "256", "5000"],
    "gpt": ["gpt.py"],
    "sweep": ["sweep.py"],
    "scale": ["scale.py", "--trials", "100", "1000"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="keep each benchmark's figures in this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.json or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        figures: dict[str, Any] = {}
        for name, (script, *arguments) in COMMANDS.items():
            print(f"\n== {script} {' '.join(arguments)}", flush=True)
            file = folder / f"{name}.json"
            subprocess.run([sys.executable, HERE / script, *arguments, "--json", file], check=True, cwd=HERE.parent)
            figures[name] = json.loads(file.read_text())
    print("\nours over the alternative, above 1 is better:")
    ratios = [row["ratio"] for row in figures["measures"]["rows"]]
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"measures: {low:.2f} to {high:.1f} times a peer's speed, median {middle:.1f}")
    bare = [row["ours"] / row["bare"] for row in figures["training"]["rows"]]
    plain = [row["ours"] / row["plain"] for row in figures["training"]["rows"]]
    print(f"training: {min(bare):.2f} to {max(bare):.2f} of the arithmetic alone, ", end="")
    print(f"{min(plain):.2f} to {max(plain):.2f} of a plain loop")
    of_gpt = [row["plain"] for row in figures["gpt"]["rows"]]
    print(f"gpt: {min(of_gpt):.2f} to {max(of_gpt):.2f} of a plain loop, in CPU time")
    print(f"sweep: {figures['sweep']['ratio']:.1f} times the trials a minute of plain Ray Tune")
    few, many = figures["scale"]["rows"]
    per_trial = [row["driver_cpu_milliseconds_per_trial"] for row in (few, many)]
    print(f"scale: {per_trial[0]:.0f} ms of the driver a trial at {few['trials']} trials, ", end="")
    print(f"{per_trial[1]:.0f} ms at {many['trials']}")


if __name__ == "__main__":
    main()
