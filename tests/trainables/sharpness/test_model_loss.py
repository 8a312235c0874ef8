"""The bound form: equal to plain autograd in every mode, blind to chunks, and it leaves the caller's model alone."""

import copy
import weakref
from collections.abc import Callable
from typing import Any, Self, cast

import pytest
import torch
from narrow import as_a
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from trainables.models import build_model
from trainables.sharpness import (
    GaussNewton,
    ModelLoss,
    Restricted,
    box_sharpness,
    coordinates,
    hessian_eigenvalues,
    logit_normalized_sharpness,
    model_loss,
)


def data(examples: int = 23) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(examples, 1, 8, 8, generator=generator), torch.randint(0, 4, (examples,), generator=generator)


def network() -> nn.Module:
    """Convolution, batch norm with statistics of its own, and dropout, in train mode."""
    torch.manual_seed(0)
    model = build_model("c1", (1, 8, 8), 4, width=8)
    model(data()[0])
    return model


def test_value_and_gradient_against_autograd() -> None:
    model, (inputs, labels) = network(), data()
    reference = copy.deepcopy(model).double().eval()
    expected = cross_entropy(reference(inputs.double()), labels)
    expected.backward()
    gradient = torch.cat([parameter.grad.reshape(-1) for parameter in reference.parameters()])  # type: ignore[union-attr]
    loss = ModelLoss(model, inputs, labels)
    value, own_gradient = loss.value_and_gradient(loss.params)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    assert loss.value(loss.params) == pytest.approx(value, rel=1e-14)
    torch.testing.assert_close(own_gradient, gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("chunk_size", [4, 22, 100])
def test_chunks_do_not_change_the_value(chunk_size: int) -> None:
    model, (inputs, labels) = network(), data()
    whole, chunked = ModelLoss(model, inputs, labels), ModelLoss(model, inputs, labels, chunk_size=chunk_size)
    vector = torch.randn(len(whole.params), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = (loss.value_and_gradient(loss.params) for loss in (whole, chunked))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=1e-10, atol=1e-14)
    products = (loss.hessian(loss.params)(vector) for loss in (whole, chunked))
    torch.testing.assert_close(*products, rtol=1e-8, atol=1e-11)


def test_the_order_of_the_data_does_not_matter() -> None:
    model, (inputs, labels) = network(), data()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(2))
    one, other = ModelLoss(model, inputs, labels), ModelLoss(model, inputs[order], labels[order], chunk_size=5)
    assert one.value(one.params) == pytest.approx(other.value(other.params), rel=1e-13)


def test_hessian_vector_product_against_finite_differences() -> None:
    torch.manual_seed(0)
    loss = ModelLoss(nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 4)), *data())
    vector = torch.randn(len(loss.params), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    step = 1e-5
    ahead, behind = (loss.value_and_gradient(loss.params + sign * step * vector)[1] for sign in (1, -1))
    torch.testing.assert_close(loss.hessian(loss.params)(vector), (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-8)


BATCH: dict[str, Any] = {"batch_norm": "batch", "batch_size": 11}
MODES = [{}, BATCH, {"batch_norm": "recalibrated"}, {"batch_norm": "recalibrated", "chunk_size": 12}]


@pytest.mark.parametrize("options", MODES)
@pytest.mark.parametrize("failing", [False, True])
def test_the_callers_model_is_untouched(failing: bool, options: dict[str, Any]) -> None:
    model, (inputs, labels) = network(), data()
    cross_entropy(model(inputs), labels).backward()
    model[3].eval()  # type: ignore[index]
    before = copy.deepcopy(model.state_dict())
    gradients = [parameter.grad.clone() for parameter in model.parameters()]  # type: ignore[union-attr]
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    random_state = torch.get_rng_state()
    loss = ModelLoss(model, inputs, labels, **options)
    if failing:
        labels += 100  # after the loss has checked them
        with pytest.raises(IndexError):
            box_sharpness(loss, loss.params)
    else:
        box_sharpness(loss, loss.params) if not options else loss.value(loss.params)
        hessian_eigenvalues(loss, loss.params, max_iterations=2)
    assert torch.equal(random_state, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(old, parameter.grad) for old, parameter in zip(gradients, model.parameters(), strict=True))  # type: ignore[arg-type]


def small_network() -> nn.Module:
    """Two batch norms, one of them used twice, smooth units, dropout."""
    torch.manual_seed(0)
    shared = nn.BatchNorm1d(3)
    layers = [nn.Linear(64, 3), shared, nn.Tanh(), nn.Dropout(), nn.Linear(3, 3), shared, nn.Tanh()]
    return nn.Sequential(nn.Flatten(), *layers, nn.BatchNorm1d(3, affine=False), nn.Linear(3, 4))


def batch_loss(model: nn.Module, sizes: list[int]) -> Callable[[Tensor], Tensor]:
    """The naive reference: batch norm in train mode, no dropout, the mean over the examples of all batches."""
    model = copy.deepcopy(model).double().train()
    for module in list(model.modules())[1:]:
        module.train(not isinstance(module, nn.Dropout))
    (inputs, labels), own = data(), dict(model.named_parameters())

    def loss(params: Tensor) -> Tensor:
        pieces = zip(own, params.split([one.numel() for one in own.values()]), strict=True)
        weights = {name: piece.view(own[name].shape) for name, piece in pieces}
        logits = [functional_call(model, weights, (batch.double(),)) for batch in inputs.split(sizes)]
        return cross_entropy(torch.cat(logits), labels)

    return loss


def assert_equal(loss: ModelLoss, reference: Callable[[Tensor], Tensor]) -> None:
    """Value, gradient and Hessian-vector product away from the model's own point, to rounding."""
    step, vector = torch.randn(2, len(loss.params), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    params = (loss.params + 0.1 * step).requires_grad_()
    expected = reference(params)
    (gradient,) = torch.autograd.grad(expected, params, create_graph=True)
    (product,) = torch.autograd.grad(gradient, params, vector)
    value, own_gradient = loss.value_and_gradient(params)
    assert (loss.value(params), value) == pytest.approx((expected.item(),) * 2, rel=1e-12)
    torch.testing.assert_close(own_gradient, gradient.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(loss.hessian(params)(vector), product, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("batch_size", "sizes"), [(100, [23]), (10, [10, 10, 3]), (11, [11, 12]), (2, [2] * 10 + [3])])
def test_batch_statistics_against_train_mode(batch_size: int, sizes: list[int]) -> None:
    loss = ModelLoss(small_network(), *data(), batch_norm="batch", batch_size=batch_size)
    assert (loss.batch_norm, loss.batch_size) == ("batch", batch_size)
    assert_equal(loss, batch_loss(small_network(), sizes))


@pytest.mark.parametrize("chunk_size", [None, 4, 22])
def test_recalibrated_statistics_are_those_of_one_batch(chunk_size: int | None) -> None:
    loss = ModelLoss(small_network(), *data(), batch_norm="recalibrated", chunk_size=chunk_size)
    assert_equal(loss, batch_loss(small_network(), [23]))


@pytest.mark.parametrize("chunk_size", [5, 23])
def test_recalibrated_convolutions(chunk_size: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(72, 4))
    loss = ModelLoss(model, *data(), batch_norm="recalibrated", chunk_size=chunk_size)
    assert_equal(loss, batch_loss(model, [23]))
    single = ModelLoss(model, *data(), batch_norm="recalibrated", chunk_size=chunk_size, dtype=torch.float32)
    assert single.value(single.params) == pytest.approx(loss.value(loss.params), rel=1e-5)


def test_recalibrated_is_running_with_the_statistics_of_all_data() -> None:
    """One layer, so that a pass in train mode sees them; its running variance divides by N - 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3, momentum=1.0), nn.Linear(3, 4))
    recalibrated = ModelLoss(model, *data(), batch_norm="recalibrated", chunk_size=4)
    model.double()(data()[0].double())
    as_a(Tensor, model[2].running_var).mul_(22 / 23)
    running = ModelLoss(model, *data())
    assert recalibrated.value(running.params) == pytest.approx(running.value(running.params), rel=1e-13)


@pytest.mark.parametrize("options", MODES)
def test_without_batch_norm_the_modes_coincide(options: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 3), nn.Tanh(), nn.Dropout(), nn.Linear(3, 4))
    assert_equal(ModelLoss(model, *data(), **options), batch_loss(model, [23]))


def test_tied_weights_and_token_ids() -> None:
    """One table of token vectors, in and out: logits tanh(E[token]) E', with 6 * 3 parameters."""
    model = nn.Sequential(nn.Embedding(6, 3), nn.Tanh(), nn.Linear(3, 6, bias=False))
    model[2].weight = model[0].weight
    tokens, labels = torch.randint(0, 6, (2, 10), generator=torch.Generator().manual_seed(0))

    def reference(params: Tensor) -> Tensor:
        return cross_entropy(torch.tanh(params.view(6, 3)[tokens]) @ params.view(6, 3).T, labels)

    assert_equal(ModelLoss(model, tokens, labels, chunk_size=3), reference)


def test_frozen_parameters_stay_constant() -> None:
    model, frozen = small_network(), 3 * 64 + 3
    model[1].requires_grad_(False)  # type: ignore[index]
    part, whole = ModelLoss(model, *data()), ModelLoss(small_network(), *data())
    assert torch.equal(part.params, whole.params[frozen:])
    gradient, all_gradient = (loss.value_and_gradient(loss.params)[1] for loss in (part, whole))
    torch.testing.assert_close(gradient, all_gradient[frozen:])
    assert part.value(part.params) == pytest.approx(whole.value(whole.params), rel=1e-14)


def test_parts_of_the_data() -> None:
    """`on` and `of_examples` are the loss of those examples, and leave the whole one as it is."""
    model, (inputs, labels) = network(), data()
    whole, chosen = ModelLoss(model, inputs, labels), torch.tensor([3, 1, 20])
    expected = ModelLoss(model, inputs[chosen], labels[chosen]).value(whole.params)
    before = whole.value(whole.params)
    part = whole.on(chosen)
    assert (part.examples, part.evaluations) == (3, 0)
    assert part.value(whole.params) == pytest.approx(expected, rel=1e-13)
    assert float(whole.of_examples(whole.params, chosen).detach()) == pytest.approx(expected, rel=1e-13)
    assert whole.value(whole.params) == before
    batches = ModelLoss(small_network(), inputs, labels, **BATCH)
    for loss in (batches, ModelLoss(small_network(), inputs, labels, batch_norm="recalibrated", chunk_size=5)):
        loss.value(loss.params)  # whose statistics are no part of the next one's point
        small = loss.on(slice(0, 11))
        expected = ModelLoss(small_network(), inputs[:11], labels[:11], **BATCH).value(loss.params)
        assert small.value(loss.params) == pytest.approx(expected, rel=1e-12)
        product = loss.hessian(loss.params)
        moved = product(loss.params)
        loss.of_examples(loss.params, chosen)
        assert torch.equal(product(loss.params), moved)


def test_normalized_logits() -> None:
    """z / std(z): a factor on the logits changes nothing; value and derivatives are those of autograd."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Tanh(), nn.Linear(3, 4))
    loss = ModelLoss(model, *data()).with_normalized_logits(2.0)
    inputs, labels = data()

    def reference(params: Tensor) -> Tensor:
        own = dict(model.double().named_parameters())
        pieces = zip(own, params.split([one.numel() for one in own.values()]), strict=True)
        weights = {name: piece.view(own[name].shape) for name, piece in pieces}
        logits = functional_call(model, weights, (inputs.double(),))
        centered = logits - logits.mean(1, keepdim=True)
        return cross_entropy(2.0 * centered / (centered**2).mean(1, keepdim=True).sqrt(), labels)

    assert_equal(loss, reference)
    scaled = loss.params.clone()
    scaled[-16:] *= 5  # the last layer
    assert loss.value(scaled) == pytest.approx(loss.value(loss.params), rel=1e-12)
    for norm in ("l2", "linf"):
        with torch.no_grad():
            factor = copy.deepcopy(model)
            for parameter in factor[3].parameters():
                parameter.mul_(5)
        plain, times = (
            logit_normalized_sharpness(ModelLoss(m, *data()), radius=0.1, norm=norm).value for m in (model, factor)
        )
        assert times == pytest.approx(plain, rel=1e-6)
    with pytest.raises(ValueError, match="`scale` must be a number above 0, got 0"):
        loss.with_normalized_logits(0.0)


def test_chunks_are_as_large_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what a forward pass keeps: two hidden vectors and the inputs, of 8 bytes a number; never by what is free."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 4))
    monkeypatch.setattr(model_loss, "MEMORY", model_loss.GRAPH * 10 * 8 * (64 + 100))
    assert ModelLoss(model, *data())._cuts == [10, 10, 3]
    monkeypatch.setattr(model_loss, "MEMORY", 1)
    assert ModelLoss(model, *data())._cuts == [1] * 23


class Marked(nn.Module):
    """The identity, which notes the graphs that it is part of."""

    def __init__(self) -> None:
        super().__init__()
        graphs = self.graphs = weakref.WeakSet[Any]()

        class Identity(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, inputs: Tensor) -> Tensor:
                graphs.add(ctx)
                return inputs.clone()

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> Tensor:
                return gradient

        self.identity = Identity

    def forward(self, inputs: Tensor) -> Tensor:
        return cast(Tensor, self.identity.apply(inputs))

    def __deepcopy__(self, memo: object) -> Self:
        return self  # the loss works on a copy


def test_no_graph_outlives_its_use() -> None:
    """A saved output that a hook returns as it is owns the graph that owns it: memory that nothing ever frees."""
    marked = Marked()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), marked, nn.Tanh(), nn.Linear(8, 4))
    loss = ModelLoss(model, *data())
    assert not marked.graphs
    product = loss.hessian(loss.params)
    product(loss.params)
    assert marked.graphs
    del product
    assert not marked.graphs


@pytest.mark.parametrize("options", MODES)
def test_in_float32(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers to rounding, at float64 vectors; of the loss itself nothing changes."""
    loss = ModelLoss(small_network(), *data(), **options)
    value, gradient = loss.value_and_gradient(loss.params)
    product = loss.hessian(loss.params)(gradient)
    assert loss.in_float32() is None  # so little is as fast as it is
    monkeypatch.setattr(model_loss, "LARGE", 0)
    rounded, before = loss.in_float32(), loss.evaluations
    assert rounded is not None
    point = loss.params + 1e-3 * torch.arange(len(loss.params)) / len(loss.params)
    for other in (point, loss.params):
        expected, slope = loss.value_and_gradient(other)
        assert rounded.value(other) == pytest.approx(expected, rel=1e-5)
        assert rounded.value(other) != expected
        _, own = rounded.value_and_gradient(other)
        torch.testing.assert_close(own, slope, rtol=0, atol=1e-5 * float(slope.abs().max()))
    rough = rounded.hessian(loss.params)(gradient)
    torch.testing.assert_close(rough, product, rtol=0, atol=1e-4 * float(product.abs().max()))
    assert rounded.evaluations == 8
    assert loss.evaluations == before + 2
    again, slope = loss.value_and_gradient(loss.params)
    assert again == value
    assert torch.equal(slope, gradient)
    assert torch.equal(loss.hessian(loss.params)(gradient), product)
    assert ModelLoss(small_network(), *data(), dtype=torch.float32, **options).in_float32() is None


def test_parts_of_the_hessian_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = ModelLoss(small_network(), *data())
    part = Restricted(loss, loss.params, coordinates(loss, "1"))
    monkeypatch.setattr(model_loss, "LARGE", 0)
    for objective, params in ((part, part.params), (GaussNewton(loss), loss.params)):
        vector = torch.ones_like(params)
        rounded, expected = objective.in_float32(), objective.hessian(params)(vector)
        assert rounded is not None
        product = rounded.hessian(params)(vector)
        torch.testing.assert_close(product, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
        assert not torch.equal(product, expected)
        before = loss.evaluations, objective.evaluations
        found = hessian_eigenvalues(objective, params)
        assert found.converged
        assert objective.evaluations == before[1] + found.evaluations
        monkeypatch.setattr(model_loss, "LARGE", 1e99)
        exact = hessian_eigenvalues(objective, params)
        monkeypatch.setattr(model_loss, "LARGE", 0)
        torch.testing.assert_close(found.values, exact.values, rtol=1e-6, atol=0)
        assert found.evaluations == exact.evaluations + 2  # the graph in float32, and a product in float64


def test_a_small_loss_has_digits_in_float32() -> None:
    """Cross-entropy of 1e-9 and less, which float32 alone rounds to 0 or to steps of 1e-7."""
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[20.0, 0.0], [0.0, 20.0]])
    inputs, labels = torch.eye(2), torch.tensor([0, 1])
    single, double = (ModelLoss(model, inputs, labels, dtype=dtype) for dtype in (torch.float32, torch.float64))
    value, gradient = single.value_and_gradient(single.params)
    expected, expected_gradient = double.value_and_gradient(double.params)
    assert value == pytest.approx(expected, rel=1e-5)
    assert 0 < value < 3e-9
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=0)


def test_what_cannot_be_measured() -> None:
    def refusal(model: nn.Module, examples: int = 23, **options: Any) -> str:
        with pytest.raises(ValueError, match="`") as error:
            ModelLoss(model, *data(examples), **options)
        return str(error.value)

    model = network()
    assert "and some, got 0 and 0" in refusal(model, 0)
    assert "one of running, batch, recalibrated, got 'train'" in refusal(model, batch_norm="train")
    assert "`batch_size` must be 2 or more with 'batch'" in refusal(model, batch_norm="batch")
    assert "else None, got 1" in refusal(model, batch_norm="batch", batch_size=1)
    assert "else None, got 8" in refusal(model, batch_size=8)
    assert "and no chunk_size" in refusal(model, **BATCH, chunk_size=8)
    assert "must hold 2 examples or more" in refusal(model, 1, batch_norm="recalibrated")
    without = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False), nn.Linear(64, 4))
    assert "for layers without running statistics" in refusal(without)
    assert_equal(ModelLoss(without, *data(), batch_norm="recalibrated"), batch_loss(without, [23]))
    assert "require gradients, got none" in refusal(network().requires_grad_(False))
    model.register_parameter("table", nn.Parameter(torch.arange(3), requires_grad=False))
    assert "floating-point parameters, got table of torch.int64" in refusal(model)
