"""Training in bfloat16: what is rounded, and what is not."""

from collections.abc import Callable

import pytest
import torch
from narrow import as_a
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.data import Dataset, Source
from trainables.runtime.errors import UserError
from trainables.training.loop import Training
from trainables.trial import run_trial

Make = Callable[..., TrialConfig]


class Logits(nn.Module):
    """A linear network that notes what it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
        self.seen: list[torch.dtype] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits = nn.functional.linear(inputs, self.weight)
        self.seen.append(logits.dtype)
        return logits


def _trained(make_config: Make, precision: str, **changes: object) -> tuple[Logits, Training]:
    inputs, labels = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    config = make_config(
        train_size=8, test_size=8, batch_size=8, measure_examples=8, precision=precision, optimizer="sgd",
        momentum=0.0, learning_rate=0.5, **changes,
    )  # fmt: skip
    model = Logits()
    training = Training(config, model, Dataset(inputs, labels, inputs, labels, 3))
    training.train_epoch()
    return model, training


def test_one_step_is_that_of_rounded_products(make_config: Make) -> None:
    """Closed form: the softmax of logits that are bfloat16 products; its gradient back through rounded inputs."""
    model, training = _trained(make_config, "bfloat16")
    start = torch.linspace(-1, 1, 12).view(3, 4)
    inputs, labels = as_a(Tensor, training.data.train_inputs), as_a(Tensor, training.data.train_labels)
    logits = (inputs.bfloat16() @ start.bfloat16().T).float()
    residual = (logits.softmax(1) - nn.functional.one_hot(labels, 3)) / 8
    gradient = (residual.bfloat16().T @ inputs.bfloat16()).float()
    assert torch.allclose(model.weight, start - 0.5 * gradient, rtol=0, atol=1e-6)
    exact, _ = _trained(make_config, "float32")
    assert 0 < (model.weight - exact.weight).abs().max() < 0.01


def test_weights_losses_and_evaluation_stay_in_float32(make_config: Make) -> None:
    model, training = _trained(make_config, "bfloat16")
    assert model.weight.dtype == model.weight.grad.dtype == torch.float32  # type: ignore[union-attr]
    assert model.seen == [torch.bfloat16, torch.float32, torch.float32]  # the step, and the two evaluations
    loss = nn.functional.cross_entropy(
        as_a(Tensor, training.data.train_inputs) @ model.weight.T, as_a(Tensor, training.data.train_labels)
    )
    assert training.epochs[0]["train_loss"] == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("change", [{"sam_radius": 0.05}, {"noise_batch_size": 4}, {"input_adversary": 0.1}, {}])
def test_it_goes_with_remedies_and_repeats(make_config: Make, digits: Source, change: dict[str, object]) -> None:
    config = make_config(precision="bfloat16", measures="", **change)
    one, two = (run_trial(config, digits).trial for _ in range(2))
    assert one["train_loss"] == two["train_loss"]
    exact = run_trial(make_config(measures="", **change), digits).trial
    assert one["train_loss"] != exact["train_loss"]
    assert one["test_accuracy"] == pytest.approx(exact["test_accuracy"], abs=0.03)
    assert one["trial_id"] != exact["trial_id"]


def test_a_line_search_needs_float32(make_config: Make) -> None:
    with pytest.raises(UserError, match="`precision` must be float32 for lbfgs, got"):
        make_config(optimizer="lbfgs", batch_size=300, precision="bfloat16")
    with pytest.raises(UserError, match="`precision` must be one of float32, bfloat16"):
        make_config(precision="float16")
