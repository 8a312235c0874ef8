"""One trial, the experiment on one screen: data, model, training, evaluation, sharpness, rows.

It knows nothing of Ray: `run_trial` is a plain function of its configuration and the data, and the Tune adapter
drives the same `Trial` in slices of time, with checkpoints between them.
"""

import math
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TypeVar, cast

import torch

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.data.rows import tensor_of
from trainables.measures import by_name
from trainables.measures.extension import Extension, failed_row, measured_by
from trainables.measures.flags import final_value, flags_of
from trainables.measures.placebo import rescaled_network
from trainables.measures.shared_loss import share
from trainables.measuring import ALONG_THE_RUN, SHIFT
from trainables.models.fingerprints import count_parameters, weights_digest
from trainables.records.provenance import identity_of, place_of
from trainables.records.schemas import RAW, RAW_COLUMNS
from trainables.records.tables import RESULTS, Record, Row, gap
from trainables.runtime.errors import LONGEST_REASON, one_line, reason_of
from trainables.runtime.memory import SMALLER, free_memory, is_out_of_memory
from trainables.runtime.seeds import derive_seed, seeded
from trainables.runtime.time_limit import TimeLimitError
from trainables.sharpness import ModelLoss
from trainables.storage.checkpoint import load_checkpoint, save_checkpoint
from trainables.storage.folders import AnyPath
from trainables.training.optimizers.groups import decayed_parameters
from trainables.training.optimizers.options import weight_decay_form
from trainables.training.own_step import OwnLoss, OwnTraining, build_network, taking_whole_batches, training_of
from trainables.training.parallel import Workers
from trainables.training.recording import Recorder, recorder_for
from trainables.training.results import perplexity, task_row
from trainables.training.schedule import batch_sizes
from trainables.training.shifts import shifted_metrics, with_metrics
from trainables.units import Amount

T = TypeVar("T")

PROBES = 256  # training examples that a rescaled network has to agree on


class MeasuringError(Exception):
    """A measure has failed on one of several workers, whose sums belong together: the others may still wait for it."""


class Trial:
    """One configuration on `source`: `train`, then `measure`, then `record`.

    On one device; or by several `workers`, each with a Trial of its own, of which one keeps record and checkpoint. No
    more than `micro_batch_size` examples of a batch are taken at once; `record` is for the updates of small ones.
    `known` are the rows of a trial that is already trained, of which only what is missing is measured.
    """

    def __init__(
        self,
        config: TrialConfig,
        source: Source,
        device: torch.device | None = None,
        workers: Workers | None = None,
        micro_batch_size: int | None = None,
        record: Recorder | None = None,
        known: Record | None = None,
    ) -> None:
        self.config = config.canonical()
        self._known = None if known is None else Extension(known, self.config)
        self._difference: str | None = None  # of the weights from those of the known rows
        self.device = device or torch.device("cpu")
        data = source.split(config.train_size, config.test_size, config.split_seed, config.validation_size or 0)
        data = data.to(self.device)
        self._dataset_task = source.dataset_task
        with seeded(config.seed, "weights"):
            torch.manual_seed(derive_seed(config.seed, "weights"))  # on all devices
            network = build_network(self.config, data)
        self.initial_weights = weights_digest(network[0])
        self.training = training_of(self.config, network, data, workers, micro_batch_size, record)
        self._check_labels()
        self.measures: list[Row] = []
        self.raw: Row = {}  # RAW_COLUMNS, of a trained trial with an average
        self.shifted: dict[str, float | None] = {}
        self._left_to_shift = self.config.shift_names
        self.after_epoch: Callable[[], None] = lambda: None
        self.measures_alone = False  # the first of several workers, without the others
        self.while_measuring: Callable[[], None] = lambda: None
        self.resumed_epoch: float | None = None

    def train(self, seconds: float = float("inf")) -> bool:
        """Trains from one logging point to the next until the trial is finished or `seconds` have passed; returns
        whether it is finished.
        """
        started = time.perf_counter()
        while not self.training.finished:
            self.training.train_epoch()
            self.after_epoch()
            if self.training.workers.agreed(self._is_measured_now()):
                with self.training.average.in_place():
                    self.measure()
            if time.perf_counter() - started > seconds:
                break
        if self.training.finished and not self.training.diverged:
            try:
                self._evaluate_shifts()
                self._evaluate_raw()
            except TimeLimitError as error:
                self.measures += self._without_value(str(error))
        return self.training.finished

    def _evaluate_raw(self) -> None:
        """Evaluates the raw weights of a trial whose weights are an average of them."""
        if self.training.average.has_raw:
            with self.training.average.raw_in_place():
                found = self.training.evaluate()
            self.raw = {name: found[name.removeprefix(f"{RAW}_")] for name in RAW_COLUMNS}

    def _evaluate_shifts(self) -> None:
        """Evaluates the network on the changed test images; one of `shifts` that raises costs its own results alone."""
        self._find_difference()
        alone = self.measures_alone
        workers = Workers() if alone else self.training.workers
        names, self._left_to_shift = self._left_to_shift, ()
        for name in () if self._difference or (alone and self.training.workers.rank) else names:
            started = time.perf_counter()
            try:
                found = self._attempt(partial(shifted_metrics, self.training, (name,), workers))
            except TimeLimitError as error:
                missing = [SHIFT + one for one in names[names.index(name) :]]
                self.measures += [{**self._about(), **failed_row(one, str(error), 0.0)} for one in missing]
                raise
            if isinstance(found, str):
                row = failed_row(SHIFT + name, found, time.perf_counter() - started)
                self.measures.append({**self._about(), "split": "test", **row})
            else:
                self.shifted |= found

    def _find_difference(self) -> None:
        """Takes note of whether the trained weights are those of the known rows."""
        if self._known is not None and self.training.finished:
            self._difference = self._difference or self._known.difference(self.training.epochs[-1])

    def measure(self) -> None:
        """Adds the rows of measures.parquet at the weights of now that are missing; none if the training diverged.

        A measure that raises costs its own rows alone: one is left, without a value and with the reason as `error`. If
        the trial's time runs out here, its training being finished, that is the reason for all measures that are left.
        """
        if self.training.diverged:
            return
        self._find_difference()
        if not (missing := self._missing()) or (self.measures_alone and self.training.workers.rank):
            return
        if self._difference and self.training.finished:
            self.measures += self._without_value(self._difference)
            return
        try:
            self.while_measuring()
            for weights, names in missing.items():
                with self.training.average.raw_in_place() if weights == RAW else nullcontext():
                    loss = self._attempt(self._bound)
                    for name in names:
                        self.measures += [{**row, "weights": weights} for row in self._rows(name, loss)]
                        self.while_measuring()
        except TimeLimitError as error:
            if not self.training.finished:
                raise
            self.measures += self._without_value(str(error))

    def _missing(self) -> dict[str | None, list[str]]:
        """The names of the measures that have no rows yet at the weights of now, by `weights` of measures.parquet."""
        rows = [row for row in self.measures if row["epoch"] == self.training.epochs_done]
        done = {(row.get("weights"), row["measure"]) for row in rows}
        names = [name for name in self.config.measures.split(",") if name]
        if self._known is not None:
            along = None if self.training.finished else self._along
            names = [name for name in names if not self._known.has(self.config.measurement(name, along))]
        kinds = (None, RAW) if self.training.average.has_raw else (None,)
        found = {weights: [name for name in names if (weights, name) not in done] for weights in kinds}
        return {weights: missing for weights, missing in found.items() if missing}

    @property
    def _along(self) -> str | None:
        """The field that says when to measure along the run; None where that is not asked for."""
        return next((name for name in ALONG_THE_RUN if getattr(self.config, name) is not None), None)

    def _measured_along(self) -> list[str]:
        """What is measured along the run and in its steps, as in `TrialConfig.measurements`."""
        names = self.config.measures.split(",") if self._along else ()
        along = [self.config.measurement(name, self._along) for name in names if name]
        return sorted([*self.config.in_steps, *along])

    def _bound(self) -> ModelLoss | OwnLoss:
        config = self.config
        if isinstance(self.training, OwnTraining):
            single = config.measure_dtype == "float32"
            if (own := self.training.own_loss(torch.float32 if single else torch.float64)) is not None:
                return own

        model, data = self.training.model, self.training.data
        if config.rescaling is not None:
            model = rescaled_network(model, config.rescaling, tensor_of(data.train_inputs[:PROBES]))

        def loss_in(dtype: str) -> ModelLoss:
            loss = by_name.loss_of(
                model,
                data,
                examples=config.measure_examples,
                dtype=dtype,
                task=self.training.task,
                batch_norm=config.measure_batch_norm,
                batch_size=config.measure_batch_size,
            )
            return loss if self.measures_alone else share(loss, self.training.workers)

        return by_name.in_dtype(config.measure_dtype, loss_in)

    def _rows(self, name: str, loss: ModelLoss | OwnLoss | str) -> list[Row]:
        """Those of one measure of `loss`, or the reason why there is none."""
        started = time.perf_counter()
        context = by_name.Context.of(
            self.training.optimizer,
            self.training.model.parameters(),
            self.training.epochs[-1]["batch_size"],
            self.config.train_size,
        )
        of_network = cast(ModelLoss, loss)  # a loss of the user's own has no network: a measure that needs it raises
        found = loss if isinstance(loss, str) else self._attempt(lambda: by_name.measure(of_network, [name], context))
        if isinstance(found, str):
            found = [failed_row(name, found, time.perf_counter() - started)]
        about = self._about()
        if not isinstance(loss, str):
            about["dtype"] = str(loss.params.dtype).removeprefix("torch.")
        return [{**about, **row} for row in found]

    def _without_value(self, reason: str) -> list[Row]:
        """A row for each missing measure, with the reason."""
        missing = [(weights, name) for weights, names in self._missing().items() for name in names]
        return [{**self._about(), **failed_row(name, reason, 0.0), "weights": weights} for weights, name in missing]

    def _about(self) -> Row:
        """What the rows of all measures share."""
        config = self.config
        return {
            "epoch": self.training.epochs_done,
            "space": "full",
            "split": "train",
            "examples": config.measure_examples,
            "batch_norm": config.measure_batch_norm,
            "batch_norm_batch_size": config.measure_batch_size,
            "dtype": config.measure_dtype,
        }

    def _attempt(self, action: Callable[[], T]) -> T | str:
        """What `action` returns, or in one line why it raises. Several workers cannot go on so: see MeasuringError."""
        try:
            return action()
        except TimeLimitError:
            raise
        except (Exception, SystemExit) as error:
            if hasattr(error, "ray_terminate_msg"):  # its worker is to end: no fault of the measure
                raise
            if self.training.workers.count > 1 and not self.measures_alone:
                raise MeasuringError(one_line(error)) from error
            traceback.print_exc()
            ran_out = is_out_of_memory(error)
            reason = (f"out of memory: {one_line(error)}" if ran_out else reason_of(error))[:LONGEST_REASON]
        if ran_out:  # and what the error's traceback referred to is free again
            free_memory()
        return reason

    def record(self, unmeasured: str = "") -> Record:
        """The rows of a trial that trained to its end; `unmeasured`: why measures are missing, where some are."""
        last, found = self.training.epochs[-1], (self.measures, self.training.epochs_done)
        measured = self.measures if self.training.diverged else self.measures + self._without_value(unmeasured)
        row = {
            "status": "diverged" if self.training.diverged else "completed",
            **identity_of(self.config),
            "epochs_done": self.training.epochs_done,
            "steps": self.training.step,
            "examples": self.training.examples,
            "tokens": self.training.tokens,
            "train_loss_examples": self.config.train_loss_examples,
            "dataset_task": self._dataset_task,
            **task_row(self.training.task),
            **{name: last[name] for name in RESULTS},
            **dict.fromkeys(RAW_COLUMNS),
            **self.raw,
            "metrics": with_metrics(last.get("metrics"), self.shifted),
            "test_perplexity": perplexity(self.training, last["test_loss"]),
            "generalization_gap": gap(last["train_metric"], last["test_metric"], self.training.task.direction),
            "box_sharpness": final_value(*found, "box_sharpness", "strong", by_name.EPSILONS[0]),
            "box_sharpness_paper": final_value(*found, "box_sharpness", "paper", by_name.EPSILONS[0]),
            "hessian_max_eig": final_value(*found, "hessian_max_eig", "lanczos", None),
            "reached_target": self.training.reached_target,
            **self.training.at_target,
            "measured": [] if self._difference or self.training.diverged else measured_by(self.config),
            "flags": flags_of(self.config, self.training, measured),
            "weight_decay_form": weight_decay_form(self.config),
            "decayed_parameters": decayed_parameters(self.config, self.training.model),
            **dict(zip(("parameters", "frozen_parameters"), count_parameters(self.training.model), strict=True)),
            "noise_scale_parameters": None if (noise := self.training.noise_scale) is None else noise.parameters,
            "initial_weights": self.initial_weights,
            "train_seconds": self.training.seconds,
            "sharpness_seconds": sum(row["seconds"] for row in self.measures),
            "resumed_epoch": self.resumed_epoch,
            "workers": self.training.workers.count,
            "micro_batch_size": self.training.micro_batch_size,
            **place_of(self.device),
        }
        record = Record(row, self.training.epochs, measured)
        return record if self._known is None else self._known.extended(record)

    def smaller_micro_batch(self) -> int | None:
        """The micro-batch size to try again with after running out of memory; None where batches cannot be cut so."""
        if taking_whole_batches(self.config) is not None:
            return None
        return self.training.parts.smaller(max(batch_sizes(self.config)), SMALLER)

    def save(self, path: AnyPath) -> None:
        """A checkpoint from which `resume` goes on to the same numbers."""
        along = {"measures": self.measures, "measured": self._measured_along()}
        save_checkpoint(path, {**self.training.state_dict(), **along})

    def save_weights(self, path: AnyPath) -> None:
        """The final weights and buffers, to be loaded with torch.load(path, weights_only=True)."""
        save_checkpoint(path, self.training.model.state_dict(), keep_previous=False)

    def resume(self, path: AnyPath) -> bool:
        """Goes on from the checkpoint at `path`, where there is one; returns whether there was.

        One that lacks measures along the run that are asked for now is of no use.
        """
        state = load_checkpoint(path, self.device)
        if state is None or not set(self._measured_along()) <= set(state["measured"]):
            return False
        self.training.load_state_dict(state)
        self.measures = list(state["measures"]) if self._along else []
        self.resumed_epoch = self.training.epochs_done
        return True

    def load_weights(self, path: AnyPath) -> bool:
        """Takes the final weights kept at `path` in place of training, where they are enough to measure what is missing
        of a trained trial; returns whether they are.
        """
        if self._known is None or self._known.needs_training:
            return False
        weights = load_checkpoint(path, self.device)
        if weights is None:
            return False
        self.training.load_final(weights, self._known.epochs)
        self._difference = self._known.difference({**self.training.epochs[-1], **self.training.evaluate()})
        return True

    def has_passed(self, every: Amount) -> bool:
        """Whether a multiple of `every` lies between the last two logging points, or at the last one."""
        training = self.training
        before = training.epochs[-2] if len(training.epochs) > 1 else {"step": 0, "examples": 0, "epoch": 0}
        used = before.get("examples")
        used = round(before["epoch"] * self.config.train_size) if used is None else used
        step, examples = every.next_multiple(before["step"], used, self.config.train_size)
        return training.step >= step or training.examples >= examples

    def _is_measured_now(self) -> bool:
        """Whether this is a moment along the run to measure: the end of the training is not one.

        The first moment of a `measure_share` is the first epoch, to learn what measuring costs.
        """
        every, share = self.config.measure_every, self.config.measure_share
        if self.training.finished:
            return False
        if every is not None:
            return self.has_passed(Amount(every, "epochs"))
        moments = len({row["epoch"] for row in self.measures})
        spent = math.fsum(row["seconds"] for row in self.measures)
        return share is not None and (moments == 0 or spent * (moments + 1) / moments <= share * self.training.seconds)

    def _check_labels(self) -> None:
        data, task = self.training.data, self.training.task
        if task.checks_labels:
            task.check_labels(tensor_of(data.train_labels), "training")
            task.check_labels(tensor_of(data.test_labels), "test")


def run_trial(config: TrialConfig, source: Source, device: torch.device | None = None) -> Record:
    """Trains, measures and reports one trial in this process."""
    device = device or torch.device("cpu")
    trial = Trial(config, source, device, record=recorder_for(device))
    trial.train()
    trial.measure()
    return trial.record()
