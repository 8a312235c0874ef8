"""The figures of speed and memory in docs/speed.md and the README, in one JSON with the processor's name.

    python benchmarks/overview.py [--part gpt memory ...] [--json FOLDER] [--note TEXT]

Runs the parts that are not done yet, one after another, each by a benchmark of its own with all that it prints; all of
them take about 40 minutes on two cores. After every part FOLDER/overview.json has its figures, with the processor,
the versions and the date of each. A part that is named runs again. Ends with a line for each part that is done.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PARTS = {
    "default_sweep": ["default_sweep.py"],
    "measures": ["measures.py"],
    "measures_resnet18": ["large_measures.py", "--networks", "resnet18"],
    "measures_vit": ["large_measures.py", "--networks", "vit"],
    "measures_gpt": ["large_measures.py", "--networks", "gpt"],
    "training": ["training.py", "--networks", "mlp", "f1", "c1", "--batch-sizes", "16", "256", "5000"],
    "gpt": ["gpt.py"],
    "memory": ["memory.py"],
    "sweep": ["sweep.py"],
    "sweep_to_loss": ["sweep.py", "--target-loss", "0.001"],
    "scale": ["scale.py", "--trials", "100", "1000"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--part", nargs="+", choices=tuple(PARTS), help="run these, even if done (default: all that are not)"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("speed_results"), metavar="FOLDER", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--note", default="", help="what a reader must know, such as other load; kept with the parts that run"
    )
    options = parser.parse_args()
    options.json.mkdir(parents=True, exist_ok=True)
    file = options.json / "overview.json"
    parts: dict[str, Any] = json.loads(file.read_text())["parts"] if file.exists() else {}
    for name in options.part or [name for name in PARTS if name not in parts]:
        parts[name] = {**about(options.note), **run_part(*PARTS[name])}
        parts = {part: parts[part] for part in PARTS if part in parts}
        file.write_text(json.dumps({"benchmark": "overview", "parts": parts}, indent=1) + "\n")
    print(f"\n{file}: ours over the alternative, above 1 is better")
    for name, part in parts.items():
        print(f"{name}: {summary(name, part)}")


def run_part(script: str, *arguments: str) -> dict[str, Any]:
    """The command and the figures of one benchmark."""
    print(f"\n== {' '.join([script, *arguments])}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "figures.json"
        subprocess.run([sys.executable, HERE / script, *arguments, "--json", file], check=True, cwd=HERE.parent)
        figures: dict[str, Any] = json.loads(file.read_text())
    return {"command": [script, *arguments], "figures": figures}


def about(note: str) -> dict[str, Any]:
    """Where and when, as far as a reader needs it to judge a figure."""
    return {
        "processor": processor(),
        "vector_instructions": vector_instructions(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "ray", "scipy")},
        "finished_on": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "note": note,
    }


def processor() -> str:
    """The name of the processor."""
    return _of_cpuinfo("model name") or platform.processor()


def vector_instructions() -> str:
    """The widest that the processor has: one name stands for processors with and without AVX-512."""
    flags = _of_cpuinfo("flags").split()
    return next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "")


def _of_cpuinfo(key: str) -> str:
    """What Linux says of the first processor; empty elsewhere."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def summary(name: str, part: dict[str, Any]) -> str:
    """The figures of a part in a line."""
    figures = part["figures"]
    rows = figures.get("rows", [])
    if name == "default_sweep":
        return f"{figures['seconds']:.0f} s"
    if name == "measures":
        return f"{spread([row['ratio'] for row in rows])} times a peer's speed"
    if name.startswith("measures_"):
        return f"{spread([row['of_ours'] for row in rows if row['contestant'] != 'ours'])} times a peer's speed"
    if name == "training":
        of = {other: spread([row["ours"] / row[other] for row in rows]) for other in ("bare", "plain")}
        return f"{of['bare']} of the arithmetic alone, {of['plain']} of a plain loop"
    if name == "gpt":
        return f"{spread([row['plain'] for row in rows])} of a plain loop, in CPU time"
    if name == "memory":
        of_plain = [row["of_plain"] for row in rows if row["side"] != "plain"]
        return f"{spread(of_plain)} times a plain loop's peak memory (below 1 is better)"
    if name.startswith("sweep"):
        return f"{figures['ratio']:.1f} times the trials a minute of plain Ray Tune"
    per_trial = [f"{row['driver_cpu_milliseconds_per_trial']:.0f} ms at {row['trials']} trials" for row in rows]
    return f"CPU time of the driver a trial: {', '.join(per_trial)}"


def spread(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}, median {statistics.median(values):.2f},"


if __name__ == "__main__":
    main()
