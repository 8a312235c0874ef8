"""The trials of scaling_rules.py: the grid, the settings that are judged, and what mistakes say."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps import scaling_rules
from sweeps.cli.scaling_options import parse
from sweeps.tuning.campaign import with_test_set
from sweeps.tuning.scaling_rules import judging_trials, tuning_trials
from trainables.data import Source
from trainables.records.tables import read_tables
from trainables.runtime.errors import UserError

QUICK = "--factors 2 4 --learning-rates 0.002 0.004 --tuning-seeds 9 --seeds 0 1 --epochs 1"


def test_a_grid_with_validation_examples(digits: Source) -> None:
    trials = tuning_trials(parse(QUICK.split()), with_test_set(digits, None))
    watched = tuning_trials(parse([*QUICK.split(), "--noise-scale", "all"]), with_test_set(digits, None))
    assert {trial.noise_scale for trial in watched} == {"all"}
    found = Counter((trial.batch_size, trial.learning_rate) for trial in trials)
    assert found == {(size, rate): 1 for size in (8, 16, 32) for rate in (0.002, 0.004)}
    assert {(trial.seed, trial.validation_size, trial.epochs, trial.measures) for trial in trials} == {(9, 500, 1, "")}


def test_each_setting_is_judged_once_with_each_seed(digits: Source) -> None:
    options = parse(QUICK.split())
    setting = tuning_trials(options, with_test_set(digits, None))[0]
    setting = dataclasses.replace(setting, validation_size=None)
    trials = judging_trials(options, [setting, setting])
    assert [(trial.seed, trial.split_seed, trial.validation_size) for trial in trials] == [(0, 0, None), (1, 1, None)]


def test_a_batch_beyond_the_training_set(digits: Source) -> None:
    with pytest.raises(UserError, match="`--factors`: 64 times batch 8 is larger than the training set"):
        tuning_trials(parse(["--factors", "2", "64", "--train-size", "300"]), with_test_set(digits, None))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("--factors 1", "--factors: must be a whole number of 2 or more"),
        ("--seeds 3", "--seeds: must be two or more"),
        ("--seeds 1 2 2", "--seeds: must be different values, got 2 twice"),
        ("--seeds 1 1000", "--seeds: must differ from --tuning-seeds, got 1000 in both"),
        ("--learning-rates 0.1", "--learning-rates: must be two or more"),
        ("--margin 0", "--margin: must be a number above 0"),
        ("--budget 100steps", "--budget: must be in examples, tokens or epochs"),
        ("--target-loss 0.1", "--target-loss: cannot be used"),
        ("--target-metric 0.9", "--target-metric: cannot be used"),
        ("--parameter-groups *.bias:lr=2x", "--parameter-groups: cannot be used"),
        ("--optimizer sgd adam", "--optimizer: must be one"),
        ("--optimizer lbfgs", "--optimizer: must be an optimizer with a learning rate and mini-batches, got lbfgs"),
        ("--remedies none average=ema", "--remedies: must be one set of fields"),
        ("--remedies learning_rate_scaling=sqrt", "--remedies: learning_rate_scaling cannot be used"),
    ],
)
def test_options_that_are_wrong(options: str, what: str, refusal: Callable[..., str]) -> None:
    assert what in refusal(scaling_rules.main, options.split())


@pytest.mark.slow
def test_tuned_then_judged_then_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every setting is judged by both seeds, and a second run trains nothing."""
    run = [*QUICK.split(), "--factors", "2", "--plain", "--no-dashboard", "--results", str(tmp_path), "--name", "here"]
    assert scaling_rules.main(run) == 0
    assert "Linear: " in capsys.readouterr().out
    table = json.loads((tmp_path / "here" / "scaling_rules.json").read_text())
    assert [row["rule"] for row in table["rules"]] == ["keep", "square_root", "linear", "adam_sde", "half_life"]
    assert {row["replicates"] for row in table["rules"]} == {2}
    ended = sorted(read_tables(tmp_path / "here").trials["finished_at"].to_pylist())
    assert scaling_rules.main([*run, "--resume"]) == 0
    assert sorted(read_tables(tmp_path / "here").trials["finished_at"].to_pylist()) == ended
