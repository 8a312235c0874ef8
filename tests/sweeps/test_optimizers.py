"""The optimizer and its options as an axis of a sweep: read, checked, trained, matched, resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sweeps.batch_grid import main
from sweeps.cli.options import parse
from sweeps.plan.grid import Grid, expand
from trainables.data import Source

AXES = ["--batch-sizes", "16", "64", "--learning-rates", "0.01", "--warmup-epochs", "0", "--switch-epochs", "none"]
COMMON = [*AXES, "--seeds", "0", "--epochs", "1", "--model-options", "widths=16", "--weight-decay", "0.1"]
RUN = ["--measures", "none", "--plain", "--no-dashboard", "--name", "test"]


def test_names_begin_settings() -> None:
    words = ["adamw", "betas=0.9,0.95", "eps=1e-6", "SGD", "adamw", "amsgrad=true", "my.own:Class", "rule=best"]
    assert parse(["--optimizer", *words]).optimizer == [
        ("adamw", {"betas": [0.9, 0.95], "eps": 1e-6}),
        ("sgd", {}),
        ("adamw", {"amsgrad": True}),
        ("my.own:Class", {"rule": "best"}),
    ]
    assert parse([]).optimizer == [("adam", {})]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optimizer", "betas=0.9,0.95"], "must begin with a name"),
        (["--optimizer", "adamw", "eps=1", "eps=2"], "must have each option once, eps"),
        (["--optimizer", "adamww"], "did you mean adamw?"),
        (["--optimizer", "adamw", "beta=0.9"], "adamw has no option beta; did you mean betas?"),
        (["--optimizer", "adamw", "betas=0.9,1.5"], "Invalid beta parameter at index 1: 1.5"),
        (["--optimizer", "adamw", "--momentum", "0.9"], "`--momentum 0.9` has no effect with --optimizer adamw"),
        (["--optimizer", "adamw", "--remedies", "layer_adaptation=true"], "`layer_adaptation` needs the optimizer sgd"),
        (["--parameter-groups", "head"], "must be PATTERN:KEY=VALUE"),
        (["--parameter-groups", "heads.*:lr=2x"], "no parameter is named heads.*"),
    ],
)
def test_mistakes_get_one_line(
    tmp_path: Path, refusal: Callable[..., str], check_here: None, options: list[str], message: str
) -> None:
    assert message in refusal(main, [*COMMON, *RUN, "--results", str(tmp_path), *options])
    assert not (tmp_path / "test").exists()


def test_options_are_part_of_an_id_unless_they_are_defaults(digits: Source) -> None:
    fields: dict[str, Any] = {
        "batch_sizes": [16], "learning_rates": [0.01], "model_options": {}, "epochs": 1, "train_size": 100,
    }  # fmt: skip
    (plain,) = expand(Grid(**fields), digits)
    settings: list[tuple[str, dict[str, Any]]] = [
        ("adam", {}),
        ("adam", {"eps": 1e-8}),
        ("adam", {"eps": 1e-6}),
        ("adam", {"betas": [0.9, 0.999]}),
    ]
    found = expand(Grid(**fields, optimizers=settings), digits)
    assert [config.optimizer_options for config in found] == ["{}", '{"eps": 1e-06}']
    assert found[0].trial_id == plain.trial_id != found[1].trial_id
    (own,) = expand(Grid(**fields, optimizers=[("torch.optim:NAdam", {})]), digits)
    assert own.optimizer_fingerprint is not None


@pytest.mark.slow
def test_two_option_sets_are_two_settings_and_a_third_is_added(tmp_path: Path) -> None:
    command = [*COMMON, *RUN, "--results", str(tmp_path), "--optimizer", "adamw", "betas=0.9,0.95", "adamw"]

    def rows() -> dict[str, dict[str, Any]]:
        return {row["trial_id"]: row for row in pq.read_table(tmp_path / "test/trials.parquet").to_pylist()}

    assert main(command) == 0
    first = rows()
    assert sorted(row["optimizer_options"] for row in first.values()) == ['{"betas": [0.9, 0.95]}'] * 2 + ["{}"] * 2
    own = 64 * 16 + 16 * 10  # the matrices, without 26 biases
    kinds = {(row["weight_decay_form"], row["decayed_parameters"], row["parameters"]) for row in first.values()}
    assert kinds == {("decoupled", own, own + 26)}
    small = {row["optimizer_options"]: row for row in first.values() if row["batch_size"] == 16}
    for row in first.values():
        reference = small[row["optimizer_options"]]["test_accuracy"]  # of the same options
        assert row["large_batch_gap"] == pytest.approx(reference - row["test_accuracy"], abs=1e-12)
    assert small["{}"]["test_accuracy"] != small['{"betas": [0.9, 0.95]}']["test_accuracy"]
    assert main([*command, "muon", "adamw_lr_ratio=0.5", "--resume"]) == 0
    second = rows()
    assert len(second) == 6
    assert {key: second[key]["finished_at"] for key in first} == {key: row["finished_at"] for key, row in first.items()}
    assert {row["optimizer"] for key, row in second.items() if key not in first} == {"muon"}
