"""Wrong arguments of the Python interface are one line, and every spelling of a right one means the same."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pandas as pd
import pytest
import torch

import large_batch_sweeps as lbs
from large_batch_sweeps.run import words

FRAME = pd.DataFrame(
    {"run": str(size), "batch_size": size, "step": step, "val_loss": 1 / (1 + step * size / 8)}
    for size in (8, 16, 32)
    for step in range(40)
)
any_lbs: Any = lbs  # whose functions take wrong arguments here


def steps(frame: Any, **options: Any) -> pd.DataFrame:
    found: pd.DataFrame = any_lbs.steps_to_result(frame, **{"metric": "val_loss", "goal": 0.1, **options})
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> lbs.SweepResults:
    records = made_up.grid(switch_epochs=(None,))
    return lbs.load_sweep(made_up.write(tmp_path_factory.mktemp("results") / "mine", records))


Call = Callable[[Any], Any]
WRONG: list[tuple[Call, str]] = [
    (lambda r: any_lbs.load_sweep(None), "`results` must be a folder, a path or a URI, got NoneType"),
    (lambda r: any_lbs.load_sweep(r.folder, margin="0.5"), "`margin` must be a finite number or None, got '0.5'"),
    (lambda r: any_lbs.load_sweep(r.folder, margin=0), "`margin` must be above 0, got 0"),
    (lambda r: any_lbs.load_sweep(r.folder, metric="mse"), "`--metric` must be a primary metric of these trials"),
    (lambda r: any_lbs.optimizer_ladder(r.folder), "has written, got .*, without tuning.json or tuning.parquet"),
    (lambda r: any_lbs.tuned_gap(r), "`results` must be a folder, a path or a URI, got SweepResults"),
    *((lambda r, f=f: f("mine"), "`results` must be what lbs.load_sweep.folder. returns, got str") for f in (
        any_lbs.free_batch, any_lbs.data_size, any_lbs.threshold_batch, any_lbs.scaling_rules,
        any_lbs.figures.free_batch,        any_lbs.figures.data_size, any_lbs.figures.landscape,
        any_lbs.remedies, any_lbs.time_to_result, any_lbs.figures.keskar_figure4, any_lbs.figures.evolution,
        any_lbs.figures.paper_remedies, any_lbs.figures.optimization_issue, any_lbs.figures.resilience,
        *(getattr(any_lbs.paper, name) for name in any_lbs.paper.__all__),
    )),
    (lambda r: any_lbs.data_size(None), "returns, got NoneType"),
    (lambda r: any_lbs.free_batch(r, margin="0.5"), "`margin` must be a finite number or None, got '0.5'"),
    (lambda r: any_lbs.free_batch(r, margin=float("inf")), "`margin` must be a finite number or None, got inf"),
    (lambda r: any_lbs.free_batch(r, comparison="best"), "`comparison` must be one of matched, tuned, got 'best'"),
    (lambda r: any_lbs.critical_batch(r, target_loss=float("nan")), "`target_loss` must be a finite number"),
    (lambda r: any_lbs.time_to_result(r, goal="low"), "`goal` must be a finite number"),
    (lambda r: any_lbs.data_size(r, loss=[1]), "`loss` must be a finite number"),
    (lambda r: any_lbs.branched_batch(r, margin=True), "`margin` must be a finite number or None, got True"),
    (lambda r: any_lbs.figures.steps_to_result(r, goal="low"), "`goal` must be a finite number"),
    (lambda r: any_lbs.association(r, target="status"), "`target` must be one of large_batch_gap, .* got 'status'"),
    (lambda r: any_lbs.leaderboard(r, target="status"), "`target` must be one of large_batch_gap, .* got 'status'"),
    (lambda r: any_lbs.importance(r, target="model"), "`target` must be a column of numbers, got 'model'"),
    (lambda r: any_lbs.importance(r, target=["a"]), r"`target` must be a column of the trials, got \['a'\]"),
    (lambda r: any_lbs.compare(r, "none", "none", value="model"), "`value` must be a column of numbers, got 'model'"),
    (lambda r: any_lbs.figures.landscape(r, pair=("a",)), "`pair` must be two trial IDs"),
    (lambda r: any_lbs.granulated_kendall(r.trials, "box_sharpness", "epochs", "batch_size"), "`axes` must be a list"),
    (lambda r: any_lbs.granulated_kendall(r.trials, "box", "epochs", ["seed"]), "`measure` must be in the frame"),
    (lambda r: any_lbs.granulated_kendall(r.trials, "model", "epochs", ["seed"]), "`measure` must be a column of num"),
    (lambda r: steps("runs.csv"), "`runs` must be results or a DataFrame, got str"),
    (lambda r: steps(FRAME, goal="0.1"), "`goal` must be a finite number"),
    (lambda r: steps(FRAME, direction="down"), "`direction` must be one of None, higher, lower, got 'down'"),
    (lambda r: steps(FRAME, settings=3), "`settings` must be a list of columns, got 3"),
    (lambda r: steps(pd.concat([FRAME, FRAME[["step"]]], axis=1)), "must have each column once, got 'step' twice"),
    (lambda r: steps(FRAME.assign(val_loss=FRAME["val_loss"] * 1j)), "`val_loss` must be numbers in runs, got complex"),
    (lambda r: steps(FRAME.assign(step=pd.to_datetime(FRAME["step"]))), "`step` must be numbers in runs, got datetime"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "told"), WRONG)
def test_a_wrong_argument_is_one_line(call: Call, told: str, results: lbs.SweepResults) -> None:
    with pytest.raises(lbs.UserError, match=f"^[^\n]*{told}[^\n]*$"):
        call(results)


@pytest.mark.parametrize("frame", [
    FRAME.assign(run=FRAME["run"].astype("category")), FRAME.convert_dtypes(), FRAME.astype(object),
    FRAME.convert_dtypes(dtype_backend="pyarrow"), FRAME.assign(betas=[[0.9, 0.99]] * len(FRAME)),
    FRAME.set_index(pd.Index([0] * len(FRAME))), FRAME.assign(run=[1 if run == "8" else run for run in FRAME["run"]]),
])  # fmt: skip
def test_frames_of_other_types_mean_the_same(frame: pd.DataFrame) -> None:
    np.testing.assert_allclose(steps(frame)["steps"], steps(FRAME)["steps"], rtol=1e-12)


def test_columns_may_come_in_any_iterable(results: lbs.SweepResults) -> None:
    frame = pd.concat([FRAME, FRAME.assign(run="other " + FRAME["run"], val_loss=FRAME["val_loss"] * 2)])
    frame["color"] = frame["run"].str.startswith("other").map({True: "red", False: "blue"})
    listed = steps(frame, settings=["color"])
    for settings in (("color",), "color", iter(["color"])):
        pd.testing.assert_frame_equal(steps(frame, settings=settings), listed)
    assert listed["steps_replicates"].eq(1).all()  # the better color alone, and not both as replicates
    axes = ["batch_size", "learning_rate"]
    found = [
        any_lbs.granulated_kendall(results.trials, "box_sharpness", "test_loss", one) for one in (axes, iter(axes))
    ]
    assert found[0] == found[1]
    assert len(found[0].coefficients) == 2


def test_numbers_of_numpy_and_torch_are_options() -> None:
    numbers = np.array([0.1, 0.01])
    assert words({"learning_rates": numbers}) == ["--learning-rates", "0.1", "0.01"]
    assert words({"learning_rates": [np.float32(0.1)], "resume": np.bool_(False)}) == ["--learning-rates", "0.1"]
    assert words({"batch_sizes": torch.tensor([16, 32])}) == ["--batch-sizes", "16", "32"]
    assert words({"model_options": {"widths": np.array([8, 8])}}) == ["--model-options", "widths=[8, 8]"]
    assert words({"model_options": {"widths": [np.int64(8)]}}) == ["--model-options", "widths=[8]"]
    assert words({"remedies": [{"sam_radius": np.float64(0.1)}]}) == ["--remedies", "sam_radius=0.1"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"results": None}, "`results` must be text or a path, got None"),
        ({"name": 3}, "`name` must be text or a path, got 3"),
        ({"model": torch.nn.Linear(2, 2)}, "`model` must be a name, an import path, a function or a class, got Linear"),
        ({"task": functools.partial(print)}, "`task` must be a name, .*, got partial"),
    ],
)
def test_what_no_sweep_starts_with(options: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(lbs.UserError, match=told):
        lbs.run_sweep(**{"results": tmp_path, **options})
    assert list(tmp_path.iterdir()) == []
