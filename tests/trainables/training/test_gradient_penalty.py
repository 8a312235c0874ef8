"""The penalty on the gradient norms of small groups: against its closed form, and in the training of a trial."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from narrow import not_none
from torch import Tensor, nn

from trainables import check
from trainables.config import TrialConfig
from trainables.data import Source
from trainables.models import build_model
from trainables.remedies import read_remedy
from trainables.runtime.errors import UserError
from trainables.training.batches import epoch_batches
from trainables.training.gradient_penalty import penalized_gradient
from trainables.trial import Trial

Make = Callable[..., TrialConfig]
PENALTY = {"gradient_penalty": 0.05, "penalty_batch_size": 16}


@pytest.mark.parametrize("group_size", [1, 3, 4, 9])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_closed_form_of_least_squares(group_size: int, is_weighted: bool) -> None:
    """g_k + 2 lambda H_k g_k, with g_k = X_k'(X_k w - y_k) / n_k and H_k = X_k'X_k / n_k; weights count as shares."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(9, 3, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    weights = torch.arange(1.0, 10.0, dtype=torch.float64) if is_weighted else None
    model = nn.Linear(3, 1, bias=False).double()
    shares = torch.ones(9, dtype=torch.float64) if weights is None else weights

    def loss(rows: Tensor) -> Tensor:
        errors: Tensor = (model(inputs[rows]).squeeze(1) - labels[rows]) ** 2 / 2
        return (shares[rows] * errors).sum() / shares[rows].sum()

    found = penalized_gradient(model, loss, 9, weights, penalty=0.3, group_size=group_size)
    expected, mean = torch.zeros(3, dtype=torch.float64), 0.0
    for rows in torch.arange(9).split(group_size):
        part, weight = inputs[rows], shares[rows] / shares[rows].sum()
        residuals = part @ model.weight.detach()[0] - labels[rows]
        gradient, hessian = part.T @ (weight * residuals), part.T @ (weight[:, None] * part)
        share = float(shares[rows].sum() / shares.sum())
        expected += share * (gradient + 0.6 * hessian @ gradient)
        mean += share * float((weight * residuals**2).sum() / 2)
    assert model.weight.grad is not None
    torch.testing.assert_close(model.weight.grad[0], expected, rtol=1e-12, atol=1e-14)
    assert found.item() == pytest.approx(mean, rel=1e-6)


def test_against_differences_through_attention_and_dropout() -> None:
    """The gradient of L in a direction, where fused attention has no second derivative and masks must be the same."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": 8, "depth": 1, "heads": 2, "dropout": 0.2}
    model = build_model("gpt", (6,), 5, input_dtype=torch.int64, **options).double().train()
    tokens, labels = torch.randint(5, (2, 4, 6))
    parameters = list(model.parameters())
    directions = [torch.randn_like(parameter) for parameter in parameters]
    length = float(torch.cat([direction.flatten() for direction in directions]).norm())
    directions = [direction / length for direction in directions]

    def loss(rows: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(tokens[rows]).flatten(0, 1), labels[rows].flatten())

    def gradient(step: float) -> tuple[float, float]:
        """L at a step along the direction, and its derivative there."""
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=step)
        model.zero_grad()
        torch.manual_seed(1)
        penalized_gradient(model, loss, 4, None, penalty=0.2, group_size=2)
        along = sum(
            float((p.grad * d).sum()) for p, d in zip(parameters, directions, strict=True) if p.grad is not None
        )
        torch.manual_seed(1)
        value = 0.0
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            for rows in torch.arange(4).split(2):
                mean = loss(rows)
                norms = torch.autograd.grad(mean, parameters, allow_unused=True)
                squared = sum(float((g * g).sum()) for g in norms if g is not None)
                value += 0.5 * (mean.item() + 0.2 * squared)
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.sub_(direction, alpha=step)
        return value, along

    step = 1e-5
    ahead, behind = gradient(step)[0], gradient(-step)[0]
    assert gradient(0.0)[1] == pytest.approx((ahead - behind) / (2 * step), rel=1e-6)


def test_a_trial_goes_on_from_where_it_was(make_config: Make, digits: Source, tmp_path: Any) -> None:
    config = make_config(**PENALTY, epochs=3, measures="")
    whole, cut = Trial(config, digits), Trial(config, digits)
    whole.train()
    cut.training.train_epoch()
    cut.save(tmp_path / "checkpoint.pt")
    resumed = Trial(config, digits)
    assert resumed.resume(tmp_path / "checkpoint.pt")
    resumed.train()
    assert whole.training.epochs[-1]["train_loss"] == resumed.training.epochs[-1]["train_loss"]


def test_full_batch_with_explicit_regularization(make_config: Make, digits: Source) -> None:
    """Named in --remedies, with clipping as in Geiping et al.: three steps, against L and its gradient written out."""
    remedy = read_remedy("gradient_penalty=0.5,penalty_batch_size=64,clip_norm=0.2")
    config = make_config(
        **remedy, optimizer="sgd", momentum=0.0, learning_rate=0.5, batch_size=300, epochs=3, measures=""
    )
    trial = Trial(config, digits)
    model, data = copy.deepcopy(trial.training.model), trial.training.data
    trial.train()
    parameters = list(model.parameters())
    for epoch in range(3):
        (order,) = epoch_batches(300, 300, seed=0, epoch=epoch)
        objective = torch.zeros(())
        for rows in order.split(64):
            inputs, labels = data.batch(rows)
            mean = nn.functional.cross_entropy(model(inputs), labels)
            gradients = torch.autograd.grad(mean, parameters, create_graph=True)
            objective = objective + len(rows) / 300 * (mean + 0.5 * sum((g * g).sum() for g in gradients))
        model.zero_grad()
        objective.backward()
        assert nn.utils.clip_grad_norm_(parameters, 0.2) > 0.2
        with torch.no_grad():
            for parameter in parameters:
                parameter.sub_(0.5 * not_none(parameter.grad))
    for one, two in zip(parameters, trial.training.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_groups_that_hold_the_whole_batch_are_one(make_config: Make) -> None:
    """Of 300 examples a batch of 299 leaves one, which joins it."""
    assert (
        make_config(**PENALTY | {"penalty_batch_size": 33}).trial_id
        == make_config(**PENALTY | {"penalty_batch_size": 32}).trial_id
    )
    assert (
        make_config(**PENALTY | {"penalty_batch_size": 31}).trial_id
        != make_config(**PENALTY | {"penalty_batch_size": 32}).trial_id
    )
    joined = [
        make_config(**PENALTY | {"penalty_batch_size": size}, batch_size=299).trial_id for size in (299, 300, 999)
    ]
    assert joined[0] != joined[1] == joined[2]


def test_gradients_are_smaller_at_the_end(make_config: Make, digits: Source) -> None:
    """Of the penalty's own groups, at the same number of epochs."""
    norms = []
    for change in ({}, PENALTY | {"gradient_penalty": 1.0}):
        training = Trial(make_config(**change, epochs=10, measures=""), digits).training
        while not training.finished:
            training.train_epoch()
        inputs, labels = training.data.batch(torch.arange(300))
        squared = 0.0
        for rows in torch.arange(300).split(16):
            loss = nn.functional.cross_entropy(training.model(inputs[rows]), labels[rows])
            gradients = torch.autograd.grad(loss, list(training.model.parameters()))
            squared += len(rows) / 300 * float(sum((g * g).sum() for g in gradients))
        norms.append(squared)
    assert norms[1] < norms[0] / 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gradient_penalty": 0.1}, "`gradient_penalty` must be given with penalty_batch_size"),
        ({"penalty_batch_size": 16}, "`gradient_penalty` must be given with penalty_batch_size"),
        (PENALTY | {"gradient_penalty": 0.0}, "`gradient_penalty` must be a number above 0, got 0.0"),
        (PENALTY | {"sam_radius": 0.1}, "in one way, got sam_radius with gradient_penalty; choose one"),
        (PENALTY | {"noise_scale": "all"}, "`noise_scale` cannot be used with `gradient_penalty`"),
        (PENALTY | {"optimizer": "lbfgs", "batch_size": 300}, "`gradient_penalty` cannot be used with lbfgs"),
    ],
)
def test_bad_combinations(make_config: Make, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_config(**change)


def test_batches_are_whole(make_config: Make, digits: Source) -> None:
    with pytest.raises(UserError, match="`gradient_penalty` must train on one worker without micro-batches"):
        Trial(make_config(**PENALTY), digits, micro_batch_size=8)
    assert Trial(make_config(**PENALTY), digits).smaller_micro_batch() is None  # after running out of memory
    assert Trial(make_config(), digits).smaller_micro_batch() is not None


def test_it_is_tried_before_the_first_trial(make_config: Make, digits: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is in the sweep: second derivatives may be missing where first ones are not."""
    tried: list[float | None] = []
    monkeypatch.setattr(check, "check_trial", lambda config, source: tried.append(config.gradient_penalty))
    check.check_trials([make_config(**PENALTY), make_config()], digits, None, None, 1)
    assert sorted(tried, key=str) == [PENALTY["gradient_penalty"], None]
