"""What a trial costs beyond its arithmetic, as the sweep grows: 100, 1000 and 10000 trivial trials.

    python benchmarks/scale.py [--trials 100 1000 10000] [--json FILE]

Each trial trains a network of one unit on two images for one epoch and measures it on one. For each size, in processes
of their own, as a user runs them: `batch_grid.py` (wall and driver's CPU milliseconds a trial, the driver's peak
memory, files and bytes on disk while it runs and afterwards), `batch_grid.py --resume` on the finished sweep, and
`analysis/report.py` on its folder. The last line is what one more trial costs between two sizes: it should not grow.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

PROJECT = Path(__file__).resolve().parents[1]
TRIVIAL = (  # noqa: SIM905 - reads as a command
    "--batch-sizes 1 2 --learning-rates 0.01 --warmup-epochs 0 --switch-epochs none --train-size 2 --test-size 2 "
    "--model-options widths=1 --epochs 1 --measure-examples 1 --measure-dtype float32 --split-seeds 0 --no-dashboard"
).split()


class Watch:
    """Samples a process, and the folder that it writes, twice a second until it ends."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.cpu_seconds = 0.0
        self.peak_bytes = 0
        self.most_files = 0
        self._process, self._folder = process, folder
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        driver = psutil.Process(self._process.pid)
        looked_at_files = 0.0
        while self._process.poll() is None:
            try:
                times = driver.cpu_times()
                self.cpu_seconds = times.user + times.system
                self.peak_bytes = max(self.peak_bytes, driver.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            if time.monotonic() - looked_at_files > 5:  # counting ten thousand files is work too
                self.most_files = max(self.most_files, files_and_bytes(self._folder)[0])
                looked_at_files = time.monotonic()
            time.sleep(0.5)

    def join(self) -> None:
        self._thread.join()


def files_and_bytes(folder: Path) -> tuple[int, int]:
    """The files under `folder`, Ray's own included, and their bytes."""
    files = count = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                count += (Path(path) / name).stat().st_size
                files += 1
            except FileNotFoundError:
                continue
    return files, count


def timed(command: list[str], folder: Path) -> tuple[float, Watch]:
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], cwd=PROJECT, stdout=subprocess.DEVNULL)
    watch = Watch(process, folder)
    status = process.wait()
    watch.join()
    if status != 0:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return time.perf_counter() - begun, watch


def measure(trials: int, results: Path) -> dict[str, Any]:
    """The figures of one sweep of `trials` trials."""
    name = f"scale{trials}"
    folder = results / name
    seeds = [str(seed) for seed in range(trials // 2)]
    command = ["sweeps/batch_grid.py", "--results", str(results), "--name", name, *TRIVIAL, "--seeds", *seeds]
    seconds, watch = timed(command, folder)
    files, size = files_and_bytes(folder)
    resume_seconds, _ = timed([*command, "--resume"], folder)
    report_seconds, _ = timed(["analysis/report.py", str(folder)], folder)
    return {
        "trials": trials,
        "seconds": seconds,
        "milliseconds_per_trial": 1000 * seconds / trials,
        "driver_cpu_milliseconds_per_trial": 1000 * watch.cpu_seconds / trials,
        "driver_peak_mib": watch.peak_bytes / 2**20,
        "most_files_per_trial": watch.most_files / trials,
        "files_afterwards": files,
        "kib_per_trial_afterwards": size / 1024 / trials,
        "resume_seconds": resume_seconds,
        "report_seconds": report_seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for trials in options.trials:
            rows.append(measure(trials, Path(folder)))
            print(", ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()), flush=True)
    if len(rows) > 1:
        # Between two sizes the start-up cancels: what one more trial costs.
        slopes = [
            (many["seconds"] - few["seconds"]) / (many["trials"] - few["trials"]) * 1000
            for few, many in itertools.pairwise(rows)
        ]
        print("one more trial costs " + ", ".join(f"{slope:.1f} ms" for slope in slopes))
    if options.json:
        options.json.write_text(json.dumps({"benchmark": "scale", "cores": os.cpu_count(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
