"""The default sweep as the README has it: how long until its answer, and until it ends.

    python benchmarks/default_sweep.py [--json FILE]

`seconds_to_answer` is when the last line was printed, `seconds` the whole command, with figures and report.
`cpu_seconds` is what all its processes used, looked at twice a second, so that what ends in between counts up to its
last look: on a busy machine it is what can be compared.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parents[1]
LOOK_SECONDS = 0.5


def watch_cpu(process: psutil.Process, used: dict[tuple[int, float], float], ended: threading.Event) -> None:
    """Notes in `used` the CPU seconds of the process and its descendants, by process, until it has `ended`."""
    while not ended.wait(LOOK_SECONDS):
        try:
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for member in family:
            try:
                times = member.cpu_times()
                used[member.pid, member.create_time()] = times.user + times.system
            except psutil.NoSuchProcess:
                continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    used: dict[tuple[int, float], float] = {}
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        begun = answered = time.perf_counter()
        command = [sys.executable, "sweeps/batch_grid.py", "--no-dashboard", "--results", folder]
        sweep = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        watch = threading.Thread(target=watch_cpu, args=(psutil.Process(sweep.pid), used, ended))
        watch.start()
        for line in sweep.stdout or ():
            answered = time.perf_counter()
            print(line, end="", flush=True)
        status = sweep.wait()
        seconds = time.perf_counter() - begun
        ended.set()
        watch.join()
    if status != 0:
        raise SystemExit(f"the sweep ended with status {status}")
    figures = {"seconds_to_answer": answered - begun, "seconds": seconds, "cpu_seconds": sum(used.values())}
    print(", ".join(f"{name} {value:.1f}" for name, value in figures.items()))
    if options.json:
        options.json.write_text(json.dumps({"benchmark": "default_sweep", **figures}, indent=1))


if __name__ == "__main__":
    main()
