"""The main job: a grid over batch size, learning rate, warmup and switch-point, and the map that comes of it.

    python sweeps/batch_grid.py

trains every cell of the grid under Ray Tune, measures the sharpness of each minimum, and leaves tables, figures
and report.html in results/batch_grid. Without options it is a study of scikit-learn's digits that takes about a
minute and a half on two cores; `--help` shows how to make it yours.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the project, not this folder

from sweeps.options import parse
from trainables.errors import UserError


def main(arguments: list[str]) -> int:
    """Runs the sweep; returns the exit status: 0 success, 1 failed trials, 2 bad arguments, 130 interrupted."""
    options = parse(arguments)
    try:
        from sweeps.study import run_study  # heavy imports only for options that are right

        return run_study(options)
    except UserError as error:
        print(f"batch_grid.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("batch_grid.py: interrupted; every finished trial is kept, --resume goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
