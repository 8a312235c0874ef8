"""Which batch size reaches a goal fastest, and at what cost? Examples to the goal divided by examples per second.

    python sweeps/throughput.py --batch-sizes 16 64 300
    python sweeps/throughput.py --sweep results/NAME --goal 0.3 --price-per-hour 2.5
    python sweeps/throughput.py --sweep results/NAME --devices 1 2 4 8 --bandwidth 10GB/s --latency 20us

Implementation: sweeps/plan/throughput.py (measuring), analysis/questions/time_to_result.py and, for several devices,
sweeps/plan/worker_throughput.py and analysis/questions/data_parallel.py.
"""

import sys

from sweeps.cli.arguments import run_command
from sweeps.cli.throughput_options import parse


def main(arguments: list[str]) -> int:
    """Measures and answers; returns the exit status: 0, or 2 for bad arguments."""
    options = parse(arguments)

    def run() -> int:
        from sweeps.studies.throughput import run_throughput  # heavy imports only for options that are right

        for line in run_throughput(options):
            print(line)
        return 0

    return run_command("throughput.py", run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
