"""The main sweep: a grid over batch size, learning rate, warmup and switch-point, and the map of gap and sharpness.

    python sweeps/batch_grid.py

trains every cell of the grid under Ray Tune, measures the sharpness of each minimum, and writes tables, figures
and report.html to results/batch_grid. Without options it is a study of scikit-learn's digits that takes about two
minutes on two cores; `--help` shows how to change it.
"""

import sys

from sweeps.cli.arguments import run_command
from sweeps.cli.options import parse
from sweeps.cli.planning_options import check_planning


def main(arguments: list[str]) -> int:
    """Runs the sweep; returns the exit status: 0 success, 1 failed trials, 2 bad arguments, 3 lost storage or Ray, 130
    interrupted."""
    options = parse(arguments)

    def run() -> int:
        check_planning(options)  # heavy imports only for options that are right
        if options.plan:
            from sweeps.studies.planning import run_plan

            return run_plan(options)
        if options.until_decided:
            from sweeps.studies.until_decided import run_until_decided

            return run_until_decided(options)
        from sweeps.studies.study import run_grid

        return run_grid(options)

    return run_command("batch_grid.py", run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
