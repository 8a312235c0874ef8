"""From batch sizes and remedies to trials: one Optuna study for each, then the best of each trained again.

Which trial is next, and what its end means, without Ray: `Campaign.next` says what can start now, `Campaign.end` takes
what came of it. Studies are tuned side by side; a study that has spent its budget is retrained while others go on.

Tuning and testing are apart by construction. Tuning trials hold out `validation_size` examples of the training pool and
never see the test set; where a dataset is one pool (digits), a test set is taken from it first, once for all. What is
chosen is then trained with fresh seeds and fresh draws of the training examples from that pool, and tested once.

Each batch size is trained again at two settings: `tuned`, its own best, and `untuned`, the best of the smallest batch
without a remedy, which is what a comparison at one fixed setting would have used.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.plan.grid import Grid, expand, with_base_batch_size
from sweeps.plan.moments import with_moments
from sweeps.tuning.goals import Goals
from sweeps.tuning.optuna_study import Budget, Outcome, Point, Rules, TuningStudy
from sweeps.tuning.search_space import Values
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.data.source import draw
from trainables.remedies import remedy_of
from trainables.runtime.errors import UserError
from trainables.units import epochs_after

Choice = Callable[[], tuple[int, Values] | None]  # number and values of a study's trial, once it is finished


@dataclass(frozen=True)
class Cell:
    """What is tuned by itself: a batch size with a remedy: its name (`none`), and its fields of trainables.remedies.

    `rung`: of a ladder of optimizers (sweeps/tuning/optimizer_ladder.py), the name of this one.
    """

    batch_size: int
    remedy: str
    fields: tuple[tuple[str, Any], ...] = ()
    rung: str | None = None

    @property
    def name(self) -> str:
        if self.rung is not None:
            return f"{self.rung}, batch {self.batch_size}"
        return f"batch {self.batch_size}" + (f", {self.remedy}" if self.remedy != "none" else "")

    @property
    def study(self) -> str:
        """What its Optuna study is named by, behind the name of the sweep."""
        return self.name if self.rung is not None else f"batch {self.batch_size}, {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is tuned and trained again. `grid`: what every trial shares, its axes aside; `seeds`: of the retraining;
    `goals`: where the search is for the fewest steps to them. `has_warmup_in_steps`: the range of the warmup in `rules`
    is in steps, the same at every batch size, and so another range of epochs at each.

    Raises UserError for a tuning seed among `seeds`, a first batch size without a plain study, and whatever no trial
    of the plan could be.
    """

    grid: Grid
    source: Source
    validation_size: int
    rules: Rules
    budget: Budget
    seeds: Sequence[int]
    goals: Goals | None = None
    has_warmup_in_steps: bool = False

    def __post_init__(self) -> None:
        if self.rules.seed in self.seeds:
            raise UserError(f"`--tuning-seed` must not be one of the --seeds of the retraining, got {self.rules.seed}")
        if len(self.grid.optimizers) > 1:
            names = " ".join(name for name, _ in self.grid.optimizers)
            raise UserError(f"`--optimizer` takes one optimizer here, got {names}; tune each in a sweep of its own")
        if not any(remedy == {} for remedy in self.grid.remedies):
            raise UserError("`--remedies` must include none, because the others are compared with it")
        if len(self.cells) == 1:
            raise UserError(
                "there is nothing to compare: give two or more --batch-sizes, or one of --remedies besides none; "
                f"got {self.cells[0].name}"
            )
        for cell in self.cells:
            space = self.rules_of(cell).space
            for values in (space.whole({}), {name: getattr(space, name)[1] for name in space.whole({})}):
                self.retrained(cell, values)
                self.tuned(cell, values)

    @property
    def cells(self) -> list[Cell]:
        """Every batch size with every remedy, smallest batch first; duplicates are merged."""
        found: dict[tuple[int, str], Cell] = {}
        for size in sorted(set(self.grid.batch_sizes)):
            for remedy in self.grid.remedies:
                cell = self._cell(size, remedy)
                found.setdefault((size, cell.remedy), cell)
        return sorted(found.values(), key=lambda cell: (cell.batch_size, cell.remedy != "none"))

    def _cell(self, size: int, remedy: Mapping[str, Any], rung: str | None = None) -> Cell:
        remedy = with_base_batch_size(remedy, self.grid)
        cell = Cell(size, "", tuple(sorted(remedy.items())), rung)
        config = self._config(cell, self.rules_of(cell).space.whole({}), 0)
        return dataclasses.replace(cell, remedy=remedy_of(vars(config)))

    def rules_of(self, cell: Cell) -> Rules:
        """The rules of the study of `cell`."""
        if not self.has_warmup_in_steps:
            return self.rules
        space = self.rules.space
        config = self._config(cell, space.whole({}) | {"warmup_epochs": 0.0}, 0)
        low, high = (
            epochs_after(int(steps), config.train_size, config.batch_size) / config.stretch
            for steps in space.warmup_epochs
        )
        return dataclasses.replace(self.rules, space=dataclasses.replace(space, warmup_epochs=(low, high)))

    def carried(self, values: Values, origin: Cell, cell: Cell) -> Values:
        """The `values` of the study of `origin` for `cell`: with as many steps of warmup, where that is searched."""
        own, other = (self.rules_of(one).space.warmup_epochs[1] for one in (cell, origin))
        if not self.has_warmup_in_steps or not other:
            return values
        return values | {"warmup_epochs": values["warmup_epochs"] * own / other}

    def grid_of(self, cell: Cell) -> Grid:
        """What all trials of `cell` share, its batch size and remedy aside."""
        return self.grid

    def tuned(self, cell: Cell, values: Values) -> TrialConfig:
        """The tuning trial at `values`: it has validation examples and no test set, and measures nothing."""
        config = self._config(cell, values, self.rules.seed, self.validation_size)
        return dataclasses.replace(config, measures="", noise_scale=None)

    def samples(self) -> list[TrialConfig]:
        """A trial of every cell as it is tuned, and one that is tested and measured."""
        first = self.cells[0]
        tuned = [self.tuned(cell, self.rules_of(cell).space.whole({})) for cell in self.cells]
        return [*tuned, *self.retrained(first, self.rules_of(first).space.whole({}))[:1]]

    def retrained(self, cell: Cell, values: Values) -> list[TrialConfig]:
        """The trials at `values` that are tested: a fresh seed and split each."""
        return [self._config(cell, values, seed) for seed in self.seeds]

    def _config(self, cell: Cell, values: Values, seed: int, validation_size: int | None = None) -> TrialConfig:
        grid = dataclasses.replace(
            with_moments(self.grid_of(cell), values),
            batch_sizes=[cell.batch_size],
            remedies=[dict(cell.fields)],
            learning_rates=[values["learning_rate"]],
            warmup_epochs=[values["warmup_epochs"]],
            weight_decay=values["weight_decay"],
            seeds=[seed],
            validation_size=validation_size,
        )
        return expand(grid, self.source)[0]


def with_test_set(source: Source, test_size: int | None) -> Source:
    """`source` itself where it has a test set; else with `test_size` examples of its one pool (None: half) as such.

    The draw is the same in every run. Raises UserError where nothing would be left to train on.
    """
    if source.test_inputs is not None:
        return source
    pool = len(source.inputs)
    size = test_size or pool // 2
    if not 1 <= size < pool:
        raise UserError(f"`--test-size` must be between 1 and {pool - 1}, got {size}")
    test, rest = draw(pool, size, 0, "test set")
    assert test is not None  # some are left
    return dataclasses.replace(
        source,
        inputs=source.inputs[rest],
        labels=source.labels[rest],
        test_inputs=source.inputs[test],
        test_labels=source.labels[test],
    )


@dataclass(frozen=True)
class Known:
    """What the results folder holds of a trial that ended in an earlier run."""

    outcome: Outcome
    curve: Sequence[Point]
    measured: Collection[str] = ()  # column of trials.parquet

    def is_complete(self, config: TrialConfig) -> bool:
        """Whether it has all measures that `config` asks for."""
        return self.outcome.status == "diverged" or config.lacking(self.measured) is None


class Campaign:
    """Runs through `plan`: `next`, `report`, `end`, until nothing is open and nothing is next."""

    def __init__(self, plan: Plan, studies: Mapping[Cell, TuningStudy], known: Mapping[str, Known]) -> None:
        self.plan, self.studies = plan, studies
        self.open: dict[str, tuple[Cell, int | None]] = {}  # running trials; the number in the study where tuning
        self.failed: dict[str, TrialConfig] = {}
        self.begun: dict[str, TrialConfig] = {}
        self._known = known
        self._tuning: dict[tuple[Cell, int], tuple[str, TrialConfig]] = {}  # asked for often
        self._retraining: dict[Cell, dict[str, dict[str, TrialConfig]]] = {cell: {} for cell in studies}

    def described(self, cell: Cell) -> dict[str, Any]:
        """What was chosen for `cell`, for tuning.json."""
        study = self.studies[cell]
        best = study.best() if study.is_finished else None
        return {
            "best": None if best is None else {"number": best[0], **best[1]},
            "edges": [] if best is None else self.plan.rules_of(cell).space.edges(best[1]),
        }

    def next(self) -> TrialConfig | None:
        """The next trial to start now; None while nothing can start, and, with none open, when all is done."""
        while (ready := next(self._ready(), None)) is not None:
            cell, number, key, config = ready
            self.begun[key] = config
            self.open[key] = (cell, number)
            if not self._is_known(key, config):
                return config
            self.report(key, self._known[key].curve)
            self.end(self._known[key].outcome)
        return None

    def report(self, key: str, curve: Sequence[Point]) -> bool:
        """Notes how far the open trial `key` is; returns whether it is to be stopped early."""
        cell, number = self.open[key]
        if number is None:
            return False
        self.studies[cell].report(number, curve)
        return self.studies[cell].should_stop(number, curve)

    def end(self, outcome: Outcome) -> None:
        """Notes how an open trial ended."""
        cell, number = self.open.pop(outcome.trial_id)
        if number is not None:
            self.studies[cell].end(number, outcome)
        if outcome.status == "failed":
            self.failed[outcome.trial_id] = self.begun[outcome.trial_id]

    def choices(self, cell: Cell) -> dict[str, tuple[TuningStudy, Choice]]:
        """The settings at which `cell` is trained again, by name: the study that each is from, and what chooses it."""
        own, reference = self.studies[cell], self.studies[self.reference]
        return {"tuned": (own, own.best), "untuned": (reference, reference.best)}

    def retraining(self, cell: Cell) -> dict[str, dict[str, TrialConfig]]:
        """The trials, by key, that train `cell` again at the settings known so far, by the names of `choices`."""
        found = self._retraining[cell]
        for name, (study, choose) in self.choices(cell).items():
            if name not in found and study.is_finished and (best := choose()) is not None:
                values = best[1] if study is self.studies[cell] else self.plan.carried(best[1], self.reference, cell)
                found[name] = {config.trial_id: config for config in self.plan.retrained(cell, values)}
        return found

    def _retrainings(self, cell: Cell) -> int:
        """How many trials train `cell` again: at most, until its studies are finished."""
        choices = set(self.choices(cell).values())
        if all(study.is_finished for study, _ in choices):
            return len({key for configs in self.retraining(cell).values() for key in configs})
        return len(choices) * len(self.plan.seeds)

    def missing(self) -> dict[Cell, int]:
        """How many trials of each cell have not ended yet, as far as can be known."""
        found = {}
        for cell, study in self.studies.items():
            configs = {key: one for settings in self.retraining(cell).values() for key, one in settings.items()}
            ended = sum(
                self._is_known(key, one) or (key in self.begun and key not in self.open) for key, one in configs.items()
            )
            found[cell] = study.planned - study.ended + self._retrainings(cell) - ended
        return found

    def planned(self) -> int:
        """The number of all trials, as far as can be known."""
        return sum(study.planned + self._retrainings(cell) for cell, study in self.studies.items())

    def records(self) -> dict[int, int]:
        """How many trials of each batch size will have a record, so far as is known: those stopped early have none."""
        found: dict[int, int] = {}
        for cell, study in self.studies.items():
            stopped = sum(row["status"] == "stopped" for row in study.rows())
            found[cell.batch_size] = found.get(cell.batch_size, 0) + study.planned - stopped + self._retrainings(cell)
        return found

    @property
    def reference(self) -> Cell:
        """The smallest batch size without a remedy."""
        return next(iter(self.studies))

    def _is_known(self, key: str, config: TrialConfig) -> bool:
        known = self._known.get(key)
        return known is not None and known.is_complete(config)

    def _ready(self) -> Iterator[tuple[Cell, int | None, str, TrialConfig]]:
        for cell, study in self.studies.items():
            for number, values in study.proposals():
                if (cell, number) not in self._tuning:
                    config = self.plan.tuned(cell, values)
                    self._tuning[cell, number] = config.trial_id, config
                key, config = self._tuning[cell, number]
                if key not in self.begun:
                    yield cell, number, key, config
        for cell in self.studies:
            for configs in self.retraining(cell).values():
                for key, config in configs.items():
                    if key not in self.begun:
                        yield cell, None, key, config
