"""Part 5: the paper's studies of C1 on CIFAR-10 and of F1 on MNIST at the paper's size, as far as the time goes.

The trials are those of sweeps/keskar_tables.py and sweeps/threshold_batch.py with `--scale paper`. PROCESSES of them
train and measure at once, each with recorded updates where those leave the same bits. The rows go into the project's
own tables, `OUTPUT/science/STUDY/*.parquet`, which every script of analysis/ reads. A trial that the time does not
suffice for leaves a checkpoint, from which the next run goes on.
"""

import multiprocessing
import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gpu_parts import Row, Setting
from gpu_parts.images import patterns
from sweeps import threshold_batch
from sweeps.studies.keskar_tables import tables_trials
from sweeps.studies.two_batches import PAPER_SEEDS, TwoBatches, study_parser
from trainables.config import TrialConfig
from trainables.data import Source, load_source
from trainables.records.resume import finished_trials
from trainables.records.tables import compact, read_tables, write_record
from trainables.runtime.errors import UserError, one_line
from trainables.runtime.memory import limit_memory
from trainables.runtime.process import prepare_process
from trainables.training.cuda_graph import cuda_graph
from trainables.trial import Trial

TITLE = "The paper's studies at its own size"
COLUMNS = (
    *("study", "batch_size", "seed", "status", "epochs_done", "test_accuracy", "train_loss"),
    *("box_sharpness", "hessian_max_eig", "train_seconds", "sharpness_seconds"),
)
NOTE = "Adam at its default rate, 0.001, all training images; measures on 5000 of them, in float32."

PROCESSES = 2  # that share the GPU, the two batch sizes of a seed
SLICE = 10.0  # seconds between checkpoints
STOPPING = 3.0  # seconds to write the tables in
TINY = (
    *("--train-size", "40", "--batch-sizes", "8", "40", "--seeds", "0", "--epochs", "2"),
    *("--measure-examples", "40", "--model-options", "width=4"),
)


@dataclass(frozen=True)
class Study:
    """Trials on `dataset` that `plan` makes of a command line; those of a lower `rank` come first, then lower seeds."""

    rank: int
    dataset: str
    plan: Callable[[TwoBatches], list[TrialConfig]]
    arguments: tuple[str, ...] = ()


C1, F1 = (partial(tables_trials, network=network) for network in ("c1", "f1"))
AT_EQUAL_LOSS = ("--target-loss", "0.01")
STUDIES = {
    "c1_equal_loss": Study(0, "cifar10", C1, AT_EQUAL_LOSS),
    "c1_epochs": Study(1, "cifar10", C1),
    "f1_equal_loss": Study(2, "mnist", F1, AT_EQUAL_LOSS),
    "f1_threshold": Study(2, "mnist", threshold_batch.plan, ("--seeds", "0", "1", "--batch-sizes", "64", "60000")),
    "c1_threshold": Study(3, "cifar10", threshold_batch.plan, ("--seeds", "0", "1", "--model", "c1")),
}


def source_of(setting: Any, dataset: str = "cifar10") -> Source:
    """The data that a Setting, or the command's options, name. Raises UserError where it is not there.

    `--dataset` says how CIFAR-10 lies there.
    """
    if setting.smoke and setting.dataset == "patterns":
        return patterns(60, 8)
    return load_source(setting.dataset if dataset == "cifar10" else dataset, root=setting.data_dir)


def trials_of(study: Study, source: Source, smoke: bool) -> list[TrialConfig]:
    arguments = TINY if smoke else ("--measure-examples", "5000", *study.arguments)
    options = study_parser("science", "", PAPER_SEEDS, lambda parser: None).parse_args(["--scale", "paper", *arguments])
    options.seeds = options.seeds or list(range(PAPER_SEEDS))
    return study.plan(TwoBatches(options, source))


def run(setting: Setting) -> Iterator[Row]:
    work: list[tuple[str, TrialConfig]] = []
    for name, study in list(STUDIES.items())[: 1 if setting.smoke else None]:
        try:
            configs = trials_of(study, source_of(setting, study.dataset), setting.smoke)
        except UserError as error:
            yield {"study": name, "status": one_line(error)}
            continue
        folder = setting.output / "science" / name
        for path in (folder / "checkpoints", folder / "trials"):
            path.mkdir(parents=True, exist_ok=True)
        done = finished_trials(folder)
        if done:
            yield from (columns_of(name, row) for row in read_tables(folder).trials.to_pylist())
        work += [(name, config) for config in configs if config.trial_id not in done]
    work.sort(key=lambda one: (STUDIES[one[0]].rank, one[1].seed))
    try:
        yield from in_processes(setting, work)
    finally:
        for folder in (setting.output / "science").iterdir():
            compact(folder)


def in_processes(setting: Setting, work: list[tuple[str, TrialConfig]]) -> Iterator[Row]:
    """The rows of trials as they end, until all have or the time is over."""
    count = min(1 if setting.smoke else PROCESSES, len(work))
    context = multiprocessing.get_context("spawn")
    first, rows = context.Value("i", 0), context.Queue()
    arguments = (setting, work, first, rows, 1 / max(count, 1))
    processes = [context.Process(target=train, args=arguments, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes) or not rows.empty():
        if setting.left < STOPPING and not setting.smoke:
            break
        try:
            yield rows.get(timeout=0.5)
        except queue.Empty:
            continue
    failed = sum(bool(process.exitcode) for process in processes)
    for process in processes:
        process.terminate()
        process.join()
    if failed:
        raise RuntimeError(f"{failed} of {count} processes failed")


def train(setting: Setting, work: list[tuple[str, TrialConfig]], first: Any, rows: Any, share: float) -> None:
    """One process: takes the next of `work` until none is left or the time is over."""
    prepare_process(1)
    limit_memory(setting.device, gib=None, gpu_share=share)
    record = cuda_graph if setting.device.type == "cuda" else None
    sources: dict[str, Source] = {}
    while setting.smoke or setting.left > SLICE:
        with first.get_lock():
            number, first.value = first.value, first.value + 1
        if number >= len(work):
            return
        name, config = work[number]
        dataset = STUDIES[name].dataset
        if dataset not in sources:
            sources[dataset] = source_of(setting, dataset)
        folder = setting.output / "science" / name
        trial = Trial(config, sources[dataset], setting.device, record=record)
        rows.put(columns_of(name, finish(trial, folder, setting)))
        del trial
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()


def finish(trial: Trial, folder: Path, setting: Setting) -> Row:
    """Trains and measures as far as the time goes; the row of the trial."""
    file = folder / "checkpoints" / f"{trial.config.trial_id}.pt"
    trial.resume(file)
    while not trial.training.finished:
        if setting.left < SLICE and not setting.smoke:
            return {**trial.record().trial, "status": "not finished"}
        trial.train(SLICE)
        trial.save(file)
    trial.measure()
    record = trial.record()
    write_record(folder, record)
    for part in (file, *file.parent.glob(f"{file.name}*")):
        part.unlink(missing_ok=True)
    return record.trial


def columns_of(study: str, row: Row) -> Row:
    return {"study": study, **{name: row[name] for name in COLUMNS[1:]}}
