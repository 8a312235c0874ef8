"""The metric after the same number of examples: by hand, where it has no value, with and without a margin."""

from pathlib import Path

import pytest
from made_up import made_of
from narrow import not_none

from analysis import steps_to_result
from analysis.questions.equal_examples import equal_examples, equal_examples_line
from trainables.runtime.errors import UserError


def test_equal_examples_against_the_margin(tmp_path: Path) -> None:
    """Loss after 800 examples by hand: batch 4 at step 200, batch 8 at step 100, batch 40 at step 20."""
    rows = [
        (f"{size} {seed}", size, step, 1.0 + 0.001 * seed + size / 100 - 0.0001 * step * size, seed)
        for size, steps in ((4, 200), (8, 150), (40, 20))
        for seed in range(3)
        for step in (0, steps // 2, steps)
    ]
    runs = made_of(tmp_path, rows, settings=["seed"])
    found = equal_examples(runs, 0.1)
    assert found.examples == 800
    assert [size for size, _, _ in found.rows] == [4, 8, 40]
    values = [mean.value for _, mean, _ in found.rows]
    assert values == pytest.approx([0.961, 1.001, 1.321])
    assert not_none(found.rows[1][2]).value == pytest.approx(0.04)
    assert not_none(found.boundary).best_guess == 8
    assert "Within 0.1 of the smallest batch: up to batch 8 by the means" in equal_examples_line(runs, found)
    with pytest.raises(UserError, match="`margin` must be a number above 0"):
        equal_examples(runs, 0)


def test_a_run_first_evaluated_later_has_no_value_at_equal_examples(tmp_path: Path) -> None:
    """Batch 4 has seen 240 examples at its end; batch 32 was evaluated after 1920 for the first time."""
    ends = [("a", 4, 60, 0.5), ("b", 32, 60, 0.1)]
    runs = made_of(tmp_path, ends)
    assert [(size, mean.value) for size, mean, _ in equal_examples(runs, 0.1).rows] == [(4, 0.5)]
    seen = equal_examples(made_of(tmp_path, [*ends, ("b", 32, 5, 0.9), ("b", 32, 10, 0.7)]), 0.1)
    assert [size for size, *_ in seen.rows] == [4, 32]
    assert seen.rows[1][1].value == pytest.approx(0.9 - 0.2 * (240 - 160) / (320 - 160))
    replicates = [("a", 4, 60, 0.5, 0), ("b", 4, 120, 0.5, 1)]
    with pytest.raises(UserError, match="evaluations before 240 examples"):
        equal_examples(made_of(tmp_path, replicates, settings=["seed"]), 0.1)


def test_batch_sizes_without_a_value_at_equal_examples_are_named(tmp_path: Path) -> None:
    rows = [("a", 8, 1, 1.0), ("a", 8, 10, 0.5), ("b", 64, 5, 0.9), ("b", 64, 10, 0.7)]
    runs = made_of(tmp_path, rows)
    assert equal_examples_line(runs, equal_examples(runs, 0.1)) == (
        "After 80 examples loss is 0.5 at batch 8. Left out: batch 64, at which no setting has a value by then in "
        "every replicate. One batch size alone has a value, so none is compared with it."
    )


def test_no_comparison_at_equal_examples_leaves_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second replicate is first evaluated where the first one has ended."""
    (tmp_path / "runs.csv").write_text("run,batch_size,step,val_loss,seed\na,8,1,0.5,0\nb,8,5,0.5,1\n")
    options = ["--metric", "val_loss", "--goal", "1", "--margin", "0.1"]
    assert steps_to_result.main([str(tmp_path / "runs.csv"), *options]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "Steps to val_loss <= 1, of 2 runs:" in said
    assert said[-1].startswith("No comparison at equal examples: `source` must hold evaluations before 8 examples")


def test_a_batch_size_that_diverged_after_step_0_is_left_out(tmp_path: Path) -> None:
    """All batch sizes used to be compared after 0 examples."""
    rows = [(str(size), size, step, 1.0 - step * size / 1000) for size in (8, 16) for step in (0, 10)]
    runs = made_of(tmp_path, [*rows, ("lost", 64, 0, 1.0), ("lost", 64, 10, float("inf"))])
    found = equal_examples(runs, None)
    assert (found.examples, found.left_out) == (80, (64,))
    assert [mean.value for _, mean, _ in found.rows] == pytest.approx([0.92, 0.92])


@pytest.mark.parametrize("margin", [None, "0.3"])
def test_the_values_are_shown_with_and_without_a_margin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], margin: str | None
) -> None:
    """They used to be shown with a margin only."""
    rows = ["a,8,10,0.9,0", "a,8,20,0.5,0", "b,16,10,0.7,0", "a2,8,10,0.9,1", "a2,8,20,0.6,1", "b2,16,10,0.9,1"]
    (tmp_path / "runs.csv").write_text("\n".join(["run,batch_size,step,val_loss,seed", *rows]))
    given = [] if margin is None else ["--margin", margin]
    assert steps_to_result.main([str(tmp_path / "runs.csv"), "--metric", "val_loss", "--goal", "0.95", *given]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("After 160 examples val_loss is 0.55 (")
    verdict = "Add --margin X to test which batch sizes lose less than X to the smallest."
    assert said.endswith(verdict) == (margin is None)
    assert ("Within 0.3 of the smallest batch: up to batch 16 by the means;" in said) == (margin is not None)
