"""What an experiment on sharpness says: the lines on the terminal, and the verdict of the card "Is it sharpness?"."""

from collections.abc import Sequence

from analysis.charts.sharpness_intervention import intervention_figure
from analysis.charts.style import save
from analysis.data.load import Sweep, load_sweep
from analysis.data.metric import Metric
from analysis.questions.sharpness_intervention import TEST, Explained, arms_of, explained, named
from analysis.stats.means import Mean
from analysis.stats.mediation import LEAST_FOR_SHARE, Mediation
from analysis.stats.wording import capitalized, fixed, plain_number
from trainables.storage.folders import AnyPath

LEVEL = 0.05
NO_INTERVAL = "no interval"


def report(folder: AnyPath) -> list[str]:
    """Writes the figure; returns the lines of the answer."""
    sweep = load_sweep(folder)
    found = explained(sweep)
    return [*map(str, save(intervention_figure(sweep), sweep.folder, "sharpness_intervention")), *lines(sweep, found)]


def lines(sweep: Sweep, found: Sequence[Explained]) -> list[str]:
    """The verdict, then what each measure mediates on each test set, and what the assumptions' tests say."""
    verdict, result, _ = card(sweep)
    arms, metric, batch = arms_of(sweep), sweep.metric, sweep.batch_unit.batch
    text = [f"{verdict}.", f"  {result}", ""]
    for outcome in dict.fromkeys(one.outcome for one in found):
        of = [one for one in found if one.outcome == outcome]
        total = of[0].found.total
        where = "" if outcome == TEST else f" under {outcome}"
        text.append(f"Gap of batch {batch(arms.large)} to batch {batch(arms.small)}{where}: {_amount(metric, total)}")
        if not _is_gap(total):
            text.append("  No significant gap here, so no share of it.")
        else:
            text += [f"  through {one.name}: {_share_text(one)}" for one in of]
    text += ["", *(f"{one.name}: {_checks(metric, one)}" for one in found if one.outcome == TEST)]
    names = ", ".join(arm.name for arm, used in zip(arms.arms, arms.used.any(axis=0), strict=True) if used and arm.kind)
    text += ["", f"Interventions: {names}; {len(arms.trial_ids)} replicates.", *arms.left_out]
    return text


def card(sweep: Sweep) -> tuple[str, str, tuple[str, ...]]:
    """The verdict, the one result it rests on, and the sentences that say why."""
    arms, metric, one = arms_of(sweep), sweep.metric, named(explained(sweep))
    found, share = one.found, one.found.share
    result = f"by interventions, {one.name} mediates {_share_text(one)}, n = {found.total.replicates} replicates"
    why = (
        f"{capitalized(one.name)}: {_checks(metric, one)}",
        "The coefficient comes from interventions at a fixed batch size (analysis/stats/mediation.py).",
    )
    if found.is_weak:
        return f"Unknown: the interventions hardly change {one.name}", result, why
    if not _is_gap(found.total):
        gap = f"gap of batch {arms.large} to batch {arms.small}: {_amount(metric, found.total)}"
        return "No gap to explain: the large batch is not significantly worse", gap, why
    if one.is_invariant is False:
        return f"Not {one.name} itself: rescaled layers change it, and nothing else", result, why
    if found.agreement is not None and found.agreement < LEVEL:
        verdict = f"Not by sharpness alone: interventions of equal sharpness differ in {metric.noun}"
        taken = f"interventions on {one.name} disagree (p = {found.agreement:.2g})"
        return verdict, f"{taken}; taken together, {_share_text(one)} would go through it", why
    if share is None or share.interval is None:
        return f"Unknown: {_without_interval(found)}", result, why
    is_sharper = found.change.value > 0
    if share.interval.low > 0:
        what = "Sharpness explains" if is_sharper else "Flatness explains"
        part = "all" if share.interval.low >= 1 else "part or all" if share.interval.high >= 1 else "a part"
        also = "" if is_sharper else ": the large batch is flatter, and flatter minima are worse"
        return f"{what} {part} of the gap{also}", result, why
    if share.interval.high < 0:
        if is_sharper:
            return "No: what flattens the minimum widens the gap", result, why
        return "No: the large batch is flatter, and flatter minima are better", result, why
    most = f"at most {100 * share.interval.high:.0f} % of the gap"
    return f"Not shown: sharpness explains {most}", result, why


def _is_gap(total: Mean) -> bool:
    """Whether the large batch is significantly worse."""
    return total.interval is not None and total.interval.low > 0


def _checks(metric: Metric, one: Explained) -> str:
    """The slope, and what the tests of the assumptions say of a measure."""
    found = one.found
    per = "per tenfold" if one.is_log else "per unit"
    sign = -metric.sign  # the outcome is a loss of the score
    parts = [f"effect on test {metric.noun} not determined"]
    if found.slope is not None:
        value = metric.signed_difference(sign * found.slope.value)
        parts = [f"test {metric.noun} {value} {per}{_span(metric, found.slope.times(sign), '95 % CI ')}"]
    change = "hardly change it" if found.is_weak else "change it"
    parts.append(f"the interventions {change} (F = {plain_number(found.strength)})")
    kinds = [
        f"{kind.kind} {metric.signed(sign * kind.slope.value)}{_span(metric, kind.slope.times(sign))}"
        for kind in found.slopes
        if kind.slope
    ]
    if found.agreement is not None and not found.is_weak:
        agree = "disagree" if found.agreement < LEVEL else "agree"
        parts.append(f"the interventions {agree} (p = {found.agreement:.2g}; by kind: {', '.join(kinds)})")
    if found.interaction is not None and found.interaction.interval is not None:
        same = "the same" if found.interaction.interval.holds(0) else "not the same"
        parts.append(f"the effect is {same} at both batch sizes")
    if one.placebo is None:
        parts.append("not checked by the placebo")
    else:
        times = f"times {one.placebo:.3g}" if one.is_log else f"by {_percent(one.placebo)} of what the large batch does"
        said = "leaves it" if one.is_invariant else f"changes it {times}, and no prediction"
        share = "" if one.placebo_share is None else f", share {_percent(one.placebo_share.value)}"
        parts.append(f"the placebo {said}{share if not one.is_invariant else ''}")
    if not found.is_weak:
        parts.append(f"share 0 at a confounding of rho = {fixed(found.critical_rho, 2)}")
    return "; ".join(parts) + "."


def _span(metric: Metric, mean: Mean, what: str = "") -> str:
    """The interval of a difference in brackets, or nothing."""
    ends = mean.interval
    return f" ({what}{metric.signed(ends.low)} to {metric.signed(ends.high)})" if ends else ""


def _share_text(one: Explained) -> str:
    share = one.found.share
    if share is None or share.interval is None:
        return f"no known share of the gap ({_without_interval(one.found)})"
    low, high = (fixed(100 * end, 0) for end in (share.interval.low, share.interval.high))
    return f"{_percent(share.value)} of the gap (95 % CI {low} to {high})"


def _without_interval(found: Mediation) -> str:
    """Why the share is not determined."""
    if found.is_weak:
        return "too weak an experiment"
    if found.total.replicates < LEAST_FOR_SHARE:
        return f"a share of the gap needs {LEAST_FOR_SHARE} replicates or more"
    return "the experiment is too noisy" if _is_gap(found.total) else "no significant gap"


def _percent(share: float) -> str:
    return f"{fixed(100 * share, 0)} %"


def _amount(metric: Metric, mean: Mean) -> str:
    """A loss with its interval."""
    interval = mean.interval
    ends = f"95 % CI {metric.number(interval.low)} to {metric.number(interval.high)}" if interval else NO_INTERVAL
    return f"{metric.difference(mean.value)} ({ends}, n = {mean.replicates} replicates)".replace("-", "−")
