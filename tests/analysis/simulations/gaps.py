"""What is said of accuracy gaps: what the largest batch loses, that it is free, and what the named remedy wins back.

The true gap of the largest batch is the margin of non-inferiority, so calling it free is wrong in every sweep. Remedies
have no effect but in the designs that say so.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from analysis.data.load import Sweep
from analysis.data.metric import DEFAULT_MARGINS
from analysis.questions.free_batch import Comparison, free_batch
from analysis.questions.losses_by_setting import losses_depend
from analysis.questions.remedies import Remedy, remedies
from analysis.reporting.gap_answer import named_remedy
from analysis.stats.means import Mean
from simulations import Design, Statement

MARGIN = DEFAULT_MARGINS["points"]
PLAIN = Design(name="default: 4 replicates, 4 settings, luck 0.2 points", gap=MARGIN, luck=0.002, switches=(None,))
TWELVE: dict[str, Any] = {"learning_rates": (0.001, 0.003, 0.01, 0.03), "warmups": (0.0, 2.0, 5.0)}
GAPS = (
    PLAIN,
    *(replace(PLAIN, name=f"luck per replicate and batch size {100 * luck:g}", luck=luck) for luck in (0.0, 0.004)),
    *(replace(PLAIN, name=f"{n} replicates", replicates=n) for n in (3, 6, 8)),
    replace(PLAIN, name="2 settings", warmups=(0.0,)),
    replace(PLAIN, name="12 settings", **TWELVE),
    replace(PLAIN, name="12 settings, 8 replicates, luck 0", replicates=8, luck=0.0, **TWELVE),
    replace(PLAIN, name="settings 0.1 points apart", tilt=0.001),
    replace(PLAIN, name="one best setting each, by 2 points", tilt=0.02),
    replace(PLAIN, name="8 replicates, luck 0.4, settings 0.1 points apart", replicates=8, luck=0.004, tilt=0.001),
    replace(PLAIN, name="ties: 100 test images", test_size=100),
    replace(PLAIN, name="10 % of the trials diverged", missing=0.1),
    replace(PLAIN, name="20 % of the trials off target", off_target=0.2),
)
SAME_AT_ALL_RATES = (PLAIN, GAPS[3])  # two of the designs in which all learning rates lose the same
NO_EFFECT = Design(
    name="default: 4 replicates, 4 remedies without effect, gap 1 point, luck 0.2 points",
    gap=0.01,
    luck=0.002,
    switches=(None,),
    batch_sizes=(16, 300),
    remedies=(0.0,) * 4,
)
REMEDIES = (
    NO_EFFECT,
    *(replace(NO_EFFECT, name=f"luck {100 * luck:g}", luck=luck) for luck in (0.0, 0.004)),
    *(replace(NO_EFFECT, name=f"{n} replicates", replicates=n) for n in (3, 6, 8)),
    replace(NO_EFFECT, name="1 remedy", remedies=(0.0,)),
    replace(NO_EFFECT, name="12 remedies", remedies=(0.0,) * 12),
    replace(NO_EFFECT, name="the first of 4 gains 0.5 points", remedies=(0.005, 0.0, 0.0, 0.0)),
    replace(NO_EFFECT, name="all of 4 gain 0.5 points", remedies=(0.005,) * 4),
    replace(NO_EFFECT, name="ties: 100 test images", test_size=100),
    replace(NO_EFFECT, name="10 % of the trials diverged", missing=0.1),
    replace(NO_EFFECT, name="20 % of the trials off target", off_target=0.2),
)


def _last(sweep: Sweep, comparison: Comparison) -> tuple[Mean | None, bool]:
    """What the largest batch loses, and whether it is called free."""
    found = free_batch(sweep, comparison)
    if found is None:
        return None, False
    last = found.rows[-1]
    return last.lost, found.largest_noninferior_batch == last.batch_size


def _interval_holds(comparison: Comparison, sweep: Sweep, design: Design) -> bool | None:
    lost, _ = _last(sweep, comparison)
    return None if lost is None or lost.interval is None else lost.interval.holds(design.gap)


def _not_free(comparison: Comparison, sweep: Sweep, design: Design) -> bool:
    assert design.gap >= MARGIN
    return not _last(sweep, comparison)[1]


def _rates_do_not_falsely_differ(sweep: Sweep, design: Design) -> bool:
    return not losses_depend(sweep, design.batch_sizes[-1])


def _true_gain(remedy: Remedy, design: Design) -> float:
    return design.remedies[round(100 * float(remedy.name.removeprefix("label_smoothing="))) - 1]


def _gain_holds(sweep: Sweep, design: Design) -> bool | None:
    found = remedies(sweep)
    best = named_remedy(found) if found else None
    return None if best is None or best.gain.interval is None else best.gain.interval.holds(_true_gain(best, design))


def _share_holds(sweep: Sweep, design: Design) -> bool | None:
    found = remedies(sweep)
    best = named_remedy(found) if found else None
    if best is None or best.share is None or best.share.interval is None:
        return None
    return best.share.interval.holds(_true_gain(best, design) / design.gap)


def _none_helps_falsely(sweep: Sweep, design: Design) -> bool:
    return not any(remedy.helps for remedy in remedies(sweep) if _true_gain(remedy, design) <= 0)


STATEMENTS = (
    Statement("gap, same settings", "gap", "coverage", GAPS, partial(_interval_holds, "matched")),
    Statement("gap, tuned separately", "gap", "coverage", GAPS, partial(_interval_holds, "tuned")),
    Statement("not falsely free, same settings", "gap", "false positive", GAPS, partial(_not_free, "matched")),
    Statement("not falsely free, tuned separately", "gap", "false positive", GAPS, partial(_not_free, "tuned")),
    Statement(
        "not falsely said to depend on the learning rate",
        "gap",
        "false positive",
        SAME_AT_ALL_RATES,
        _rates_do_not_falsely_differ,
    ),
    Statement("gain of the named remedy", "remedy", "coverage", REMEDIES, _gain_holds),
    Statement("share of the gap of the named remedy", "remedy", "coverage", REMEDIES, _share_holds),
    Statement("no remedy falsely helps", "remedy", "false positive", REMEDIES, _none_helps_falsely),
)
