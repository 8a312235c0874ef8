"""The grid: axes of values in, distinct trials out.

Each combination of batch size, learning rate, warmup, switch-point, seed and split seed is a trial, in canonical
form, so that combinations that mean the same trial (a switch to the same batch size, a switch after the last
epoch) are in the list once. The order is by replicate first, so that a sweep that is interrupted has covered
the whole grid for its first seeds, and within a replicate smallest batch, hence longest trial, first. Trials with a
switch come after all others: they start from the state that those have left at the switch epoch.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sweeps.plan.units import resolved, switch_epoch_of, warmup_of
from sweeps.plan.users_network import fingerprint_of, fingerprint_of_task, fingerprint_of_trial, with_absolute_paths
from sweeps.plan.users_optimizer import optimizer_fingerprint, with_checked_optimizer
from sweeps.plan.users_schedule import schedule_fingerprint
from trainables.config import DEFAULT_MEASURES, TrialConfig, model_options_json
from trainables.data import Source
from trainables.measures.costs import GRADIENTS, default_examples, unknown_measure
from trainables.measuring import MEASURE_DTYPES, SHIFTS
from trainables.optimizer_settings import OptimizerSetting, canonical_options
from trainables.remedies import GIVEN
from trainables.runtime.errors import UserError
from trainables.units import Amount, epochs_after, read_amount

ALL: Literal["all"] = "all"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The axes, and what all trials have in common.

    `split_seeds` None gives each seed a data split of its own (split_seed = seed); a list is an axis of its own.
    `switch_batch_size` None is the largest batch size of the grid. `remedies` is an axis too: each is a set of fields
    of trainables.remedies, the empty one plain training; their `base_batch_size` is the smallest of the grid where
    it is not given. `optimizers` is an axis of names with their options; `parameter_groups` are as in
    trainables.optimizer_settings. `measures` are names of trainables.measures.by_name.MEASURES, or none. They see
    `measure_examples` of the training examples: so many, ALL of them, or by None those of
    `trainables.measures.costs.default_examples`.

    Warmups and switches are numbers of epochs, or amounts in any unit; `budget` (such as 2Mtokens) takes the place of
    `epochs`. `schedule` are the fields of trainables.remedies of the learning rate's decay, where all trials have the
    same one.
    """

    batch_sizes: Sequence[int]
    learning_rates: Sequence[float]
    warmup_epochs: Sequence[float | Amount] = (0.0,)
    switch_epochs: Sequence[float | Amount | None] = (None,)
    seeds: Sequence[int] = (0,)
    split_seeds: Sequence[int] | None = None
    remedies: Sequence[Mapping[str, Any]] = ({},)
    switch_batch_size: int | None = None
    switch_learning_rate: str = "keep"
    switch_optimizer_state: str = "reset"
    trial: str | None = None
    model: str = "mlp"
    model_options: dict[str, object]
    build_timeout: float | None = None  # seconds, for a user's own model
    optimizers: Sequence[OptimizerSetting] = (("adam", {}),)
    parameter_groups: Sequence[str] = ()
    momentum: float | None = None
    weight_decay: float = 0.0
    epochs: int | None = None
    budget: str | None = None
    evaluate_every: str | None = None
    schedule: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    target_loss: float | None = None
    target_metric: float | None = None
    target_test_loss: float | None = None
    precision: str = "float32"
    train_size: int | None = None
    test_size: int | None = None
    validation_size: int | None = None
    measure_examples: int | Literal["all"] | None = None
    measure_dtype: str = MEASURE_DTYPES[0]
    measures: Sequence[str] = DEFAULT_MEASURES
    measure_batch_norm: str = "running"
    measure_batch_size: int | None = None
    measure_every: int | None = None
    measure_share: float | None = None
    shifts: Sequence[str] = ()
    rescaling: float | None = None
    noise_scale: str | None = None

    def __post_init__(self) -> None:
        axes = (
            "batch_sizes", "learning_rates", "warmup_epochs", "switch_epochs", "seeds", "split_seeds", "remedies",
            "optimizers",
        )  # fmt: skip
        for axis in axes:
            values = getattr(self, axis)
            if values is not None and len(values) == 0:
                raise UserError(f"`{axis}` must hold at least one value, got none")
        _in_order(self.measures)
        for remedy in (*self.remedies, self.schedule):
            if "decay" in remedy and "decay" in self.schedule and remedy is not self.schedule:
                raise UserError("`--schedule` and a decay in --remedies both set the schedule; leave out one of them")
            for name in remedy:
                if name not in GIVEN:
                    raise UserError(f"`remedies` must be made of {', '.join(GIVEN)}, got {name!r}")


IN_ANOTHER_FORM = {  # than in a trial
    "train_size", "test_size", "model", "model_options", "parameter_groups", "warmup_epochs", "switch_batch_size",
    "switch_optimizer_state", "measure_examples", "measures", "shifts",
}  # fmt: skip
_GRIDS, _TRIALS = ({field.name for field in dataclasses.fields(kind)} for kind in (Grid, TrialConfig))
SHARED = (_GRIDS & _TRIALS) - IN_ANOTHER_FORM  # by all trials, as the grid has them


def expand(grid: Grid, source: Source) -> list[TrialConfig]:
    """The distinct trials of `grid` on `source`; raises UserError for the first value out of range."""
    grid = resolved(grid, source)
    train_size, test_size = source.sizes(grid.train_size, grid.test_size, grid.validation_size or 0)
    if (largest := max(grid.batch_sizes)) > train_size:  # before a switch to it is blamed
        raise UserError(f"`--batch-sizes`: {largest} is larger than the training set ({train_size} examples)")
    measures = ",".join(_in_order(grid.measures))
    measure_examples = train_size
    if grid.measure_examples is None:
        target = grid.target_metric if grid.target_loss is None else grid.target_loss
        measure_examples = default_examples(train_size, _epochs(grid, train_size), target)
    elif grid.measure_examples != ALL:
        measure_examples = min(grid.measure_examples, train_size)
    drawn = source.is_drawn(train_size, test_size)
    data_fingerprint = source.fingerprint_of(train_size, test_size)
    model, model_options = with_absolute_paths(grid.model, grid.model_options)
    model_fingerprint = fingerprint_of(model, model_options, source, grid.build_timeout)
    trial_fingerprint = fingerprint_of_trial(grid.trial)
    task_fingerprint = fingerprint_of_task(source.task)
    shared = {name: getattr(grid, name) for name in SHARED}
    replicates = [
        (seed, split_seed)
        for seed in grid.seeds
        for split_seed in ([seed] if grid.split_seeds is None else grid.split_seeds)
    ]
    cells = itertools.product(
        replicates, sorted(grid.batch_sizes), grid.learning_rates, grid.warmup_epochs, grid.switch_epochs,
        grid.remedies, grid.optimizers,
    )  # fmt: skip
    trials: dict[str, TrialConfig] = {}
    for (seed, split_seed), batch_size, learning_rate, warmup, switch, remedy, (name, options) in cells:
        remedy = {**grid.schedule, **remedy, **schedule_fingerprint(remedy.get("decay", grid.schedule.get("decay")))}
        switch_epoch = switch_epoch_of(switch, source, train_size, batch_size, _planned(grid))
        config = TrialConfig(
            dataset=source.name,
            data_fingerprint=data_fingerprint,
            train_size=train_size,
            test_size=test_size,
            split_seed=split_seed if drawn else None,
            task=None if source.task == source.dataset_task else source.task,
            task_fingerprint=task_fingerprint,
            trial_fingerprint=trial_fingerprint,
            model=model,
            model_options=model_options_json(model_options),
            model_fingerprint=model_fingerprint,
            optimizer=name,
            optimizer_options=canonical_options(options),
            optimizer_fingerprint=optimizer_fingerprint(name),
            parameter_groups=" ".join(grid.parameter_groups) or None,
            learning_rate=learning_rate,
            batch_size=batch_size,
            **warmup_of(warmup, source, train_size),
            switch_epoch=switch_epoch,
            switch_batch_size=None if switch_epoch is None else grid.switch_batch_size or max(grid.batch_sizes),
            switch_optimizer_state=None if switch_epoch is None else grid.switch_optimizer_state,
            seed=seed,
            measure_examples=measure_examples,
            measures=measures,
            shifts=",".join(name for name in SHIFTS if name in grid.shifts) or None,
            **shared,
            **with_base_batch_size(remedy, grid),
        )
        config = with_checked_optimizer(config).canonical()
        trials.setdefault(config.trial_id, config)
    return sorted(trials.values(), key=lambda config: config.switch_epoch is not None)


def with_base_batch_size(remedy: Mapping[str, Any], grid: Grid) -> Mapping[str, Any]:
    """`remedy` with the `base_batch_size` that it needs; where it has none, the smallest batch size of `grid`."""
    is_relative = "learning_rate_scaling" in remedy or "same_steps" in remedy
    return {"base_batch_size": min(grid.batch_sizes), **remedy} if is_relative else remedy


def _planned(grid: Grid) -> Amount:
    """The most training of each trial."""
    return Amount(grid.epochs or 1, "epochs") if grid.budget is None else read_amount("budget", grid.budget)


def _epochs(grid: Grid, train_size: int) -> float:
    """Its epochs, the fewest of all batch sizes."""
    planned = _planned(grid)
    if planned.unit == "steps":
        return epochs_after(int(planned.value), train_size, min(*grid.batch_sizes, train_size))
    return planned.in_epochs(train_size)


def _in_order(measures: Sequence[str]) -> list[str]:
    """`measures`, each once and in one order; UserError for an unknown one."""
    for name in measures:
        if name not in GRADIENTS:
            raise unknown_measure(name, GRADIENTS)
    return [name for name in GRADIENTS if name in measures]
