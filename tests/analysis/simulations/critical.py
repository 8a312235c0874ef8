"""What is said of the critical batch size: whether its intervals hold the truth, also where the law is not exact."""

from typing import Any

from analysis.data.load import Sweep
from analysis.data.replicates import Estimate
from analysis.questions.critical_batch import critical_batch
from analysis.stats.means import Interval
from simulations import LEAST_STEPS, Design, Statement
from trainables.runtime.errors import UserError

LAW: dict[str, Any] = {"switches": (None,), "b_crit": 100.0}
DESIGNS = (
    Design(name="the law holds", **LAW),
    Design(name="off by 10 % at each batch size", **LAW, off_law=0.1),
    Design(name="off by 25 %", **LAW, off_law=0.25),
    Design(name="replicates differ by 10 % along the batch sizes", **LAW, step_luck=0.2),
    Design(name="off by 10 %, and replicates differ", **LAW, off_law=0.1, step_luck=0.2),
    Design(name="off by 10 %, three replicates", **LAW, off_law=0.1, replicates=3),
    Design(name="off by 10 %, eight replicates", **LAW, off_law=0.1, replicates=8),
    Design(name="off by 10 %, three batch sizes", **LAW, off_law=0.1, batch_sizes=(8, 64, 512)),
    Design(name="off by 10 %, eight batch sizes", **LAW, off_law=0.1, batch_sizes=(4, 8, 16, 32, 64, 128, 256, 512)),
    Design(name="off by 10 %, far below the critical batch", **LAW | {"b_crit": 2000.0}, off_law=0.1),
    Design(name="off by 10 %, 5 % diverged", **LAW, off_law=0.1, missing=0.05),
    Design(name="off by 10 %, one setting", **LAW, off_law=0.1, learning_rates=(0.01,), warmups=(0.0,)),
)


def _interval_of(name: str, sweep: Sweep) -> Interval | None:
    try:
        estimate: Estimate = getattr(critical_batch(sweep), name)
    except UserError:
        return None
    return estimate.interval


def critical_size(sweep: Sweep, design: Design) -> bool | None:
    assert design.b_crit is not None
    interval = _interval_of("b_crit", sweep)
    return None if interval is None else interval.holds(design.b_crit)


def fewest_steps(sweep: Sweep, design: Design) -> bool | None:
    interval = _interval_of("s_min", sweep)
    return None if interval is None else interval.holds(LEAST_STEPS)


def fewest_examples(sweep: Sweep, design: Design) -> bool | None:
    assert design.b_crit is not None
    interval = _interval_of("e_min", sweep)
    return None if interval is None else interval.holds(LEAST_STEPS * design.b_crit)


STATEMENTS = (
    Statement("critical batch size", "critical batch", "coverage", DESIGNS, critical_size),
    Statement("fewest steps", "critical batch", "coverage", DESIGNS, fewest_steps),
    Statement("fewest examples", "critical batch", "coverage", DESIGNS, fewest_examples),
)
