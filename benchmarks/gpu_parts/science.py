"""Part 5: C1 on all of CIFAR-10, batch 256 against 5000, 100 epochs, seed after seed as far as the time goes.

The rows go into the project's own tables, `OUTPUT/science/*.parquet`, which every script of analysis/ reads. A trial
that the time does not suffice for leaves a checkpoint, from which the next run goes on.
"""

from collections.abc import Iterator
from typing import Any

import torch

from gpu_parts import Row, Setting
from gpu_parts.images import patterns
from trainables.config import TrialConfig
from trainables.data import Source, load_source
from trainables.records.tables import compact, finished_trials, read_tables, write_record
from trainables.trial import Trial

TITLE = "C1 on CIFAR-10"
COLUMNS = (
    *("batch_size", "seed", "status", "epochs_done", "test_accuracy", "train_loss"),
    *("box_sharpness", "hessian_max_eig", "train_seconds", "sharpness_seconds"),
)
NOTE = "Adam at its default rate, 0.001, all 50 000 images; measures on 5000 of them, in float32."

SEEDS = 100  # more than fit
SLICE = 10.0  # seconds between checkpoints


def source_of(setting: Any) -> Source:
    """The data that a Setting, or the command's options, name. Raises UserError where it is not there."""
    if setting.smoke and setting.dataset == "patterns":
        return patterns(60, 8)
    return load_source(setting.dataset, root=setting.data_dir)


def configs(source: Source, smoke: bool) -> Iterator[TrialConfig]:
    train, test = source.sizes(*((40, 20) if smoke else (None, None)))
    for seed in range(1 if smoke else SEEDS):
        for batch_size in (8, train) if smoke else (256, 5000):
            yield TrialConfig(
                dataset=source.name,
                data_fingerprint=source.fingerprint,
                train_size=train,
                test_size=test,
                split_seed=seed if source.is_drawn(train, test) else None,
                model="c1",
                model_options='{"width": 4}' if smoke else "{}",
                learning_rate=1e-3,
                batch_size=min(batch_size, train),
                epochs=2 if smoke else 100,
                seed=seed,
                measure_examples=min(train, 5000),
                measure_dtype="float32",
            )


def run(setting: Setting) -> Iterator[Row]:
    source, folder = source_of(setting), setting.output / "science"
    checkpoints = folder / "checkpoints"
    for path in (checkpoints, folder / "trials"):
        path.mkdir(parents=True, exist_ok=True)
    done = finished_trials(folder)
    if done:
        yield from ({name: row[name] for name in COLUMNS} for row in read_tables(folder).trials.to_pylist())
    for config in configs(source, setting.smoke):
        if setting.left < SLICE and not setting.smoke:
            break
        if config.trial_id in done:
            continue
        trial, file = Trial(config, source, setting.device), checkpoints / f"{config.trial_id}.pt"
        trial.resume(file)
        while not trial.training.finished and (setting.smoke or setting.left > SLICE):
            trial.train(SLICE)
            trial.save(file)
        if not trial.training.finished:
            yield {**rows_of(trial), "status": "not finished"}
            break
        trial.measure()
        write_record(folder, trial.record())
        for part in (file, *checkpoints.glob(f"{file.name}*")):
            part.unlink(missing_ok=True)
        yield rows_of(trial)
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
    compact(folder)


def rows_of(trial: Trial) -> Row:
    return {name: value for name, value in trial.record().trial.items() if name in COLUMNS}
