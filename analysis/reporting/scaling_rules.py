"""What is said of a results folder of sweeps/scaling_rules.py: a verdict for each rule, the table and the figure."""

import json

from analysis.charts.scaling_rules import scaling_rules_figure
from analysis.charts.style import save
from analysis.data.load import Sweep
from analysis.questions.scaling_rules import JudgedRule, Referee, Tally, Verdict, referee
from analysis.stats.wording import capitalized, counted, out_of, plain_number
from trainables.optimizer_settings import options_label
from trainables.storage.folders import write_atomically


def report(sweep: Sweep) -> list[str]:
    """The lines, after the figure and scaling_rules.json are written."""
    found = referee(sweep)
    written = save(scaling_rules_figure(found), sweep.folder, "scaling_rules")
    table = sweep.folder / "scaling_rules.json"
    write_atomically(table, as_json(found).encode())
    return [*map(str, written), str(table), *lines(found)]


def lines(found: Referee) -> list[str]:
    """The answer in words: what is compared, then each rule's verdict with its values."""
    base, metric, batch = found.base, found.metric, found.batch_unit.batch
    text = [
        f"Scaling rules from batch B = {batch(base.batch_size)}, learning rate "
        f"{plain_number(base.config.learning_rate)}, to k B at equal examples: what retuning the learning rate still "
        f"gains in test {metric.noun}. Settings are chosen on validation examples by "
        f"{counted(found.tuning_seeds, 'seeds')} and judged on the test set by "
        f"{counted(found.replicates, 'other seeds')}. 95 % CI, simultaneous over {len(found.rules)} "
        f"rules; margin {metric.shown_margin()}.",
        "Retuned:",
    ]
    for choice, level, tally in zip(found.choices, found.levels, found.tallies, strict=True):
        judged = f"{metric.named(level.value)}{out_of(level, found.replicates)}" if level else _without_level(tally)
        edge = " (the end of the grid; widen --learning-rates)" if choice.is_edge else ""
        rate = plain_number(choice.config.learning_rate)
        text.append(f"  batch {batch(choice.batch_size)}: learning rate {rate}{edge}, {judged}")
    for judged_rule in found.rules:
        text.append(f"{capitalized(judged_rule.rule.words)}: {verdict_words(found, judged_rule)}.")
        for verdict in judged_rule.verdicts:
            text.append(f"  {found.factor(verdict.batch_size)}: {_value(found, verdict)}")
        for size in judged_rule.undefined:
            text.append(f"  {found.factor(size)}: no setting, a decay rate would be below 0")
    text += [f"{capitalized(rule.words)}: left out, it needs {rule.needs}." for rule in found.left_out]
    return text


def verdict_words(found: Referee, judged: JudgedRule) -> str:
    """Such as `shown within 0.5 percentage points of retuning up to 4 B; worse than retuning from 16 B on`."""
    margin = found.metric.shown_margin()
    within = (
        f"not shown within {margin} of retuning at any k"
        if judged.within is None
        else f"within {margin} of retuning up to {found.factor(judged.within)}"
    )
    worse = "nowhere shown to be worse" if judged.worse is None else f"worse from {found.factor(judged.worse)} on"
    lost = [verdict.batch_size for verdict in judged.verdicts if verdict.carried.diverged]
    return f"{within}; {worse}" + (f"; runs diverged at {found.factor(min(lost))}" if lost else "")


def as_json(found: Referee) -> str:
    """A row for each rule and batch size. Gains are in the scale of the metric's column, null where not known."""
    rows = []
    for judged in found.rules:
        for verdict in judged.verdicts:
            gain = verdict.gain
            interval = None if gain is None else gain.interval
            rows.append(
                {
                    "rule": judged.rule.name,
                    "factor": verdict.batch_size / found.base.batch_size,
                    "batch_size": verdict.batch_size,
                    "learning_rate": verdict.config.learning_rate,
                    "optimizer_options": json.loads(verdict.config.optimizer_options),
                    "weight_decay": verdict.config.weight_decay,
                    "average_decay": verdict.config.average_decay,
                    "gain_of_retuning": None if gain is None else gain.value,
                    "low": None if interval is None else interval.low,
                    "high": None if interval is None else interval.high,
                    "replicates": None if gain is None else gain.replicates,
                    "diverged": verdict.carried.diverged,
                }
            )
    retuned = [
        {
            "batch_size": choice.batch_size,
            "learning_rate": choice.config.learning_rate,
            "is_edge": bool(choice.is_edge),
            found.metric.column: None if level is None else level.value,
            "diverged": tally.diverged,
        }
        for choice, level, tally in zip(found.choices, found.levels, found.tallies, strict=True)
    ]
    about = {"metric": found.metric.name, "margin": found.metric.margin, "comparisons": len(found.rules)}
    return json.dumps({**about, "retuned": retuned, "rules": rows}, indent=2) + "\n"


def _value(found: Referee, verdict: Verdict) -> str:
    config, base = verdict.config, found.base.config
    parts = [f"learning rate {plain_number(config.learning_rate)}"]
    if config.optimizer_options != base.optimizer_options:
        parts.append(options_label(config.optimizer_options, option_value))
    for name in ("weight_decay", "average_decay"):
        if getattr(config, name) != getattr(base, name):
            parts.append(f"{name.replace('_', ' ')} {plain_number(getattr(config, name))}")
    return f"{_gain(found, verdict)}; {', '.join(parts)}"


def option_value(value: float) -> str:
    """An option of an optimizer: three digits of an epsilon, six of a beta, whose distance from 1 counts."""
    return f"{value:g}" if value > 0.1 else plain_number(value)


def _gain(found: Referee, verdict: Verdict) -> str:
    metric, gain = found.metric, verdict.gain
    if gain is None:
        return _without_gain(verdict)
    if gain.interval is None:
        return f"{metric.signed_difference(gain.value)} (no interval{out_of(gain, found.replicates)})"
    if gain.interval.low == gain.interval.high == 0:
        return "0, the very setting that retuning chose"
    ends = f"{metric.signed(gain.interval.low)} to {metric.signed(gain.interval.high)}"
    return f"{metric.signed_difference(gain.value)} (95 % CI {ends}{out_of(gain, found.replicates)})"


def _without_gain(verdict: Verdict) -> str:
    """Why a rule is not compared with retuning."""
    carried, retuned = verdict.carried, verdict.retuned
    if carried.diverged:
        return _diverged(carried)
    if retuned.diverged:
        return f"not compared, {_diverged(retuned, 'retuned runs')}"
    return "not compared, no seed has a run of both settings"


def _without_level(tally: Tally) -> str:
    """Why a retuned setting has no result."""
    return _diverged(tally) if tally.diverged else "not judged, no run"


def _diverged(tally: Tally, runs: str = "runs") -> str:
    return f"{tally.diverged} of {tally.runs} {runs} diverged"
