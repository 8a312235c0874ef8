"""The grid: every distinct combination once, in an order that serves a sweep that is interrupted."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sweeps.cli.options import parse
from sweeps.plan import grid as plan
from sweeps.plan.grid import SHARED, Grid, expand
from sweeps.plan.users_network import with_absolute_paths
from sweeps.studies.study import grid_of
from trainables.config import TrialConfig
from trainables.data import Source, load_source
from trainables.remedies import REMEDIES
from trainables.runtime.errors import UserError


def grid(**changes: Any) -> Grid:
    fields: dict[str, Any] = {
        "batch_sizes": [16, 300],
        "learning_rates": [0.01],
        "model_options": {},
        "epochs": 10,
    }
    return Grid(**fields | changes)


def test_every_combination(digits: Source) -> None:
    trials = expand(
        grid(
            batch_sizes=[16, 64, 300],
            learning_rates=[0.01, 0.1],
            warmup_epochs=[0, 2],
            switch_epochs=[None, 5],
            seeds=[0, 1, 2],
        ),
        digits,
    )
    # Batch size 300 has no switch of its own, to 300: (2 * 2 + 1) * 2 * 2 * 3.
    assert len(trials) == 60
    assert len({trial.trial_id for trial in trials}) == 60
    assert Counter(trial.switch_batch_size for trial in trials) == {None: 36, 300: 24}
    assert all(trial.split_seed == trial.seed for trial in trials)
    order = [(trial.switch_epoch is not None, trial.seed, trial.batch_size) for trial in trials]
    assert order == sorted(order)  # those with a switch start from what the others leave


def test_combinations_that_mean_the_same_trial(digits: Source) -> None:
    assert len(expand(grid(switch_epochs=[None, 10, 20]), digits)) == 2  # switches after the last epoch
    assert len(expand(grid(switch_epochs=[None, 0]), digits)) == 2  # from 16 at once to 300
    assert len(expand(grid(learning_rates=[0.01, 1e-2], seeds=[0, 0]), digits)) == 2


def test_split_seeds_as_an_axis(digits: Source) -> None:
    trials = expand(grid(seeds=[0, 1], split_seeds=[5, 6, 7]), digits)
    assert len(trials) == 12
    assert {(trial.seed, trial.split_seed) for trial in trials} == {(s, p) for s in (0, 1) for p in (5, 6, 7)}


def test_a_fixed_split_is_no_axis(digits: Source) -> None:
    """Where all training and test examples are used, the split seed means nothing."""
    fixed = Source("fixed", digits.inputs[:500], digits.labels[:500], digits.inputs[500:], digits.labels[500:], 10)
    trials = expand(grid(split_seeds=[5, 6, 7]), fixed)
    assert len(trials) == 2
    assert {trial.split_seed for trial in trials} == {None}
    assert len(expand(grid(split_seeds=[5, 6, 7], train_size=400), fixed)) == 6


def test_no_field_of_a_trial_is_forgotten(digits: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one is given to every trial, and has an option: else `grid_of` fails."""
    given = set(REMEDIES)

    def noted(**fields: Any) -> TrialConfig:
        given.update(fields)
        return TrialConfig(**fields)

    monkeypatch.setattr(plan, "TrialConfig", noted)
    expand(grid_of(parse(["--warmup", "0", "3steps"]), digits), digits)
    assert {field.name for field in dataclasses.fields(TrialConfig)} - given == {"switch_order_seed"}  # of branches


def test_the_grid_has_the_defaults_of_a_trial() -> None:
    own, of_trial = ({field.name: field.default for field in dataclasses.fields(kind)} for kind in (Grid, TrialConfig))
    assert {name for name in SHARED if own[name] != of_trial[name]} == {"measure_dtype", "switch_learning_rate"}


def test_switch_batch_size(digits: Source) -> None:
    (small, _) = expand(grid(switch_epochs=[3], switch_batch_size=100), digits)
    assert (small.switch_batch_size, small.switch_learning_rate, small.switch_optimizer_state) == (
        100,
        "keep",
        "reset",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": [16, 5000]}, r"`--batch-sizes`: 5000 is larger than the training set \(300 examples\)"),
        ({"batch_sizes": []}, "`batch_sizes` must hold at least one value"),
        ({"train_size": 1797}, "`train_size` must be between 1 and 1796, got 1797"),
        ({"test_size": 1498}, "`test_size` must be between 1 and 1497, got 1498"),
    ],
)
def test_bad_grids(digits: Source, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        expand(grid(**changes), digits)


def test_paths_of_a_librarys_model_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers have another current folder."""
    monkeypatch.chdir(tmp_path)
    assert with_absolute_paths("hf:own/folder", {"weights": True}) == (f"hf:{tmp_path}/own/folder", {"weights": True})
    changed = {"weights": f"{tmp_path}/w.safetensors", "dropout": 0.1}
    for name in ("timm:resnet18", "torchvision.models:resnet18"):
        assert with_absolute_paths(name, {"weights": "w.safetensors", "dropout": 0.1}) == (name, changed)
    for name in ("mlp", "own.module:build", "timm:resnet18"):
        assert with_absolute_paths(name, {"depth": 2}) == (name, {"depth": 2})
    assert with_absolute_paths("own.module:build", {"weights": "w.pt"})[1] == {"weights": "w.pt"}


@pytest.mark.parametrize(("dataset", "level"), [("text", "char"), ("text", "word"), ("pairs", "char")])
def test_weights_with_token_ids_of_others(dataset: str, level: str, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"source": "a", "target": "b"}\n' * 99)
    options = {"level": level, "context": 5} if dataset == "text" else {"level": level}
    source = load_source(dataset, root=file, options=options)
    with pytest.raises(UserError, match=f"^`weights` cannot be used with --dataset {dataset}, .* level=bpe"):
        expand(grid(model="hf:gpt2", model_options={"weights": True}, batch_sizes=[2]), source)
