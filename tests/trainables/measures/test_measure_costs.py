"""What measures cost, and the examples and the arithmetic that follow from it: counted, so alike on every machine."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sweeps.cli.options import parse
from sweeps.plan.estimate import estimate
from sweeps.plan.grid import Grid, expand
from sweeps.studies.study import grid_of
from trainables.config import DEFAULT_MEASURES, TrialConfig
from trainables.data import Source
from trainables.measures import by_name
from trainables.measures.by_name import MEASURES, in_dtype
from trainables.measures.costs import GRADIENTS, LEAST_EXAMPLES, cost_line, default_examples, gradients
from trainables.sharpness import ModelLoss
from trainables.trial import run_trial

Make = Callable[..., TrialConfig]


def test_every_measure_has_its_cost() -> None:
    assert list(GRADIENTS) == list(MEASURES)
    assert gradients("") == 0
    assert gradients(",".join(DEFAULT_MEASURES)) == 160


def test_the_costs_of_the_default_measures_are_typical(make_config: Make, digits: Source) -> None:
    """Box sharpness spends gradients, an eigenvalue Hessian-vector products, of two gradients each."""
    record = run_trial(make_config(epochs=30, batch_size=100, learning_rate=0.03, target_loss=1e-3), digits)
    for name, unit in (("box_sharpness", 1), ("hessian_max_eig", 2)):
        spent = unit * sum(row["evaluations"] for row in record.measures if row["measure"] == name)
        assert GRADIENTS[name] / 4 < spent < 4 * GRADIENTS[name]


@pytest.mark.parametrize(
    ("train_size", "epochs", "target_loss", "expected"),
    [
        (300, 400, 1e-3, 300),  # the default sweep: all
        (300, 1, None, 300),
        (60_000, 20, None, 1875),  # 0.25 * 20 * 60000 / 160
        (60_000, 400, 1e-3, 4687),  # a cap: 0.25 * 50 * 60000 / 160
        (60_000, 10, 1e-3, 937),
        (50_000, 1, None, LEAST_EXAMPLES),
        (1000, 10_000, None, 1000),
    ],
)
def test_measures_stay_in_proportion(train_size: int, epochs: int, target_loss: float | None, expected: int) -> None:
    found = default_examples(train_size, epochs, target_loss)
    assert found == expected
    if LEAST_EXAMPLES < found < train_size:
        assert 160 * found <= 0.25 * min(epochs, 50 if target_loss else epochs) * train_size < 160 * (found + 1)


def grid(digits: Source, **changes: Any) -> TrialConfig:
    fields: dict[str, Any] = {"batch_sizes": [50], "learning_rates": [0.01], "model_options": {}, "epochs": 2}
    return expand(Grid(**fields | changes), digits)[0]


def test_what_a_grid_measures(digits: Source) -> None:
    assert grid(digits).measures == "box_sharpness,hessian_max_eig"
    assert grid(digits, measures=[]).measures == ""
    assert grid(digits, measures=["hessian_trace"]).measures == "hessian_trace"
    assert grid(digits, measures=["hessian_trace", "box_sharpness"]).measures == "box_sharpness,hessian_trace"
    sizes = {"train_size": 1000}
    assert [grid(digits, **sizes, measure_examples=asked).measure_examples for asked in (None, 7, 5000, "all")] == [
        LEAST_EXAMPLES, 7, 1000, 1000,
    ]  # fmt: skip
    assert grid(digits, **sizes, measures=["hessian_trace"]).measure_examples == LEAST_EXAMPLES


def test_the_options(digits: Source, capsys: pytest.CaptureFixture[str]) -> None:
    def config(*words: str) -> TrialConfig:
        return expand(grid_of(parse(list(words)), digits), digits)[0]

    assert (config().measures, config().measure_examples, config().measure_dtype) == (
        "box_sharpness,hessian_max_eig", 300, "auto",
    )  # fmt: skip
    assert config("--measures", "none").measures == ""
    assert config("--measures", "hessian_trace").measures == "hessian_trace"
    many = ("--train-size", "1000")
    assert [config(*many, *words).measure_examples for words in ((), ("--measure-examples", "all"))] == [
        LEAST_EXAMPLES, 1000,
    ]  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        parse(["--measures", "none", "hessian_trace"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "batch_grid.py: error: argument --measures: none must be alone, got none hessian_trace\n"
    )


class Cancels(nn.Module):
    """Loses every digit below `offset` times the rounding of its arithmetic."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.layer, self.offset = nn.Linear(64, 10), offset

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x)
        return (logits + self.offset) - self.offset


@pytest.mark.parametrize(
    ("dtype", "large", "offset", "expected"),
    [
        ("auto", 651, 0.0, torch.float64),  # 650 parameters
        ("auto", 650, 0.0, torch.float32),
        ("auto", 650, 1e7, torch.float64),  # float32 does not agree
        ("float64", 1, 0.0, torch.float64),
        ("float32", 651, 1e7, torch.float32),
    ],
)
def test_the_arithmetic_of_measures(
    digits: Source, monkeypatch: pytest.MonkeyPatch, dtype: str, large: int, offset: float, expected: torch.dtype
) -> None:
    monkeypatch.setattr(by_name, "LARGE_NETWORK", large)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Cancels(offset)
    inputs, labels = torch.from_numpy(digits.inputs[:100].reshape(100, -1)), torch.from_numpy(digits.labels[:100])
    loss = in_dtype(dtype, lambda name: ModelLoss(model, inputs, labels, dtype=getattr(torch, name)))
    assert loss.params.dtype == expected


def test_the_arithmetic_is_in_the_rows(make_config: Make, digits: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_name, "LARGE_NETWORK", 1000)
    for config, expected in (
        (make_config(epochs=2, measure_dtype="auto", measure_examples=50), "float32"),
        (make_config(epochs=2, measure_dtype="auto", measure_examples=50, model_options='{"widths": [2]}'), "float64"),
    ):
        assert {row["dtype"] for row in run_trial(config, digits).measures} == {expected}


def test_what_is_said_of_the_cost(make_config: Make, digits: Source) -> None:
    line = "Measures of each trial: box_sharpness, hessian_max_eig on 100 of 300 training examples, about the work of "
    costly = ", so more than training (see --measure-examples)"
    assert cost_line(make_config(measure_examples=100, epochs=54)) == f"{line}53.3 epochs, beside 54 of training"
    assert cost_line(make_config(measure_examples=100)) == f"{line}53.3 epochs, beside 4 of training{costly}"
    assert cost_line(make_config(target_loss=0.1)).endswith(f"of 160 epochs, beside at most 4 of training{costly}")
    along = cost_line(make_config(measure_examples=100, measure_every=2))
    assert along == f"{line}53.3 epochs each time, beside 4 of training"
    assert cost_line(make_config(measures="")) == ""
    assert "Measures of each trial: 39 of them on 300 of 300" in cost_line(make_config(measures=",".join(MEASURES)))


def test_the_estimate_tells_measures_from_training(make_config: Make, digits: Source) -> None:
    configs = [make_config(measures=names, batch_size=size) for size, names in ((20, ""), (30, "hessian_trace"))]
    found = estimate(configs, digits, threads=1)
    none, some = (found.measure_seconds[config.trial_id] for config in configs)
    assert none == 0
    assert 0 < some < found.trial_seconds[configs[1].trial_id]


def test_the_estimate_counts_the_raw_weights_beside_an_average(make_config: Make, digits: Source) -> None:
    plain, averaged = (make_config(measures="hessian_trace", average=average) for average in (None, "ema"))
    found = estimate([plain, averaged], digits, threads=1).measure_seconds
    assert found[averaged.trial_id] == 2 * found[plain.trial_id] > 0
