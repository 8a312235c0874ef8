"""How large may the batch be at each point of training, and which batch schedule follows?

    python sweeps/branched_batch.py
    python sweeps/branched_batch.py --resume --run-schedule

Implementation: sweeps/cli/branched_options.py and sweeps/studies/branched_batch.py.
"""

import sys

from sweeps.cli.arguments import run_command
from sweeps.cli.branched_options import parse


def main(arguments: list[str]) -> int:
    """Runs it; returns the exit status: 0 success, 1 failed trials, 2 bad arguments, 130 interrupted."""
    options = parse(arguments)

    def run() -> int:
        from sweeps.studies.branched_batch import run_branched_batch  # heavy imports only for options that are right

        return run_branched_batch(options)

    return run_command("branched_batch.py", run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
