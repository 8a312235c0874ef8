"""How much of the large-batch gap is mediated by each measure of sharpness: an experiment, not an association.

Arms are plain training and interventions that change sharpness at a fixed batch size: SAM, ASAM, another learning rate,
weight decay. Every replicate has every arm at the smallest and the largest batch size. analysis/stats/mediation.py has
the statistics and their assumptions.

The placebo rescales layers. It changes measures that depend on the units of the weights, and nothing else, so its share
of the gap is 0. A measure that it changes cannot be the cause, whatever share the other interventions give it.

To avoid bias, exclusions never apply to single trials: an arm is excluded at a batch size if any of its trials there
diverged or missed the target, and a replicate is excluded if its plain trials are incomplete.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.load import (
    BOX_STRONG,
    IN_TRIALS,
    LARGEST,
    REPLICATE,
    Measure,
    Sweep,
    has_flag,
    measures_of,
    number_of,
    rows_of,
)
from analysis.data.measure_names import measure_in_words
from analysis.stats.means import Floats, Mean, resolution
from analysis.stats.mediation import LEAST_REPLICATES, Experiment, Mediation, as_log, mediation
from analysis.stats.wording import in_words
from trainables.config import MEASURING, TrialConfig
from trainables.measuring import SHIFTS
from trainables.records.flag_names import OFF_TARGET
from trainables.runtime.errors import UserError

FIELDS = ("learning_rate", "weight_decay", "sam_radius", "sam_adaptive", "rescaling")
PLACEBO = "rescaling"
PLAIN = ""
INVARIANT = 0.05  # of the measure: the placebo changes it by less
TEST = "plain test set"


@dataclass(frozen=True)
class Arm:
    """`kind`: SAM, learning rate, ...; "" for plain training. `name`: with its dose."""

    kind: str
    name: str


@dataclass(frozen=True, eq=False)
class Arms:
    """The experiment: `trial_ids` (replicates, 2, arms), None where there is no trial that counts.

    `left_out`: a sentence for each thing that does not count.
    """

    small: int
    large: int
    arms: tuple[Arm, ...]
    trial_ids: Any
    used: Any
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Explained:
    """What goes through a measure of the gap on a test set: `outcome`, TEST or the name of a shift.

    `is_log`: the measure is its log10. `found`: by all interventions but the placebo. `placebo`: by what factor the
    placebo changes the measure (of one that is not positive: by how much, in parts of what the large batch changes);
    `placebo_share`: the share of the gap by the placebo alone. Both are None without a placebo.
    """

    measure: Measure
    outcome: str
    is_log: bool
    found: Mediation
    placebo: float | None
    placebo_share: Mean | None

    @property
    def name(self) -> str:
        return measure_in_words(self.measure.measure)

    @property
    def is_invariant(self) -> bool | None:
        """Whether the placebo leaves the measure as it is; None without a placebo."""
        return None if self.placebo is None else abs(self.placebo - (1 if self.is_log else 0)) < INVARIANT


def has_intervention(sweep: Sweep) -> bool:
    """Whether the sweep is such an experiment: it has the placebo, and interventions that change a measure."""
    if not sweep.trials[PLACEBO].notna().any():
        return False
    try:
        return bool(explained(sweep))
    except UserError:
        return False


@lru_cache(maxsize=4)
def arms_of(sweep: Sweep) -> Arms:
    """The arms of the sweep at its smallest and largest batch.

    Raises UserError where there are no two batch sizes, no intervention or fewer than LEAST_REPLICATES replicates.
    """
    frame = sweep.trials
    frame = frame[frame["validation_size"].isna() & frame["switch_epoch"].isna()].copy()
    fixed = set(TrialConfig.__dataclass_fields__) - {*FIELDS, *REPLICATE, *MEASURING, "batch_size"}
    study = number_of(frame, sorted(fixed))
    frame = frame[study == _commonest(study)].copy()
    base = _plain_values(frame)
    frame["arm"] = [
        _arm(dict(zip(FIELDS, row, strict=True)), base) for row in frame[list(FIELDS)].itertuples(index=False)
    ]
    plain = frame[[arm.kind == PLAIN for arm in frame["arm"]]]
    sizes = sorted(plain["batch_size"].unique().tolist())
    if len(sizes) < 2:
        raise UserError(f"`results` must hold plain trials at two batch sizes or more, got {len(sizes)}")
    arms = sorted(set(frame["arm"]), key=lambda arm: (arm.kind != PLAIN, arm.kind == PLACEBO, arm.kind, arm.name))
    if not any(arm.kind not in (PLAIN, PLACEBO) for arm in arms):
        raise UserError(
            "`results` must hold interventions on the sharpness (SAM, ASAM, learning rates or weight decay) beside "
            "plain training, got none; sweeps/sharpness_intervention.py runs them"
        )
    frame["replicate"] = number_of(frame, REPLICATE)
    counts = (frame["status"] == "completed") & ~has_flag(frame, OFF_TARGET)
    numbers = sorted(frame["replicate"].unique().tolist())
    ids = np.full((len(numbers), 2, len(arms)), None, dtype=object)
    places = {arm: place for place, arm in enumerate(arms)}
    ends = sizes[0], sizes[-1]
    for trial_id, replicate, size, arm in frame.loc[
        counts & frame["batch_size"].isin(ends), ["trial_id", "replicate", "batch_size", "arm"]
    ].itertuples(index=False):
        ids[numbers.index(replicate), ends.index(size), places[arm]] = trial_id
    known = ids != None  # noqa: E711, by element
    whole = known[:, :, 0].all(axis=1)
    left_out = []
    if not whole.all():
        left_out.append(f"{(~whole).sum()} of {len(whole)} replicates are left out: their plain trials are incomplete.")
    if whole.sum() < LEAST_REPLICATES:
        raise UserError(
            f"`results` must hold {LEAST_REPLICATES} replicates or more whose plain trials at both batch sizes "
            f"completed at the target loss, got {whole.sum()}"
        )
    ids, known = ids[whole], known[whole]
    used = known.all(axis=0)
    for batch, size in enumerate(ends):
        for place, arm in enumerate(arms):
            if not used[batch, place]:
                count = int((~known[:, batch, place]).sum())
                left_out.append(
                    f"{arm.name} at batch {size} is left out: {count} of {len(known)} trials diverged, missed the "
                    "target loss or are missing."
                )
    return Arms(int(ends[0]), int(ends[1]), tuple(arms), ids, used, tuple(left_out))


def _numbers(trial_id: str, text: str) -> dict[str, float]:
    """The column `metrics` of a trial, NaN for null. Raises UserError where it holds something else than numbers."""
    try:
        found = {str(name): np.nan if value is None else float(value) for name, value in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(
            f"`results` must hold whole tables, got metrics of trial {trial_id} that are not a JSON object of numbers"
        ) from error
    return {name: value if np.isfinite(value) else np.nan for name, value in found.items()}


def outcomes_of(sweep: Sweep) -> dict[str, pd.Series]:
    """The primary metric by trial_id: on the plain test set, and under each shift, the mean over its severities."""
    trials = sweep.trials.set_index("trial_id")
    found = {TEST: trials[sweep.metric.column].astype("float64")}
    stem = f"test_{sweep.metric.name}_"
    rows = {str(key): _numbers(str(key), text) for key, text in trials["metrics"].dropna().items()}
    shifts = [
        shift for shift in SHIFTS if any(name.startswith(f"{stem}{shift}_") for row in rows.values() for name in row)
    ]
    for shift in shifts:
        values = {
            key: np.mean([value for name, value in row.items() if name.startswith(f"{stem}{shift}_")] or [np.nan])
            for key, row in rows.items()
        }
        found[shift] = pd.Series(values, dtype="float64").reindex(trials.index)
    return found


@lru_cache(maxsize=4)
def explained(sweep: Sweep) -> tuple[Explained, ...]:
    """Every measure on every test set. Raises UserError where the sweep is no such experiment."""
    arms = arms_of(sweep)
    found = [
        one
        for measure in _first_settings(measures_of(sweep))
        for name, outcome in outcomes_of(sweep).items()
        if (one := _explained(sweep, arms, measure, name, outcome)) is not None
    ]
    if not found:
        raise UserError(
            "`results` must hold a sharpness measure of all plain trials that the interventions change, got none; give "
            "--measures"
        )
    return tuple(found)


def named(found: Sequence[Explained]) -> Explained:
    """The measure that the answer rests on, on the plain test set: among those that the placebo does not change, the
    one that the interventions change most clearly (not the one with the largest share), or else box sharpness.
    """
    plain = [one for one in found if one.outcome == TEST]
    return max((one for one in plain if one.is_invariant), key=lambda one: one.found.strength, default=plain[0])


def points(sweep: Sweep, one: Explained) -> tuple[Floats, Floats]:
    """The means of the measure (its log10 where `is_log`) and of the metric, (2, arms), NaN for arms left out."""
    arms = arms_of(sweep)
    values, scores = _placed(arms, _values(sweep, one.measure)), _placed(arms, outcomes_of(sweep)[one.outcome])
    found = np.where(arms.used, values, np.nan)
    return (np.log10(found) if one.is_log else found).mean(axis=0), np.where(arms.used, scores, np.nan).mean(axis=0)


def _values(sweep: Sweep, measure: Measure) -> pd.Series:
    """The measure by trial_id; missing where it is beyond LARGEST."""
    in_trials = measure in IN_TRIALS
    found = sweep.trials.set_index("trial_id")[measure.column] if in_trials else rows_of(sweep, measure)["value"]
    return found.where(found.abs() <= LARGEST)


def _explained(sweep: Sweep, arms: Arms, measure: Measure, name: str, outcome: pd.Series) -> Explained | None:
    values, scores = (_placed(arms, part) for part in (_values(sweep, measure), -sweep.metric.sign * outcome))
    if not (np.isfinite(values[:, :, 0]).all() and np.isfinite(scores[:, :, 0]).all()):
        return None
    used = arms.used & np.isfinite(values).all(axis=0) & np.isfinite(scores).all(axis=0)
    is_log = as_log(values[:, used])
    taken = np.log10(values, where=values > 0, out=np.full_like(values, np.nan)) if is_log else values
    step = resolution(sweep.trials, sweep.metric.column) if name == TEST else 0.0
    experiment = Experiment(taken, scores, used, tuple(arm.kind for arm in arms.arms), step)
    kinds = sorted({arm.kind for arm in arms.arms} - {PLAIN, PLACEBO})
    own = experiment.of(kinds)
    if own.used.sum() < 4 or not own.moves:
        return None
    placebo, share = None, None
    rescaled = experiment.of([PLACEBO])
    if rescaled.used.sum() > 2:
        moved = [
            (taken[:, batch, place] - taken[:, batch, 0]).mean()
            for batch, place in zip(*np.nonzero(rescaled.used), strict=True)
            if place
        ]
        largest = max(moved, key=abs)
        placebo = 10**largest if is_log else largest / abs(own.change) if own.change else np.inf
        if rescaled.moves:
            share = mediation(rescaled, ()).share
    return Explained(measure, name, is_log, mediation(own), None if placebo is None else float(placebo), share)


def _placed(arms: Arms, values: pd.Series) -> Floats:
    """`values` by trial_id in the places of the trials, NaN where there is none."""
    flat = pd.Series(arms.trial_ids.ravel()).map(values.astype("float64"))
    placed: Floats = flat.to_numpy(np.float64).reshape(arms.trial_ids.shape)
    return placed


def _first_settings(measures: Sequence[Measure]) -> list[Measure]:
    """Each measure at its first setting, box sharpness by the strong method."""
    first: dict[str, Measure] = {BOX_STRONG.measure: BOX_STRONG}
    for measure in measures:
        first.setdefault(measure.measure, measure)
    return list(first.values())


def _commonest(values: pd.Series) -> Any:
    counts = values.value_counts(dropna=False)
    return sorted(counts[counts == counts.max()].index, key=lambda value: (pd.isna(value), value))[0]


def _plain_values(frame: pd.DataFrame) -> dict[str, Any]:
    """FIELDS of plain training: neither SAM nor the placebo, and the commonest learning rate and weight decay."""
    plain = frame[frame["sam_radius"].isna() & frame[PLACEBO].isna()]
    return {name: _commonest(plain[name]) for name in FIELDS} if len(plain) else dict.fromkeys(FIELDS)


def _arm(row: dict[str, Any], base: dict[str, Any]) -> Arm:
    changed = [name for name in FIELDS if not (row[name] == base[name] or (pd.isna(row[name]) and pd.isna(base[name])))]
    kinds, names = [], []
    for name in changed:
        if name == "sam_adaptive":
            continue
        kind = ("ASAM" if row["sam_adaptive"] else "SAM") if name == "sam_radius" else in_words(name)
        kinds.append(kind)
        names.append(f"{kind} {row[name]:g}")
    return Arm(" and ".join(kinds), " and ".join(names) or "plain training")
