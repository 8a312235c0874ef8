"""Which optimizer makes use of large batches, when each is tuned at every batch size on an equal budget?

    python sweeps/optimizer_ladder.py

Implementation: sweeps/cli/ladder_options.py and sweeps/tuning/optimizer_ladder.py.
"""

import sys

from sweeps.cli.arguments import run_command
from sweeps.cli.ladder_options import parse


def main(arguments: list[str]) -> int:
    """Runs it; returns the exit status: 0 success, 1 failed trials, 2 bad arguments, 130 interrupted."""
    options = parse(arguments)

    def run() -> int:
        from sweeps.tuning.optimizer_ladder import run_optimizer_ladder  # heavy imports only for options that are right

        return run_optimizer_ladder(options)

    return run_command("optimizer_ladder.py", run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
