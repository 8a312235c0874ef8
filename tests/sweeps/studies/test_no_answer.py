"""Runs whose trials give no answer: all of them failed, or what others are compared with did."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from analysis.reporting.tuned_gap import tuned_gap_lines
from analysis.reporting.tuned_steps import tuned_steps_lines
from sweeps.cli import branched_options, scaling_options, steps_options, tuning_options
from sweeps.cli.options import parse
from sweeps.execution import launch
from sweeps.plan.grid import expand
from sweeps.studies import study
from sweeps.studies.branched_batch import run_branched_batch
from sweeps.studies.study import grid_of, run_study, source_of, without_answer
from sweeps.tuning.campaign import Campaign, with_test_set
from sweeps.tuning.optuna_study import Outcome, open_storage
from sweeps.tuning.run import _exit_status, begin, plan_of, write_tuning
from sweeps.tuning.scaling_rules import run_scaling_rules
from sweeps.tuning.steps_to_result import GoalCampaign, plan_of_goals
from trainables.config import TrialConfig
from trainables.records.tables import Record, compact, read_tables, write_record
from trainables.runtime.errors import UserError


@contextmanager
def unchecked(*_: Any) -> Iterator[Callable[[], list[str]]]:
    yield list


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, statuses: list[str]) -> int:
    """A study of two batch sizes whose trials end with these statuses, and whose analysis has no answer."""
    arguments = "--batch-sizes 16 300 --learning-rates 0.01 --warmup-epochs 0 --switch-epochs none --seeds 0 --plain"
    options = parse([*arguments.split(), "--results", str(tmp_path)])
    source = source_of(options, "digits")
    configs = expand(grid_of(options, source), source)

    def run_trials(missing: list[TrialConfig], _: Any, folder: Path, *__: Any) -> Any:
        for config, status in zip(missing, statuses, strict=True):
            error = f"Traceback\nValueError: number {config.batch_size}" if status == "failed" else None
            row = {"status": status, "trial_id": config.trial_id, **vars(config), "flags": [], "error": error}
            write_record(folder, Record(row, [], []))
        compact(folder)
        return read_tables(folder), False

    def finish(*_: Any) -> None:
        raise UserError("`results` must hold a completed trial")

    monkeypatch.setattr(study, "checking", unchecked)
    monkeypatch.setattr(launch, "run_trials", run_trials)
    return run_study(configs, source, options, finish)


def test_trials_are_brought_to_their_canonical_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever made the configurations: a switch after the last epoch is none, in labels and in counts too."""
    options = parse(["--dry-run", "--results", str(tmp_path)])
    source = source_of(options, "digits")
    (config, *_) = expand(grid_of(options, source), source)
    seen: list[TrialConfig] = []

    def dry_run(_: Any, configs: list[TrialConfig], *__: Any, **___: Any) -> None:
        seen.extend(configs)

    monkeypatch.setattr(study, "checking", unchecked)
    monkeypatch.setattr(study, "_dry_run", dry_run)
    never = dataclasses.replace(config, switch_epoch=1000, switch_batch_size=300)
    assert never != config
    assert run_study([never], source, options, lambda *_: None) == 0
    assert seen == [config]


def test_all_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, tmp_path, ["failed", "failed"]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("Checking 2 trials.\n")  # the first half minute is not silent
    assert said.err.splitlines() == [
        "failed: all 2 trials, the first (batch size 16, seed 0): ValueError: number 16",
        "no answer: `results` must hold a completed trial",
    ]


@pytest.mark.parametrize(
    ("parse_options", "run_sweep", "options"),
    [
        (branched_options.parse, run_branched_batch, "--batch-size 8 --window 1epochs --factors 2"),
        (scaling_options.parse, run_scaling_rules, "--factors 2"),
    ],
    ids=["branched_batch", "scaling_rules"],
)
def test_a_margin_without_a_default_is_asked_for_before_the_first_trial(
    tmp_path: Path, parse_options: Any, run_sweep: Any, options: str
) -> None:
    asked = parse_options(f"{options} --dataset noisy_quadratic --model noisy_quadratic --results {tmp_path}".split())
    with pytest.raises(UserError, match=r"`(--)?margin` must be given"):
        run_sweep(asked)
    assert not [*tmp_path.iterdir()]


def test_one_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, tmp_path, ["failed", "completed"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "failed: batch size 16, seed 0: ValueError: number 16",
        "no answer: `results` must hold a completed trial",
    ]


def test_none_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must hold a completed trial"):
        run(monkeypatch, tmp_path, ["diverged", "diverged"])


@pytest.mark.parametrize(
    ("parse_options", "plan_of", "kind", "answer", "options"),
    [
        (steps_options.parse, plan_of_goals, GoalCampaign, tuned_steps_lines, "--goal 1"),
        (tuning_options.parse, plan_of, Campaign, tuned_gap_lines, ""),
    ],
    ids=["steps_to_result", "tuned_gap"],
)
def test_a_search_that_failed_says_why(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    parse_options: Any,
    plan_of: Any,
    kind: type[Campaign],
    answer: Callable[[Path], Iterable[str]],
    options: str,
) -> None:
    """All tuning trials of both batch sizes fail, as `run_search` would end them."""
    asked = parse_options(f"{options} --batch-sizes 21 23 --trials 2 --seeds 5 --epochs 20 --plain".split())
    plan = plan_of(asked, with_test_set(source_of(asked, "digits"), asked.test_size))
    campaign = begin(plan, open_storage("sqlite://"), "failed", {}, resume=False, kind=kind)
    (tmp_path / "trials").mkdir()
    while (config := campaign.next()) is not None:
        row = {
            "status": "failed",
            "trial_id": config.trial_id,
            **vars(config),
            "flags": ["failed"],
            "error": "T\nE: why",
        }
        write_record(tmp_path, Record(row, [], []))
        campaign.end(Outcome(config.trial_id, "failed"))
    compact(tmp_path)
    write_tuning(tmp_path, campaign)
    try:
        list(answer(tmp_path))
        status = _exit_status(tmp_path, campaign)
    except UserError as error:
        status = without_answer(error, _exit_status(tmp_path, campaign))
    assert status == 1
    said = capsys.readouterr().err
    assert "failed: batch 23: no tuning trial had a finite result\n" in said.replace(", none", "")
    assert "failed: all 4 trials, the first (batch size 21, seed 1000): E: why\n" in said
