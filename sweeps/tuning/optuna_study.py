"""One Optuna study: the search for the nuisance hyperparameters of one batch size and remedy, in rounds.

Why rounds. Asked whenever a worker is free, a sampler sees whatever has ended by then, and the study depends on timing.
Here `round_size` trials are asked for at once, from what all earlier rounds gave, and the next round waits for the last
of them; early stopping too compares with earlier rounds alone. So the same seed, round size and budget give the same
study, trial by trial, however many run side by side and whatever is killed in between.

The first 8 points are a Latin hypercube, the same for every batch size and remedy; all later ones come from Optuna's
TPE (multivariate; trials of the same round count as bad, so that they spread). Each is drawn with a seed of its own, so
a resumed study needs no saved sampler.

Early stopping is the median rule (Golovin et al. 2017, Google Vizier, section 3.2.1, with the value in the place of
the running average): at epochs g, 2g, 4g, ... a trial is stopped when its best so far is worse than the median of the
best so far of the trials of earlier rounds. It is judged from 4 of them on.

Traps: `tell` wants a number, so a diverged trial is told as infinitely bad, which the sampler learns from; a failed
trial counts for the budget. A trial that was asked for when the driver was killed is RUNNING in the storage, and is
taken up again.
"""

import contextlib
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeps.tuning.search_space import Space, Values
from trainables.runtime.errors import UserError
from trainables.runtime.seeds import derive_seed

LEAST_TO_COMPARE = 4
LOCKED_SECONDS = 120.0  # how long a locked SQLite file is waited for
ACCURACY, LOSS, COST = "validation_accuracy", "validation_loss", "cost"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Budget:
    """What every study may spend: so many trials, or optimizer steps, one of the two.

    With `steps` a round begins while less than that has been done, so that a study overruns by less than a round.
    """

    trials: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Point:
    """A validation result along the run."""

    epoch: int
    loss: float | None
    metric: float | None


@dataclass(frozen=True)
class Outcome:
    """How a tuning trial ended: `status` completed, diverged, stopped (early) or failed.

    `steps_to_goals` and `cost` are of a search for the fewest steps to goals: see sweeps.tuning.goals.

    `validation_metric`: the primary metric on the validation examples.
    """

    trial_id: str
    status: str
    epochs_done: float = 0
    steps: int = 0
    validation_loss: float | None = None
    validation_metric: float | None = None
    train_seconds: float = 0.0
    steps_to_goals: list[float | None] | None = None
    cost: float | None = None


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What makes a study the study it is, beside its name and what its trials train.

    `objective`: validation_loss; or validation_ and the name of the primary metric, of which the higher is the better
    where `maximize`; or cost, of the `goals`.
    """

    space: Space
    objective: str
    seed: int
    round_size: int
    grace_epochs: int
    maximize: bool = True
    goals: tuple[float, ...] | None = None

    def declared(self) -> dict[str, Any]:
        """All of it as JSON has it, without `maximize`, which the objective decides, and without what is None."""
        declared = json.loads(json.dumps({**asdict(self), "space": self.space.ranges}))
        return {name: value for name, value in declared.items() if name != "maximize" and value is not None}


class TuningStudy:
    """The study `name` in `storage`; begun where it is new. Raises UserError where it is another one's.

    `subject` names what its trials train (a hash): a study that was begun with other rules or of another subject is
    refused, and so is one that exists where `resume` is not asked for.
    """

    def __init__(self, name: str, storage: Any, rules: Rules, budget: Budget, *, subject: str, resume: bool) -> None:
        self.rules, self.budget, self.name = rules, budget, name
        self._sign = -1.0 if rules.maximize else 1.0
        self._trials: dict[int, optuna.Trial] = {}
        self._read: list[FrozenTrial] | None = None  # what the storage holds, until something is written
        if not resume and name in optuna.get_all_study_names(storage):
            raise UserError(
                f"`--storage` already holds the study {name!r}; --resume continues it, another --name begins a new one"
            )
        self._study = optuna.create_study(
            study_name=name,
            storage=storage,
            direction="maximize" if rules.maximize else "minimize",
            load_if_exists=True,
        )
        declared = {"subject": subject, **rules.declared()}
        found = self._study.user_attrs.get("declared")
        if found is None:
            self._study.set_user_attr("declared", declared)
        elif found != declared:
            names = ", ".join(key for key in declared if found.get(key) != declared[key])
            raise UserError(
                f"`--name`: the study {name!r} was begun with other options ({names}; subject: data, model or "
                "training); give the same ones, or another --name"
            )
        points = rules.space.startup_points(rules.seed)[: budget.trials]
        for point in points[len(self._study.get_trials(deepcopy=False)) :]:
            self._study.enqueue_trial(point)

    def proposals(self) -> list[tuple[int, Values]]:
        """Number and values of the trials that have been asked for and have not ended; asks for a round when it is
        time. Empty when the study is finished."""
        asked = self._asked()
        if all(trial.state in FINISHED for trial in asked) and not self._is_spent(asked):
            goal = (len(asked) // self.rules.round_size + 1) * self.rules.round_size
        else:  # a driver that was killed may have asked for a part of a round
            goal = math.ceil(len(asked) / self.rules.round_size) * self.rules.round_size
        for number in range(len(asked), min(goal, self.budget.trials or goal)):
            self._sample(number, self._ask(number))
        for trial in self._asked():
            if trial.state == TrialState.RUNNING and trial.params.keys() != self.rules.space.distributions.keys():
                self._sample(trial.number, self._handle(trial))
        return [
            (trial.number, self.rules.space.whole(trial.params))
            for trial in self._asked()
            if trial.state == TrialState.RUNNING
        ]

    def report(self, number: int, curve: Sequence[Point]) -> None:
        """Tells Optuna, and so its dashboard, how far a running trial is."""
        frozen = self._all()[number]
        for point in curve:
            if point.epoch not in frozen.intermediate_values:
                with self._writing():
                    self._handle(frozen).report(self._value(point.loss, point.metric), point.epoch)

    def should_stop(self, number: int, curve: Sequence[Point]) -> bool:
        """Whether trial `number` with the results `curve`, at the epochs g, 2g, 4g, ..., is to be stopped early."""
        this_round = number // self.rules.round_size
        earlier = [trial for trial in self._asked() if trial.number // self.rules.round_size < this_round]
        best = math.inf
        for point in curve:
            best = min(best, self._sign * self._value(point.loss, point.metric))
            reached = [value for trial in earlier if (value := self._best_by(trial, point.epoch)) is not None]
            if len(reached) >= LEAST_TO_COMPARE and best > float(np.median(reached)):
                return True
        return False

    def end(self, number: int, outcome: Outcome) -> None:
        """Tells Optuna how trial `number` ended, for good."""
        handle = self._handle(self._all()[number])
        with self._writing():
            handle.set_user_attr("outcome", asdict(outcome))
            if outcome.status == "failed":
                self._study.tell(number, state=TrialState.FAIL)
            elif outcome.status == "stopped":
                self._study.tell(number, state=TrialState.PRUNED)
            else:
                metric = outcome.cost if self.rules.objective == COST else outcome.validation_metric
                self._study.tell(number, self._value(outcome.validation_loss, metric))
        self._trials.pop(number, None)

    @property
    def is_finished(self) -> bool:
        """Whether the budget is spent and every trial has ended."""
        asked = self._asked()
        return self._is_spent(asked) and all(trial.state in FINISHED for trial in asked)

    @property
    def planned(self) -> int:
        """The number of trials, so far as it can be known: with a budget of steps from the mean of those that ended."""
        if self.budget.trials is not None:
            return max(self.budget.trials, len(self._asked()))
        asked = self._asked()
        ended = [trial for trial in asked if trial.state in FINISHED]
        steps = self._steps(ended) / max(1, len(ended))
        left = math.ceil(max(0.0, (self.budget.steps or 0) - self._steps(ended)) / steps) if steps else 1
        return max(len(asked), len(ended) + left)

    @property
    def ended(self) -> int:
        """The number of trials that have ended."""
        return sum(trial.state in FINISHED for trial in self._asked())

    def best(self) -> tuple[int, Values] | None:
        """Number and values of the best completed trial; ties go to the lower validation loss, then to the first."""
        ranked = [
            (
                self._sign * trial.value,
                trial.user_attrs["outcome"]["validation_loss"],
                trial.number,
                trial.params,
            )
            for trial in self._asked()
            if trial.state == TrialState.COMPLETE and trial.value is not None and math.isfinite(trial.value)
        ]
        if not ranked:
            return None
        *_, number, params = min(ranked, key=lambda entry: entry[:3])
        return number, self.rules.space.whole(params)

    def fastest(self, goal: int) -> tuple[int, Values] | None:
        """Number and values of the trial with the fewest steps to goal number `goal`, the first of several."""
        ranked = []
        for trial in self._asked():
            steps = trial.user_attrs.get("outcome", {}).get("steps_to_goals")
            if trial.state == TrialState.COMPLETE and steps is not None and steps[goal] is not None:
                ranked.append((steps[goal], trial.number, trial.params))
        if not ranked:
            return None
        _, number, params = min(ranked, key=lambda entry: entry[:2])
        return number, self.rules.space.whole(params)

    def rows(self) -> list[dict[str, Any]]:
        """A row per trial that ended: number, values and what `Outcome` has; an accuracy under its own name too."""
        found = []
        for trial in self._asked():
            if trial.state in FINISHED:
                outcome = dict(trial.user_attrs["outcome"])
                outcome.setdefault("validation_metric", outcome.get("validation_accuracy"))  # of an earlier version
                if self.rules.objective == ACCURACY:
                    outcome["validation_accuracy"] = outcome["validation_metric"]
                found.append({"number": trial.number, **self.rules.space.whole(trial.params), **outcome})
        return found

    def _all(self) -> list[FrozenTrial]:
        """All trials by number. Tune asks many times a second, a storage takes milliseconds, and nobody else writes."""
        if self._read is None:
            self._read = self._study.get_trials(deepcopy=False)
        return self._read

    def _asked(self) -> list[FrozenTrial]:
        return [trial for trial in self._all() if trial.state != TrialState.WAITING]

    def _is_spent(self, asked: list[FrozenTrial]) -> bool:
        if self.budget.trials is not None:
            return len(asked) >= self.budget.trials
        return self._steps(asked) >= (self.budget.steps or 0)

    def _steps(self, trials: list[FrozenTrial]) -> int:
        return sum(trial.user_attrs.get("outcome", {}).get("steps", 0) for trial in trials)

    def _ask(self, number: int) -> optuna.Trial:
        with self._sampler(number):
            trial = self._study.ask()
        self._trials[number] = trial
        return trial

    def _sample(self, number: int, trial: optuna.Trial) -> None:
        with self._sampler(number):
            for name, range_ in self.rules.space.distributions.items():
                trial.suggest_float(name, range_.low, range_.high, log=range_.log)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Around whatever is written to the storage: what was read before is out of date, also where that fails."""
        try:
            yield
        finally:
            self._read = None

    @contextlib.contextmanager
    def _sampler(self, number: int) -> Iterator[None]:
        """The sampler of trial `number` in force, the same whenever it is made."""
        with self._writing(), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=1,
                multivariate=True,
                constant_liar=True,
                seed=derive_seed(self.rules.seed, "tuning", number) % 2**32,
            )
            yield

    def _handle(self, frozen: FrozenTrial) -> optuna.Trial:
        """Optuna's own object of a running trial, also of one that an earlier driver has asked for."""
        if frozen.number not in self._trials:
            with self._sampler(frozen.number):
                self._trials[frozen.number] = optuna.Trial(self._study, frozen._trial_id)
        return self._trials[frozen.number]

    def _value(self, loss: float | None, metric: float | None) -> float:
        """The objective, infinitely bad where the trial has diverged."""
        value = loss if self.rules.objective == LOSS else metric
        diverged = loss is None or not math.isfinite(loss)
        return self._sign * math.inf if value is None or diverged else value

    def _best_by(self, trial: FrozenTrial, epoch: int) -> float | None:
        """The best so far at `epoch`, the lower the better; None where the trial was stopped before or failed."""
        values = [self._sign * value for at, value in trial.intermediate_values.items() if at <= epoch]
        if not any(at >= epoch for at in trial.intermediate_values):
            if trial.state != TrialState.COMPLETE or trial.value is None:
                return None
            values.append(self._sign * trial.value)
        return min(values)


def open_storage(url: str) -> Any:
    """An Optuna storage by its URL. Raises UserError, without the URL's password, where it cannot be opened."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if url.startswith("sqlite"):  # its own 5 s end a sweep while somebody looks at the file
            return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": LOCKED_SECONDS}})
        return optuna.storages.get_storage(url)
    except Exception as error:  # SQLAlchemy's, its drivers' and Optuna's own have no common class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"`--storage`: {hidden(url)} cannot be opened as an Optuna storage "
            f"({type(error).__name__}: {reason.replace(url, hidden(url))})"
        ) from None


def hidden(url: str) -> str:
    """The URL without what stands before the host: postgresql://user:secret@host/db is postgresql://***@host/db."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}***@{rest.rpartition('@')[2]}" if "@" in rest else url
