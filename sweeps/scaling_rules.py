"""Which rule scales a tuned setting from a small batch to larger ones, and how much does retuning still gain?

    python sweeps/scaling_rules.py

Implementation: sweeps/cli/scaling_options.py and sweeps/tuning/scaling_rules.py.
"""

import sys

from sweeps.cli.arguments import run_command
from sweeps.cli.scaling_options import parse


def main(arguments: list[str]) -> int:
    """Runs it; returns the exit status: 0 success, 1 failed trials, 2 bad arguments, 130 interrupted."""
    options = parse(arguments)

    def run() -> int:
        from sweeps.tuning.scaling_rules import run_scaling_rules  # heavy imports only for options that are right

        return run_scaling_rules(options)

    return run_command("scaling_rules.py", run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
