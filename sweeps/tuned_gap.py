"""Does the large-batch gap remain when every batch size is tuned separately?

    python sweeps/tuned_gap.py

Implementation: sweeps/cli/tuning_options.py.
"""

import sys

from sweeps.cli.arguments import run_command
from sweeps.cli.tuning_options import parse


def main(arguments: list[str]) -> int:
    """Runs it; returns the exit status: 0 success, 1 failed trials, 2 bad arguments, 130 interrupted."""
    options = parse(arguments)

    def run() -> int:
        from sweeps.tuning.run import run_tuned_gap  # heavy imports only for options that are right

        return run_tuned_gap(options)

    return run_command("tuned_gap.py", run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
