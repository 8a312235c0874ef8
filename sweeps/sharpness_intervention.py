"""Is sharpness the cause of the large-batch gap? An experiment that changes sharpness and measures the gap.

    python sweeps/sharpness_intervention.py --shifts noise blur contrast

Trains with a small and a large batch, plainly and with interventions that change sharpness at a fixed batch size:

    SAM, ASAM        two radii each
    learning rate    half and twice the base
    weight decay     two strengths
    rescaling        the placebo: rescales layers after training, which changes raw sharpness and nothing else

Every seed, with its own data split, gets every combination. All trials stop at the same training loss.
analysis/sharpness_intervention.py then estimates how much of the gap each measure mediates (docs/intervention.md).
"""

import sys
from collections.abc import Sequence

from sweeps.cli.arguments import add_axis, add_shifts, integer_or_none, number, or_none
from sweeps.studies.interventions import plan
from sweeps.studies.two_batches import run_script
from trainables.runtime.parser import Parser
from trainables.storage.folders import AnyPath

RAW = ["box_sharpness", "hessian_max_eig", "hessian_trace"]
MEASURES = [*RAW, "adaptive_l2_ball_sharpness", "adaptive_gaussian_sharpness", "relative_flatness"]


def report(folder: AnyPath) -> Sequence[str]:
    from analysis.reporting.intervention import report  # Matplotlib, after the trials

    return report(folder)


def add_options(parser: Parser) -> None:
    group = parser.add_argument_group("the interventions (none leaves one out)")
    above = or_none(number(above=0))
    add_axis(group, "--sam-radii", above, [0.05, 0.1], "radii of SAM")
    add_axis(group, "--asam-radii", above, [0.5, 1.0], "radii of ASAM")
    add_axis(group, "--rate-factors", above, [0.5, 2.0], "learning rates, as multiples of the base")
    add_axis(group, "--weight-decays", above, [3e-5, 1e-4], "strengths of weight decay")
    add_axis(group, "--rescalings", integer_or_none, [8], "powers of two by which the placebo rescales, or none")
    group.add_argument(
        "--measures",
        nargs="+",
        default=MEASURES,
        metavar="NAME",
        help=f"sharpness measures of docs/measures.md (default: {' '.join(MEASURES)})",
    )
    add_shifts(group)


def main(arguments: Sequence[str]) -> int:
    """Runs the study; returns the exit status."""
    return run_script("sharpness_intervention", __doc__, arguments, plan, report, seeds=8, add_options=add_options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
