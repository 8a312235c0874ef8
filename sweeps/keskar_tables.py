"""Tables 2 to 4 of Keskar et al. 2017: accuracy and box sharpness of small batches (SB) against large ones (LB).

    python sweeps/keskar_tables.py                                            # digits, three small networks, 5 seeds
    python sweeps/keskar_tables.py --scale paper --networks f1 c1 --download  # the paper's own networks, for a GPU

Implementation: sweeps/studies/keskar_tables.py.
"""

import sys
from collections.abc import Sequence

from sweeps.cli.arguments import run_command
from sweeps.studies.keskar_tables import NAME, add_options, run_tables
from sweeps.studies.two_batches import PAPER_SEEDS, study_parser


def main(arguments: Sequence[str]) -> int:
    """Runs the study; returns the exit status."""
    options = study_parser(NAME, __doc__ or "", PAPER_SEEDS, add_options).parse_args(arguments)
    options.seeds = options.seeds or list(range(PAPER_SEEDS))
    return run_command(f"{NAME}.py", lambda: run_tables(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
