"""The command line of tuned_gap.py: mistakes in one line, nothing heavy for --help, and no password on the screen."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.cli.options import parse as parse_grid
from sweeps.cli.tuning_options import parse
from sweeps.tuned_gap import main
from sweeps.tuning.optuna_study import hidden, open_storage
from trainables.runtime.errors import UserError

SCRIPT = Path(__file__).parents[2] / "sweeps" / "tuned_gap.py"


def test_no_password_is_shown() -> None:
    assert hidden("postgresql://me:secret@host:5432/db") == "postgresql://***@host:5432/db"
    assert hidden("sqlite:////tmp/x.db") == "sqlite:////tmp/x.db"
    with pytest.raises(UserError) as error:
        open_storage("postgresql://me:secret@127.0.0.1:1/db")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--learning-rate-range", "0.1", "0.01"], "`learning_rate` must be LOW HIGH with LOW <= HIGH"),
        (
            ["--weight-decay-range", "0", "0.01"],
            "`weight_decay` must be LOW HIGH with LOW <= HIGH, above 0, or 0 twice",
        ),
        (["--learning-rate-range", "0.1"], "expected 2 arguments"),
        (["--trials", "3", "--budget-steps", "10"], "not allowed with argument --trials"),
        (["--seeds", "0", "1000"], "`--tuning-seed` must not be one of the --seeds"),
        (["--remedies", "sam_radius=0.05"], "`--remedies` must include none"),
        (["--validation-size", "5000"], "`validation_size` must be between 0 and 898, got 5000"),
        (["--train-size", "800"], "`train_size` must be between 1 and 399 beside 500 for validation, got 800"),
        (["--batch-sizes", "16"], "there is nothing to compare: give two or more --batch-sizes"),
        (["--batch-sizes", "301"], "`--batch-sizes`: 301 is larger than the training set"),
        (["--epochs", "5", "--warmup-epochs-range", "0", "10"], "`warmup_epochs` must be between 0 and `epochs` (5)"),
        (["--storage", "nonsense"], "`--storage`: nonsense cannot be opened as an Optuna storage"),
        (["--batch-size", "16"], "unknown option --batch-size; did you mean --batch-sizes?"),
    ],
)
def test_mistakes_get_one_line(tmp_path: Path, refusal: Callable[..., str], options: list[str], message: str) -> None:
    assert message in refusal(main, ["--results", str(tmp_path), "--no-dashboard", *options])
    assert list(tmp_path.iterdir()) == []


def test_the_default_warmup_fits_the_trial() -> None:
    assert parse(["--epochs", "5"]).warmup_epochs_range == [0.0, 5]
    assert parse([]).warmup_epochs_range == [0.0, 10.0]
    assert parse_grid(["--epochs", "3"]).warmup_epochs == [0.0]
    assert parse_grid([]).warmup_epochs == parse_grid(["--epochs", "5"]).warmup_epochs == [0.0, 5.0]


def test_help_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", str(SCRIPT), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert not any(f" {name}\n" in result.stderr for name in ("torch", "optuna", "ray"))
