"""Second derivatives: wrong ones are refused by their operation's name, and kinks are not taken for wrong ones."""

from typing import Any, cast

import pytest
import torch
from oracles import quadratic, random
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.sharpness import (
    GaussNewton,
    ModelLoss,
    Restricted,
    ball_sharpness,
    box_sharpness,
    coordinates,
    hessian_eigenvalues,
    hessian_trace,
    perturbation_sharpness,
    spectral_density,
)
from trainables.sharpness.objective import Objective
from trainables.sharpness.second_derivatives import check_hessian, check_jacobian

INPUTS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 3


class Cube(torch.autograd.Function):
    """x^3 with the right gradient 3 x^2, whose derivative 6 x is right as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * 3 * cast(Tensor, x) ** 2


class DetachedCube(Cube):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * 3 * cast(Tensor, x).detach() ** 2


class WhollyDetachedCube(Cube):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (gradient * 3 * cast(Tensor, x) ** 2).detach()


class StraightThrough(Cube):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Apply(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return cast(Tensor, self.function.apply(inputs))


def network(function: Any) -> ModelLoss:
    torch.manual_seed(0)
    return ModelLoss(nn.Sequential(nn.Linear(5, 8), Apply(function), nn.Linear(8, 3)), INPUTS, LABELS)


WRONG = [DetachedCube, WhollyDetachedCube, StraightThrough]


@pytest.mark.parametrize("function", WRONG)
@pytest.mark.parametrize("measure", [hessian_eigenvalues, hessian_trace, spectral_density])
def test_wrong_second_derivatives_are_refused_by_name(function: Any, measure: Any) -> None:
    loss, part = network(function), network(function)
    part = Restricted(part, part.params, coordinates(part, "0"))  # type: ignore[assignment]
    for objective in (loss, part):
        with pytest.raises(
            ValueError, match=rf"right second derivatives .* differ by .*in {function.__name__}Backward"
        ):
            measure(objective, objective.params)
    x = random(1, 6)
    for dtype in (torch.float64, torch.float32):
        with pytest.raises(ValueError, match=f"{function.__name__}Backward"):
            measure(lambda p: (function.apply(p) ** 2).sum() + p[0] * p[1], x.to(dtype))


def test_the_right_ones_are_not() -> None:
    loss = network(Cube)
    expected = network(Cube)
    expected.certify = lambda params: None  # type: ignore[method-assign]
    found, unchecked = (hessian_eigenvalues(one, loss.params) for one in (loss, expected))
    assert torch.equal(found.values, unchecked.values)
    assert found.evaluations == unchecked.evaluations
    assert found.converged


def test_gauss_newton_is_of_the_first_derivatives_alone() -> None:
    """Detached saved tensors leave J right; a detached or another gradient does not."""
    own, right = network(DetachedCube), network(Cube)
    values = [hessian_eigenvalues(GaussNewton(loss), loss.params).values for loss in (own, right)]
    torch.testing.assert_close(*values)
    for function in (WhollyDetachedCube, StraightThrough):
        loss = network(function)
        with pytest.raises(ValueError, match=f"Jv and the difference .*{function.__name__}Backward"):
            hessian_eigenvalues(GaussNewton(loss), loss.params)


@pytest.mark.parametrize("measure", [box_sharpness, hessian_eigenvalues, hessian_trace, ball_sharpness])
def test_a_loss_that_ignores_its_argument(measure: Any) -> None:
    model = nn.Linear(5, 3).double()
    options = {"radius": 0.1} if measure is ball_sharpness else {}
    with pytest.raises(ValueError, match="must depend on its parameters, got one that ignores its argument"):
        measure(lambda p: cross_entropy(model(INPUTS.double()), LABELS), torch.ones(18).double(), **options)
    with pytest.raises(ValueError, match="ignores its argument"):
        perturbation_sharpness(lambda p: model(INPUTS.double()).sum(), torch.ones(18).double(), scale=0.1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_asymmetry_and_differences(dtype: torch.dtype, scale: float) -> None:
    """Of a quadratic with the gradient H x: products with H pass, those with a wrong matrix do not."""
    root, x = random(0, 30, 30), scale * random(1, 30).to(dtype)
    hessian = (root + root.T).to(dtype)
    asymmetric, short = hessian.clone(), 0.9 * hessian
    asymmetric[:15, 15:] *= 0.5

    def check(matrix: Tensor) -> None:
        check_hessian(x, lambda v: matrix @ v, lambda p: hessian @ p, lambda: ["ItsBackward"])

    check(hessian)
    with pytest.raises(ValueError, match=r"v'Hu and u'Hv differ by .* in ItsBackward"):
        check(asymmetric)
    with pytest.raises(ValueError, match=r"Hv and the difference of two gradients differ by 10\.0%"):
        check(short)
    with pytest.raises(ValueError, match="Hv and the difference"):
        check(0 * hessian)
    check_jacobian(x, lambda v: hessian @ v, lambda p: hessian @ p, lambda: [])
    with pytest.raises(ValueError, match=r"Jv and the difference of two outputs differ by 10\.0%"):
        check_jacobian(x, lambda v: short @ v, lambda p: hessian @ p, lambda: [])


def test_what_proves_nothing() -> None:
    """Linear losses, no curvature, no finite difference; a kink at the point itself."""
    x = torch.ones(4).double()
    for loss in (lambda p: p.sum(), quadratic(torch.zeros(4, 4).double(), random(0, 4), x)):
        Objective(loss).certify(x)
    Objective(lambda p: (p**2).sum() + torch.where(p[0] > 1, torch.inf, 0.0)).certify(x)
    Objective(lambda p: (p - 1).relu().sum() + (p**2).sum()).certify(x)


def relu_network(seed: int, steps: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 30), nn.ReLU(), nn.Linear(30, 30), nn.LeakyReLU(), nn.Linear(30, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(INPUTS), LABELS).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize(("seed", "steps"), [(0, 0), (1, 20), (2, 20), (3, 200)])
def test_kinks_are_not_refused(seed: int, steps: int) -> None:
    """The bound loss on a few examples, and as a plain function of all of them, in float32 as well."""
    loss = ModelLoss(relu_network(seed, steps), INPUTS, LABELS)
    loss.certify(loss.params)
    GaussNewton(loss).certify(loss.params)
    for own in (loss, ModelLoss(relu_network(seed, steps), INPUTS, LABELS, dtype=torch.float32)):
        examples = torch.arange(len(INPUTS))
        Objective(lambda p, own=own, all_of=examples: own.of_examples(p, all_of)).certify(own.params)  # type: ignore[misc]


@pytest.mark.parametrize("size", [1e-9, 1e-20])
def test_units_that_weight_decay_has_shrunk_are_not_refused(size: float) -> None:
    """Their kink is nearer than the shortest step, and the difference across it is the same at every step."""
    model = relu_network(1, 20)
    first, _, second, *_ = (cast(nn.Linear, layer) for layer in model.children())
    with torch.no_grad():
        for part in (first.weight[:15], first.bias[:15], second.weight[:, :15]):
            part *= size
    loss = ModelLoss(model, INPUTS, LABELS)
    loss.certify(loss.params)
    assert loss.certified == {"hessian"}


@pytest.mark.parametrize("options", [{"batch_norm": "batch", "batch_size": 10}, {"batch_norm": "recalibrated"}])
def test_batch_norm_is_not_refused(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3))
    for chunk_size in (None, 7) if options["batch_norm"] == "recalibrated" else (None,):
        loss = ModelLoss(model, INPUTS, LABELS, chunk_size=chunk_size, **options)
        loss.certify(loss.params)
        GaussNewton(loss).certify(loss.params)
        assert loss.certified == {"hessian", "jacobian"}
        assert loss.on(slice(0, 20)).certified is loss.certified
