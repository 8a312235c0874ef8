"""Loss and metric at points between and around minima, each point evaluated once and kept in profiles.parquet.

A point lies in the plane that two trials' weights x_0, x_1 (`trial_id`, `other_trial_id`) or a trial's weights and two
random directions d_1, d_2 (`direction_seed`) span:

    linear        (1 - alpha) x_0 + alpha x_1                                (Goodfellow et al. 2015, arXiv 1412.6544)
    curvilinear   cos(alpha pi / 2) x_0 + sin(alpha pi / 2) x_1              (Keskar et al. 2017, appendix E)
    random_line   x_0 + alpha d_1
    random_plane  x_0 + alpha d_1 + beta d_2                                 (Li et al. 2018, arXiv 1712.09913)

d_1 and d_2 are filter-normalized: every filter as long as the weights' own (trainables.sharpness.flatness), so that
networks whose weights differ in scale are compared at the same relative distance. A seed draws the same Gaussian
numbers around every minimum.

Batch norm, in the modes of trainables.sharpness.model_loss. Trained statistics belong to the trained weights alone:
halfway between two minima the inputs of a layer have another mean and variance than halfway between the statistics,
and the loss there says nothing about the weights. So the default is `recalibrated`: at each point the statistics of
the training examples there (of 5000 of them, drawn once, where there are more), for the training and the test loss
alike. `running` mixes the two trained statistics like weights (variances cut at 0) or keeps those of x_0; in this mode
the ends are the stored losses for networks with batch norm too. `batch` is the paper's code: the statistics of each
batch of 5000, test batches too. Without batch norm the three are one.

Exact at the ends: weights are mixed in their own precision with coefficients 0 and 1 there, and evaluated by the code
that trained them. Before a trial's weights are used at all, its stored training and test loss are evaluated again;
where they do not come out the same (to rounding) the weights or the data are not the trial's.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.config import TrialConfig
from trainables.data import Dataset
from trainables.measuring import PAPER_EVALUATION_BATCH
from trainables.records.saved import State, config_of, network_of, source_of, split_of, weights_of
from trainables.records.tables import Row, read_tables
from trainables.runtime.errors import UserError
from trainables.runtime.seeds import derive_seed, generator
from trainables.sharpness.flatness import filter_normalized_direction
from trainables.sharpness.model_loss import BatchNorm
from trainables.storage.folders import AnyPath, is_there, read_file, write_atomically
from trainables.tasks.by_name import load_task
from trainables.training.evaluate import Evaluation, evaluate

FILE = "profiles.parquet"
SCHEMA = pa.schema(
    [
        ("trial_id", pa.string()),
        ("other_trial_id", pa.string()),  # null for random directions
        ("kind", pa.string()),  # linear, curvilinear, random_line, random_plane
        ("direction_seed", pa.int64()),  # null for paths between two trials
        ("alpha", pa.float64()),
        ("beta", pa.float64()),  # null but in a plane
        ("batch_norm", pa.string()),  # recalibrated, running, batch
        ("split", pa.string()),  # train, test
        ("loss", pa.float64()),  # nats per example; null where it is not finite
        ("accuracy", pa.float64()),  # in [0, 1]; null where the task has none
        ("metric", pa.float64()),  # the task's primary one, in its own scale; null in files from before it was kept
    ]
)
STORED_ROUNDING = 1e-3  # relative, on another machine or device: the losses are small sums of float32 numbers
CALIBRATION_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One point, by the names of the columns."""

    trial_id: str
    other_trial_id: str | None = None
    kind: str
    direction_seed: int | None = None
    alpha: float
    beta: float | None = None
    batch_norm: BatchNorm


KEY = tuple(field.name for field in dataclasses.fields(Point))


def profiles(
    folder: AnyPath,
    points: Sequence[Point],
    *,
    splits: Sequence[str] = ("train", "test"),
    data_dir: Path = Path("data"),
    dataset_options: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> pd.DataFrame:
    """The rows of SCHEMA at `points`, in their order, on `splits`. Those that are not in `folder`/profiles.parquet yet
    are evaluated and added, so what is there already needs neither weights nor data.

    Raises UserError where the weights were not kept, or the data is not the trials'.
    """
    known = {_key(row): row for row in _read(folder)}
    wanted = [(point, split) for point in points for split in splits]
    missing: dict[tuple[str, str | None], list[Point]] = {}
    for point in dict.fromkeys(point for point, split in wanted if (point, split) not in known):
        missing.setdefault((point.trial_id, point.other_trial_id), []).append(point)
    if missing:
        place = _Any(folder, data_dir, dataset_options or {}, torch.device(device))
        for rank, (trials, group) in enumerate(missing.items(), 1):
            described = f"{group[0].kind} {rank} of {len(missing)}"
            for row in place.evaluate(trials, group, splits, described):
                known[_key(row)] = row
            _write(folder, known.values())
    return pd.DataFrame([known[key] for key in wanted], columns=SCHEMA.names)


class _Any:
    """Where points are evaluated: the trials' networks on their data. A source is read once."""

    def __init__(self, folder: AnyPath, data_dir: Path, options: Mapping[str, Any], device: torch.device) -> None:
        self.folder, self.data_dir, self.options, self.device = folder, data_dir, options, device
        self.rows = {row["trial_id"]: row for row in read_tables(folder).trials.to_pylist()}
        self.sources: dict[str, Any] = {}

    def evaluate(
        self, trials: tuple[str, str | None], points: Sequence[Point], splits: Sequence[str], described: str
    ) -> list[Row]:
        config = config_of(self.rows[trials[0]])
        if config.data_fingerprint not in self.sources:
            self.sources[config.data_fingerprint] = source_of(config, root=self.data_dir, options=self.options)
        data = split_of(config, self.sources[config.data_fingerprint]).to(self.device)
        states = [self._state(trial_id, config, data) for trial_id in trials if trial_id is not None]
        directions: dict[tuple[int, int], State] = {}
        networks: dict[BatchNorm, Network] = {}
        rows = []
        shown = track(points, description=described, console=Console(stderr=True), transient=True)
        for point in shown:
            if point.batch_norm not in networks:
                networks[point.batch_norm] = Network(config, data, point.batch_norm)
            network = networks[point.batch_norm]
            terms = _terms(point, states, directions, network.model)
            found = network.at(network.mixed(terms), splits)
            for split, value in found.items():
                primary = value.metrics[network.task.metric]
                known = {"loss": value.loss, "accuracy": value.accuracy, "metric": primary}
                finite = {name: None if x is None or not math.isfinite(x) else x for name, x in known.items()}
                rows.append({**vars(point), "split": split, **finite})
        return rows

    def _state(self, trial_id: str, config: TrialConfig, data: Dataset) -> State:
        """The trial's weights, once they have reproduced its stored losses."""
        row = self.rows[trial_id]
        if self.device.type == "cpu" and row["device"] == "cpu" and row["threads"]:
            torch.set_num_threads(int(row["threads"]))  # those that the stored losses were computed with
        state = weights_of(self.folder, trial_id, self.device)
        network = Network(config, data, "running")
        try:
            found = network.at(state)
        except RuntimeError as error:
            raise UserError(
                f"`weights` must fit the network of trial {trial_id}, got {str(error).splitlines()[-1].strip()}"
            ) from error
        for split, value in found.items():
            stored = row[f"{split}_loss"]
            if stored is None or not math.isclose(value.loss, stored, rel_tol=STORED_ROUNDING, abs_tol=1e-6):
                raise UserError(
                    f"`weights` must reproduce the {split} loss that trial {trial_id} has stored, {stored}, "
                    f"got {value.loss}; they or the data are not the trial's"
                )
        return state


class Network:
    """Loss and metrics of a trial's network at any weights, with batch norm in one mode; `data` on the device."""

    def __init__(self, config: TrialConfig, data: Dataset, batch_norm: BatchNorm) -> None:
        self.model = network_of(config, data).to(data.train_labels.device).eval().requires_grad_(False)
        self.batch_norm = batch_norm
        self.task = load_task(config.task or data.task, data.chunks_of_labels())
        self._data = {"train": (data.train_inputs, data.train_labels), "test": (data.test_inputs, data.test_labels)}
        self._layers = {name: m for name, m in self.model.named_modules() if isinstance(m, _BatchNorm)}
        order = torch.randperm(len(data.train_labels), generator=generator(CALIBRATION_SEED, "calibration examples"))
        self._calibration = order[:PAPER_EVALUATION_BATCH].to(data.train_labels.device)

    def at(self, state: State, splits: Sequence[str] = ("train", "test")) -> dict[str, Evaluation]:
        """Clean loss and metrics, as training evaluates them. `running`: with the statistics in `state`."""
        batches = self.batch_norm == "batch" and bool(self._layers)
        for layer in self._layers.values() if batches else []:
            layer.running_mean = layer.running_var = None  # in eval mode it then takes those of its inputs
        self.model.load_state_dict(state, strict=not batches)
        if self.batch_norm == "recalibrated" and self._layers:
            self._recalibrate()
        found = {}
        for split in splits:
            inputs, labels = self._data[split]
            cuts = _batches(len(labels)) if batches else None
            found[split] = evaluate(self.model, inputs, labels, self.task, cuts=cuts)
        return found

    def mixed(self, terms: Sequence[tuple[float, State]]) -> State:
        """sum_k c_k x_k, tensor by tensor; what a term lacks does not move, integers are the first term's."""
        result = {}
        for name, first in terms[0][1].items():
            parts = [(c, state[name]) for c, state in terms if name in state]
            result[name] = first
            if first.is_floating_point():
                result[name] = sum((c * part for c, part in parts[1:]), parts[0][0] * first)
        for name in self._layers:
            if f"{name}.running_var" in result:
                result[f"{name}.running_var"] = result[f"{name}.running_var"].clamp(min=0)
        return result

    @torch.no_grad()
    def _recalibrate(self) -> None:
        """The statistics of the calibration examples, each layer's with those before it recalibrated, in one pass.

        Variances divide by N, as in trainables.sharpness.model_loss. Trap: a layer that is used twice keeps those of
        its last use.
        """

        def note(layer: nn.Module, arguments: tuple[Tensor]) -> None:
            values = arguments[0].movedim(1, -1).flatten(0, -2)
            layer.running_mean, layer.running_var = values.mean(0), values.var(0, correction=0)

        hooks = [layer.register_forward_pre_hook(note) for layer in self._layers.values()]
        try:
            self.model(self._data["train"][0][self._calibration])
        finally:
            for hook in hooks:
                hook.remove()


def coefficients(kind: str, alpha: float) -> tuple[float, float]:
    """Those of x_0 and x_1 on a path between two minima; exactly (1, 0) at alpha 0 and (0, 1) at alpha 1."""
    if kind == "linear":
        return 1 - alpha, alpha
    angle = alpha * math.pi / 2
    return round(math.cos(angle), 15), round(math.sin(angle), 15)  # cos(pi / 2) is 6e-17 in floating point


def _terms(
    point: Point, states: Sequence[State], directions: dict[tuple[int, int], State], model: nn.Module
) -> list[tuple[float, State]]:
    if point.direction_seed is None:
        return list(zip(coefficients(point.kind, point.alpha), states, strict=True))
    terms = [(1.0, states[0])]
    for axis, distance in enumerate([point.alpha] if point.beta is None else [point.alpha, point.beta]):
        if (point.direction_seed, axis) not in directions:
            directions[point.direction_seed, axis] = direction(model, states[0], point.direction_seed, axis)
        terms.append((distance, directions[point.direction_seed, axis]))
    return terms


def direction(model: nn.Module, state: State, seed: int, axis: int) -> State:
    """d_1 (`axis` 0) or d_2 (1) around `state`, for the parameters of `model` by name; 0 for biases and batch norm."""
    own = dict(model.named_parameters())
    flat = torch.cat([state[name].reshape(-1) for name in own])
    shapes = [parameter.shape for parameter in own.values()]
    drawn = filter_normalized_direction(flat, shapes, seed=derive_seed(seed, "direction", axis))
    pieces = zip(own.values(), drawn.split([parameter.numel() for parameter in own.values()]), strict=True)
    moved = {parameter: piece.view_as(parameter) for parameter, piece in pieces}
    return {name: moved[parameter] for name, parameter in model.named_parameters(remove_duplicate=False)}


def _batches(examples: int) -> list[int]:
    """Cuts of 5000 examples; a last one of 1 joins the one before, as in trainables.sharpness.model_loss."""
    cuts = [len(cut) for cut in torch.arange(examples).split(PAPER_EVALUATION_BATCH)]
    return cuts if cuts[-1] > 1 or len(cuts) == 1 else [*cuts[:-2], PAPER_EVALUATION_BATCH + 1]


def _key(row: Mapping[str, Any]) -> tuple[Point, str]:
    return Point(**{name: row[name] for name in KEY}), row["split"]


def _read(folder: AnyPath) -> list[Row]:
    path = folder / FILE
    if not is_there(path):
        return []
    try:
        table = pq.read_table(pa.BufferReader(read_file(path)))
        if "metric" not in table.column_names:
            table = table.append_column("metric", pa.nulls(table.num_rows, pa.float64()))
        rows: list[Row] = table.select(SCHEMA.names).cast(SCHEMA).to_pylist()
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise UserError(f"`results` must hold a whole {FILE}, got {path}, which cannot be read; remove it") from error
    return rows


def _write(folder: AnyPath, rows: Iterable[Row]) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), buffer, compression="zstd")
    try:
        write_atomically(folder / FILE, buffer.getvalue().to_pybytes())
    except OSError as error:
        raise UserError(f"`results` must be a folder that can be written, got {folder} ({error.strerror})") from error
