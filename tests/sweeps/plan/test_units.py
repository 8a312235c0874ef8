"""The grid in tokens, steps and examples: which trials it makes, that they are compared, and who reads their rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.data.load import comparable, load_sweep
from analysis.reporting import event_files
from analysis.reporting.page.lines import curves
from analysis.reporting.report import write_report
from analysis.stats.steps_to_loss import steps_to_loss
from sweeps import (
    batch_grid,
    branched_batch,
    keskar_tables,
    optimizer_ladder,
    scaling_rules,
    sharpness_intervention,
    steps_to_result,
    threshold_batch,
    throughput,
    tuned_gap,
)
from sweeps.cli import branched_options, scaling_options, steps_options
from sweeps.cli.options import parse
from sweeps.plan.grid import Grid, expand
from sweeps.plan.units import batch_sizes_of
from sweeps.studies.branched_batch import Branches
from sweeps.studies.study import grid_of
from sweeps.tuning.scaling_rules import tuning_trials
from sweeps.tuning.steps_to_result import plan_of_goals
from trainables.config import TrialConfig
from trainables.data import Source, load_source
from trainables.records.tables import compact, write_record
from trainables.runtime.errors import UserError
from trainables.trial import run_trial
from trainables.units import Amount

Refuse = Callable[[Callable[[list[str]], int], list[str]], str]
WINDOW = 8


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """400 windows of 8 letters to train on."""
    letters = np.random.default_rng(0).choice(list("abc de"), 4000)
    path = tmp_path_factory.mktemp("text") / "letters.txt"
    path.write_text("".join(letters))
    return load_source("text", root=path, options={"context": WINDOW})


def grid(**changes: Any) -> Grid:
    fields: dict[str, Any] = {"learning_rates": [0.01], "model_options": {}, "measures": (), "seeds": [0, 1]}
    return Grid(**fields | changes)


def test_batches_of_tokens_are_windows(text: Source) -> None:
    found = expand(
        grid(
            model="lstm", batch_sizes=batch_sizes_of([16, Amount(512, "tokens")], text), budget="6.4ktokens",
            evaluate_every="1600tokens",
            warmup_epochs=[Amount(3, "steps"), Amount(800, "tokens")], switch_epochs=[None, Amount(1600, "tokens")],
            train_size=400, schedule={"decay": "step", "decay_epochs": "1600tokens,3200tokens"},
        ),
        text,
    )  # fmt: skip
    assert {config.batch_size for config in found} == {16, 64}
    assert {(config.epochs, config.budget) for config in found} == {(2, None)}  # 800 windows of 400
    assert {config.evaluate_every for config in found} == {"200examples"}
    assert {(config.warmup_steps, config.warmup_epochs) for config in found} == {(3, 0.0), (None, 0.25)}
    assert {config.switch_epoch for config in found} == {None, 0.5}
    assert {config.decay_epochs for config in found} == {"200examples,400examples"}


def test_a_switch_in_steps_is_at_its_place(digits: Source) -> None:
    (_, switched) = expand(
        grid(batch_sizes=[32], switch_batch_size=300, switch_epochs=[None, Amount(13, "steps")], epochs=3, seeds=[0],
             train_size=300),
        digits,
    )  # fmt: skip
    assert switched.switch_epoch == 1 + 96 / 300
    assert run_trial(switched, digits).trial["steps"] == 13 + 1 + 1  # the rest of the second epoch, and the third


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch_sizes": [16], "switch_epochs": [Amount(9, "epochs")]}, "`--switch` must be before the end of"),
        ({"batch_sizes": [16], "warmup_epochs": [Amount(10**6, "tokens")]}, "`warmup_epochs` must be between 0 and"),
    ],
)  # fmt: skip
def test_what_is_refused(text: Source, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        expand(grid(model="lstm", epochs=2, train_size=400, **changes), text)


@pytest.mark.parametrize(("tokens", "such_as"), [(100, "96 or 104"), (4, "8 or 16"), (15, "8 or 16")])
def test_batches_of_tokens_that_are_no_windows(text: Source, tokens: int, such_as: str) -> None:
    reason = f"`--batch-tokens` must be a multiple of the window, 8 tokens, such as {such_as}, got {tokens}"
    with pytest.raises(UserError, match=reason):
        batch_sizes_of([Amount(8, "tokens"), Amount(tokens, "tokens")], text)


@pytest.mark.parametrize(
    ("script", "sizes"),
    [
        (batch_grid, "16"),
        (branched_batch, "16"),
        (keskar_tables, "16 64"),
        (optimizer_ladder, "16 64"),
        (scaling_rules, "16"),
        (sharpness_intervention, "16 64"),
        (steps_to_result, "16 64"),
        (threshold_batch, "16 64"),
        (throughput, "16 64"),
        (tuned_gap, "16 64"),
    ],
)
def test_every_script_takes_batches_of_tokens(refusal: Refuse, tmp_path: Path, script: Any, sizes: str) -> None:
    """Of the data of each: windows are known once it is read, so the refusal shows that they are looked for."""
    results = [] if script is throughput else ["--results", str(tmp_path), "--dry-run"]
    arguments = ["--dataset", "digits", "--batch-tokens", *sizes.split(), *results]
    assert "`--batch-tokens` has no meaning for this dataset, which has no tokens" in refusal(script.main, arguments)
    option = "--batch-size" if script in (branched_batch, scaling_rules) else "--batch-sizes"
    both = ["--batch-tokens", *sizes.split(), option, *sizes.split()]
    assert f"argument {option}: not allowed with argument --batch-tokens" in refusal(script.main, both)


def test_a_switch_to_a_batch_of_tokens(text: Source, refusal: Refuse) -> None:
    words = ["--batch-tokens", "32", "64", "--switch-epochs", "1", "--epochs", "3", "--model", "lstm"]
    sizes = ["--train-size", "200", "--test-size", "20", "--switch-batch-tokens"]
    found = grid_of(parse([*words, *sizes, "256"]), text)
    assert (found.batch_sizes, found.switch_batch_size) == ([4, 8], 32)
    with pytest.raises(UserError, match="`--switch-batch-tokens` must be a multiple of the window, 8 tokens"):
        grid_of(parse([*words, *sizes, "20"]), text)
    without = ["--switch-epochs", "none", "--switch-batch-tokens", "256", "--dry-run"]
    assert "`--switch-batch-tokens 256` has no effect without a switch" in refusal(batch_grid.main, without)


def test_a_base_batch_of_tokens_is_multiplied_in_examples(text: Source) -> None:
    words = "--batch-tokens 32 --factors 2 4 --model lstm --seeds 0 1 --train-size 200 --test-size 20"
    rules = scaling_options.parse([*words.split(), "--validation-size", "20", "--tuning-seeds", "9"])
    assert {trial.batch_size for trial in tuning_trials(rules, text)} == {4, 8, 16}
    branched = branched_options.parse([*words.split(), "--window", "2epochs"])
    trials = Branches(branched, text).trials()
    assert {(trial.batch_size, trial.switch_batch_size) for trial in trials} == {(4, size) for size in (None, 4, 8, 16)}


def test_a_search_in_tokens_tunes_batches_of_examples(text: Source) -> None:
    words = "--batch-tokens 32 256 --model lstm --train-size 200 --test-size 20 --validation-size 20"
    plan = plan_of_goals(steps_options.parse(words.split()), text)
    assert [cell.batch_size for cell in plan.cells] == [4, 32]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--budget", "2Mtokens"], "`budget` must be in steps, examples, epochs for this dataset, which has no tokens"),
        (["--evaluate-every", "2Mtokens"], "`evaluate_every` must be in steps, examples, epochs"),
        (["--epochs", "3", "--budget", "5steps"], "argument --budget: not allowed with argument --epochs"),
        (["--warmup", "0steps"], "`warmup` must be a whole number of steps, 1 or more"),
        (["--budget", "0steps"], "`budget` must be a whole number of steps, 1 or more"),
        (["--budget", "9steps", "--switch", "none", "9steps", "--warmup", "0"], "`--switch` must be before the end"),
        (["--budget", "9steps", "--switch", "none", "--warmup", "10steps"], "`warmup` must be at most the length"),
        (["--schedule", "wsd,learning_rate=3"], "must be none or FIELD=VALUE"),
        (
            ["--schedule", "cosine", "--remedies", "none", "decay=step,decay_epochs=1", "--epochs", "9"],
            "leave out one of",
        ),
    ],
)
def test_bad_input_is_one_line(refusal: Refuse, arguments: list[str], reason: str) -> None:
    assert reason in refusal(batch_grid.main, [*arguments, "--dry-run"])


def test_options(digits: Source) -> None:
    arguments = (
        "--budget 40steps --warmup 0 10steps --switch none --schedule wsd,decay_share=0.1 --evaluate-every 7steps"
    )
    options = parse([*arguments.split(), "--batch-sizes", "32", "--seeds", "0", "--learning-rates", "0.01"])
    found = expand(grid_of(options, digits), digits)
    assert [(config.warmup_epochs, config.warmup_steps) for config in found] == [(0.0, None), (0.0, 10)]
    assert all((config.budget, config.evaluate_every) == ("40steps", "7steps") for config in found)
    assert all((config.decay, config.decay_share, config.target_loss) == ("wsd", 0.1, None) for config in found)


def swept(folder: Path, digits: Source, budget: str) -> list[TrialConfig]:
    """Writes a sweep of `budget`, a row every three steps, to `folder`; returns its configurations."""
    (folder / "trials").mkdir(parents=True)
    configs = expand(
        grid(batch_sizes=[32, 300], budget=budget, evaluate_every="3steps", train_size=300,
             warmup_epochs=[Amount(4, "steps")] if budget == "25steps" else [0.0]),
        digits,
    )  # fmt: skip
    for config in configs:
        write_record(folder, run_trial(config, digits))
    compact(folder)
    return configs


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("budget", ["25steps", pytest.param("500examples", marks=pytest.mark.slow)])
def test_a_sweep_with_rows_within_epochs_is_read(digits: Source, tmp_path: Path, budget: str) -> None:
    """Trials of one budget are compared though their epochs differ; losses are found between the logging points."""
    configs = swept(tmp_path / "sweep", digits, budget)
    sweep = load_sweep(tmp_path / "sweep")
    frame = comparable(sweep)
    assert frame.groupby("batch_size")["is_reference"].all().to_dict() == {32: True, 300: False}
    assert frame["large_batch_gap"].notna().all()
    rows = sweep.epochs[sweep.epochs["trial_id"] == configs[0].trial_id]
    assert (rows["step"].diff().iloc[1:-1] == 3).all()
    assert np.allclose(rows["epoch"] * 300, rows["examples"])
    middle = rows["train_loss"].iloc[3]
    step = steps_to_loss(rows, middle)["step"].iloc[0]
    assert step == pytest.approx(rows["step"].iloc[3]) or step < rows["step"].iloc[3]
    lines = curves(sweep.epochs, sweep.trials["trial_id"], sweep.metric)
    assert all(trial["epochs"] == len(trial["values"][0]) for trial in lines["trials"])
    assert write_report(sweep).exists()


def test_a_sweep_with_rows_within_epochs_is_exported(digits: Source, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install '.[trackers]'")
    swept(tmp_path / "sweep", digits, "25steps")
    assert event_files.write_events(tmp_path / "sweep")
