"""The studies of one small against one large batch: which trials they plan, and what mistakes say."""

import argparse
import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeps import evolution, optimization_issue, paper_remedies, resilience, sharpness_intervention, warm_start
from sweeps.execution.launch import run_trials
from sweeps.monitoring.progress import Progress
from sweeps.session.placement import Placement
from sweeps.studies import interventions
from sweeps.studies.keskar_tables import tables_trials
from sweeps.studies.two_batches import TwoBatches, study_parser
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.records.tables import write_record
from trainables.runtime.errors import UserError
from trainables.trial import run_trial

SCRIPTS = {
    module.__name__.removeprefix("sweeps."): module
    for module in (warm_start, evolution, paper_remedies, optimization_issue, resilience, sharpness_intervention)
}


def study(source: Source, **changes: Any) -> TwoBatches:
    options: dict[str, Any] = {
        "scale": "small",
        "batch_sizes": None,
        "seeds": [0, 1],
        "learning_rate": None,
        "model": None,
        "model_options": [],
        "train_size": None,
        "trial_timeout": None,
        "epochs": None,
        "target_loss": None,
        "measure_examples": None,
        "switch_epochs": None,
        "measure_every": None,
        "measure_share": None,
        "sgd_learning_rate": None,
        "adagrad_learning_rate": None,
    }
    return TwoBatches(argparse.Namespace(**options | changes), source)


@pytest.fixture(scope="module")
def images() -> Source:
    """As large as CIFAR-10 in number, not in pixels."""
    inputs, labels = np.zeros((50000, 3, 4, 4), np.float32), np.zeros(50000, np.int64)
    return Source("cifar10", inputs, labels, inputs[:10000], labels[:10000], 10)


def test_the_papers_networks_on_a_copy_of_its_data(images: Source) -> None:
    """C1 on CIFAR-10 as somebody's Parquet files, whose name names no network of the paper."""
    source = dataclasses.replace(images, name="parquet")
    trials = tables_trials(study(source, scale="paper", measure_examples=5000, target_loss=0.01), "c1")
    assert [(trial.batch_size, trial.seed) for trial in trials] == [(256, 0), (5000, 0), (256, 1), (5000, 1)]
    (kind,) = {(trial.model, trial.model_options, trial.epochs, trial.measure_dtype) for trial in trials}
    assert kind == ("c1", "{}", 100, "float32")
    with pytest.raises(UserError, match=r"`--model` must be given with --scale paper for parquet"):
        study(source, scale="paper").trials(256)


def test_sharpness_intervention(digits: Source) -> None:
    """Every seed has every intervention at both batch sizes, each with all measures and shifts."""
    arms: dict[str, Any] = {
        "seeds": [0, 1, 2],
        "sam_radii": [0.05],
        "asam_radii": [0.5],
        "rate_factors": [2.0],
        "weight_decays": [1e-4],
        "rescalings": [8.0],
    }
    trials = interventions.plan(study(digits, **arms, measures=["hessian_trace"], shifts=["blur", "noise"]))
    fields = ("sam_radius", "sam_adaptive", "learning_rate", "weight_decay", "rescaling")
    found = Counter(tuple(getattr(trial, name) for name in fields) for trial in trials)
    assert found == {
        (None, False, 0.006, 0.0, None): 6,  # three seeds, two batch sizes
        (0.05, False, 0.006, 0.0, None): 6,
        (0.5, True, 0.006, 0.0, None): 6,
        (None, False, 0.012, 0.0, None): 6,
        (None, False, 0.006, 1e-4, None): 6,
        (None, False, 0.006, 0.0, 8.0): 6,
    }
    assert {(trial.measures, trial.shifts) for trial in trials} == {("hessian_trace", "noise,blur")}
    without = arms | {name: [None] for name in ("sam_radii", "rate_factors", "weight_decays")}
    left = interventions.plan(study(digits, **without, measures=["hessian_trace"], shifts=[]))
    assert {tuple(getattr(trial, name) for name in fields) for trial in left} == {
        (None, False, 0.006, 0.0, None),
        (0.5, True, 0.006, 0.0, None),
        (None, False, 0.006, 0.0, 8.0),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0", "1"], "`--seeds` must be 3 or more, which intervals need, got 2"),
        (
            ["--sam-radii", "none", "--asam-radii", "none", "--rate-factors", "1", "--weight-decays", "none"],
            "`--sam-radii`, --asam-radii, --rate-factors or --weight-decays must have a value other than plain",
        ),
    ],
)
def test_an_experiment_without_an_answer_is_refused_before_it_starts(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sharpness_intervention.main(["--results", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_none_is_a_dose_and_seeds_differ(capsys: pytest.CaptureFixture[str]) -> None:
    parser = study_parser("sharpness_intervention", "", 8, sharpness_intervention.add_options)
    doses = ("--sam-radii", "--asam-radii", "--rate-factors", "--weight-decays", "--rescalings")
    options = parser.parse_args([word for dose in doses for word in (dose, "none")])
    assert options.sam_radii == options.asam_radii == options.rate_factors == [None]
    assert options.weight_decays == options.rescalings == [None]
    assert parser.parse_args(["--sam-radii", "none", "0.1"]).sam_radii == [None, 0.1]
    for wrong, message in (
        (["--sam-radii", "0"], "--sam-radii: must be none or a number above 0, got 0"),
        (["--seeds", "3", "3"], "--seeds: must be different values, got 3 twice"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)
        assert message in capsys.readouterr().err


def test_warm_start(digits: Source) -> None:
    trials = warm_start.plan(study(digits))
    found = Counter((trial.batch_size, trial.switch_epoch, trial.switch_batch_size) for trial in trials)
    expected = [(16, None, None), (300, None, None), *((16, epoch, 300) for epoch in (1, 2, 4, 8, 12, 16))]
    assert found == dict.fromkeys(expected, 2)
    assert [trial.is_warm_started for trial in trials] == [False] * 4 + [True] * 12  # after those that leave states
    for seed in (0, 1):
        own = [trial for trial in trials if trial.seed == seed and trial.batch_size == 16]
        assert len({trial.warm_start_id for trial in own}) == 1
        assert {trial.split_seed for trial in own} == {seed}


def test_warm_start_at_the_papers_scale(images: Source) -> None:
    trials = warm_start.plan(study(images, scale="paper"))
    switched = [trial for trial in trials if trial.switch_epoch is not None]
    assert [trial.switch_epoch for trial in switched if trial.seed == 0] == list(range(1, 101))
    assert {(trial.batch_size, trial.switch_batch_size, trial.epochs) for trial in switched} == {(256, 5000, 200)}
    assert {(trial.model, trial.learning_rate, trial.target_loss) for trial in trials} == {("c1", 0.001, None)}
    assert {(trial.measure_batch_norm, trial.measure_batch_size) for trial in trials} == {("batch", 5000)}


def test_evolution(digits: Source) -> None:
    trials = evolution.plan(study(digits))
    assert {(trial.batch_size, trial.measure_every) for trial in trials} == {(16, 2), (300, 4)}
    shares = evolution.plan(study(digits, measure_share=0.5))
    assert {(trial.measure_every, trial.measure_share) for trial in shares} == {(None, 0.5)}


def test_paper_remedies(digits: Source) -> None:
    trials = paper_remedies.plan(study(digits))
    found = Counter(trial.label.removesuffix(f" seed{trial.seed}").split("lr0.006")[1].strip() for trial in trials)
    assert found == {
        "": 4,
        "augmentation=paper": 2,
        "proximal=0.001": 2,
        "weight_adversary=0.05": 2,
        "input_adversary=0.1": 2,
    }
    assert {trial.batch_size for trial in trials[4:]} == {300}


def test_optimization_issue(digits: Source, images: Source) -> None:
    found = {(trial.optimizer, trial.batch_size, trial.epochs) for trial in optimization_issue.plan(study(digits))}
    full = {("gradient_descent", 300, 3000), ("lbfgs", 300, 3000)}
    assert found == {("adam", 16, 1500), ("adam", 300, 1500)} | full
    trials = optimization_issue.plan(study(images, scale="paper"))
    assert {(trial.optimizer, trial.batch_size) for trial in trials} == {
        ("adam", 256),
        ("adam", 5000),
        ("gradient_descent", 50000),
        ("lbfgs", 50000),
    }


def test_resilience(digits: Source, images: Source) -> None:
    trials = resilience.plan(study(digits))
    variants = Counter((trial.model_options, trial.optimizer) for trial in trials)
    assert len(variants) == 11
    assert set(variants.values()) == {4}  # two batches, two seeds
    assert {trial.optimizer for trial in trials} == {"adam", "sgd", "adagrad"}
    paper = resilience.plan(study(images, scale="paper"))
    assert {trial.model for trial in paper} == {"c1"}
    with pytest.raises(UserError, match="`--model` must be one of mlp, f1"):
        resilience.plan(study(digits, model="resnet"))


def test_sizes(digits: Source, images: Source) -> None:
    assert study(images).train_size == 2000  # at the small scale of what has no default of its own
    assert study(images, train_size=1000).large == 1000
    with pytest.raises(UserError, match="`--batch-sizes` must be a small one and a larger one, got 64 64"):
        evolution.plan(study(digits, batch_sizes=[64, 64]))
    with pytest.raises(UserError, match="`--model` must be given with --scale paper for digits"):
        evolution.plan(study(digits, scale="paper", batch_sizes=[16, 30]))
    fixed = evolution.plan(study(digits, epochs=7))
    assert {(trial.epochs, trial.target_loss) for trial in fixed} == {(7, None)}  # so long, whatever the loss


@pytest.mark.parametrize("name", SCRIPTS)
def test_mistakes_get_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--batch-sizes", "300", "16"], "must be a small one and a larger one"),
        (["--dataset", "imagenet"], "`dataset` must be one of digits"),
        (["--scale", "paper", "--data-dir", str(tmp_path)], "--download fetches it"),
    ):
        assert SCRIPTS[name].main(["--results", str(tmp_path), *options]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    with pytest.raises(SystemExit) as exit:
        SCRIPTS[name].main(["--seed", "0"])
    assert exit.value.code == 2
    assert "did you mean --seeds?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_estimate", "no_check")
def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--results", str(tmp_path), "--dry-run", "--seeds", "0", "--epochs", "6", "--switch-epochs", "2", "4"]
    assert warm_start.main(options) == 0
    assert "4 trials, 0 of them done already" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_states_of_warm_starts_go_with_the_end_of_the_sweep(
    tmp_path: Path, digits: Source, make_config: Callable[..., TrialConfig]
) -> None:
    for part in ("trials", "checkpoints"):
        (tmp_path / part).mkdir()
    left, own = (tmp_path / "checkpoints" / name for name in ("warm-start-abc-2.pt", "abc.pt"))
    for file in (left, own):
        file.touch()
    write_record(tmp_path, run_trial(make_config(epochs=1), digits))
    _, interrupted = run_trials([], digits, tmp_path, Placement(), Progress([], already_done=1))
    assert not interrupted
    assert (left.exists(), own.exists()) == (False, True)
