"""How many steps does each batch size need to reach a held-out goal, when each is tuned for it?

    python sweeps/steps_to_result.py

Implementation: sweeps/cli/steps_options.py. analysis/steps_to_result.py gives the same answer for existing runs.
"""

import sys

from sweeps.cli.arguments import run_command
from sweeps.cli.steps_options import parse


def main(arguments: list[str]) -> int:
    """Runs it; returns the exit status: 0 success, 1 failed trials, 2 bad arguments, 130 interrupted."""
    options = parse(arguments)

    def run() -> int:
        from sweeps.tuning.steps_to_result import run_steps_to_result  # heavy imports only for options that are right

        return run_steps_to_result(options)

    return run_command("steps_to_result.py", run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
