"""Options that a script always refuses: no help shows them, and whoever gives one is told why."""

import re
from collections.abc import Callable, Mapping

import pytest

from sweeps import batch_grid, branched_batch, optimizer_ladder, scaling_rules, steps_to_result, throughput, tuned_gap
from sweeps.cli import (
    branched_options,
    ladder_options,
    scaling_options,
    steps_options,
    throughput_options,
    tuning_options,
)

Main = Callable[[list[str]], int]
REFUSED: list[tuple[Main, Mapping[str, str]]] = [
    (branched_batch.main, branched_options.REFUSED),
    (optimizer_ladder.main, ladder_options.REFUSED),
    (scaling_rules.main, scaling_options.REFUSED),
    (steps_to_result.main, steps_options.REFUSED),
    (throughput.main, throughput_options.REFUSED),
    (tuned_gap.main, tuning_options.REFUSED),
]
VALUES = {
    "schedule": "cosine", "trial": "a:B", "parameter_groups": "*.bias:lr=2x", "budget": "9steps",
    "evaluate_every": "9steps", "epochs": "3", "workers_per_trial": "2", "momentum_range": "0 0.5",
    "beta1_range": "0 0.5", "beta2_range": "0 0.5",
}  # fmt: skip


@pytest.mark.parametrize(("main", "refused"), REFUSED, ids=[main.__module__ for main, _ in REFUSED])
def test_no_help_shows_them(main: Main, refused: Mapping[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help-all"])
    assert ended.value.code == 0
    shown = set(re.findall(r"^  (?:-h, )?--([a-z0-9-]+)", capsys.readouterr().out, re.MULTILINE))
    assert {"name" if main is not throughput.main else "sweep", "dataset", "model"} <= shown
    assert shown.isdisjoint(name.replace("_", "-") for name in refused)


@pytest.mark.parametrize(
    ("main", "name", "reason"),
    [(main, *one) for main, refused in REFUSED for one in refused.items()],
    ids=[f"{main.__module__} {name}" for main, refused in REFUSED for name in refused],
)
def test_each_is_refused_with_its_reason(main: Main, name: str, reason: str, refusal: Callable[..., str]) -> None:
    option = f"--{name.replace('_', '-')}"
    said = refusal(main, [option, *VALUES.get(name, "0.5").split()])
    assert said.endswith(f": error: argument {option}: cannot be used: {reason}\n")


@pytest.mark.parametrize("main", [batch_grid.main, *(main for main, _ in REFUSED)], ids=lambda main: main.__module__)
def test_only_the_grid_says_that_it_takes_several_optimizers(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help-all"])
    said = " ".join(capsys.readouterr().out.split())
    assert "such as adamw betas=0.9,0.95" in said or main is optimizer_ladder.main
    assert ("each further name adds an optimizer to the grid" in said) == (main is batch_grid.main)


def test_no_mistyped_option_is_taken_for_one_of_them(refusal: Callable[..., str]) -> None:
    assert "did you mean --target-loss" not in refusal(branched_batch.main, ["--target-los", "1"])
