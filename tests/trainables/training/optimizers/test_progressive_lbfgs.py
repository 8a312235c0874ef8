"""Progressive-batching L-BFGS: directions against dense BFGS, batch sizes and steps by hand on two parameters."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from trainables.training.optimizers.progressive_lbfgs import ProgressiveLBFGS, size_needed, two_loop

EPS = torch.finfo(torch.float64).eps


def dense_inverse(s: Tensor, y: Tensor) -> Tensor:
    """BFGS's inverse Hessian, updated as a matrix (Nocedal and Wright 2006, equation 6.17)."""
    identity = torch.eye(s.shape[1], dtype=s.dtype)
    inverse: Tensor = identity * (s[-1] @ y[-1]) / (y[-1] @ y[-1])
    for one, change in zip(s, y, strict=True):
        rho = 1 / (one @ change)
        left = identity - rho * torch.outer(one, change)
        inverse = left @ inverse @ left.T + rho * torch.outer(one, one)
    return inverse


def quadratic(size: int) -> Tensor:
    """A positive definite matrix with condition number 100."""
    draws = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(size, size, generator=draws, dtype=torch.float64))[0]
    found: Tensor = basis @ torch.diag(torch.logspace(0, 2, size, dtype=torch.float64)) @ basis.T
    return found


@pytest.mark.parametrize("pairs", [1, 3, 9])
def test_the_two_loops_are_the_updates_of_a_dense_matrix(pairs: int) -> None:
    draws = torch.Generator().manual_seed(pairs)
    hessian = quadratic(6)
    s = torch.randn(pairs, 6, generator=draws, dtype=torch.float64)
    y, vector = s @ hessian, torch.randn(6, generator=draws, dtype=torch.float64)
    torch.testing.assert_close(two_loop(vector, s, y), dense_inverse(s, y) @ vector, rtol=1e-10, atol=1e-10)
    assert torch.equal(two_loop(vector, s[:0], y[:0]), vector)


def test_on_a_quadratic_with_exact_line_searches_it_is_the_textbook_method() -> None:
    """The directions are those of dense BFGS, conjugate, and reach the minimum of n variables in n steps."""
    hessian, w = quadratic(5), torch.ones(5, dtype=torch.float64)
    s, y = (torch.empty(0, 5, dtype=torch.float64) for _ in range(2))
    directions: list[Tensor] = []
    for _ in range(5):
        gradient = hessian @ w
        direction = two_loop(gradient, s, y)
        dense = dense_inverse(s, y) @ gradient if len(s) else gradient
        torch.testing.assert_close(direction, dense, rtol=1e-8, atol=1e-8 * float(dense.norm()))
        directions.append(direction)
        step = -direction * (gradient @ direction) / (direction @ hessian @ direction)
        s, y, w = torch.cat([s, step[None]]), torch.cat([y, (hessian @ step)[None]]), w + step
    assert w.norm() < 1e-10
    units = torch.stack([one / (one @ hessian @ one).sqrt() for one in directions])
    torch.testing.assert_close(units @ hessian @ units.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-8)


class Points:
    """F_i(w) = |w - c_i|^2 / 2 in two dimensions, as a Batch of the first `size` of the centers c_i.

    `scale` changes the curvature of all: scale |w - c_i|^2 / 2.
    """

    def __init__(self, w: nn.Parameter, centers: Sequence[Sequence[float]], size: int, scale: float = 1.0) -> None:
        self.w, self.size, self.scale = w, size, scale
        self.centers = torch.tensor(centers, dtype=torch.float64)
        self.tried: list[float] = []
        self.tests = 0

    @property
    def is_whole(self) -> bool:
        return self.size == len(self.centers)

    @property
    def gradients(self) -> Tensor:
        return self.scale * (self.w.detach() - self.centers[: self.size])

    def grow(self, size: int) -> None:
        self.size = min(size, len(self.centers))

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        self.tried.append(float(self.w.detach()[0]))
        squares = (self.w.detach() - self.centers[: self.size]).square().sum(1)
        return float(self.scale * squares.mean() / 2), self.gradients.mean(0)

    def inner_products(self, vector: Tensor) -> Tensor:
        self.tests += 1
        return self.gradients @ vector

    def relative_variance(self) -> float:
        mean = self.gradients.mean(0)
        return float((self.gradients - mean).square().sum() / (self.size - 1) / mean.square().sum())


def alternating(count: int, distance: float) -> list[list[float]]:
    return [[distance * (-1) ** k, 0.0] for k in range(count)]


def start(first: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.tensor([first, 0.0], dtype=torch.float64))


def test_batches_grow_and_steps_shorten_as_the_formulas_say_by_hand() -> None:
    """g = (1, 0) and g_i' g = 1 -+ 3: their variance is 12 in 4 examples, so theta = 1 needs 12 / (1 * 1^4) = 12.

    In 12 examples Var(g_i) = 9 * 12 / 11, so t = 1 / (1 + 9 / 11) = 11 / 20 and w = 9 / 20. The pair is exact: H = 1.
    Then g = 9 / 20 and the variance 9 (9 / 20)^2 12 / 11 needs 9 (12 / 11) / (9 / 20)^2 = 48.48...: 49 examples, of
    which the odd one has center 3. So g = 9 / 20 - 3 / 49.
    """
    w, centers = start(), alternating(100, 3.0)
    optimizer = ProgressiveLBFGS([w], 1.0, theta=1.0)
    first = Points(w, centers, 4)
    optimizer.step(first)
    assert (first.size, first.tests) == (12, 1)
    assert first.tried == [1.0, 1.0, pytest.approx(0.45, rel=8 * EPS)]  # 4 examples, 12 of them, then one trial
    assert w.tolist() == [pytest.approx(0.45, rel=8 * EPS), 0.0]
    second = Points(w, centers, optimizer.batch_size or 4)
    optimizer.step(second)
    assert second.size == 49
    gradient = 0.45 - 3 / 49
    variance = (9 * 49 - 9 / 49) / 48
    assert w[0].item() == pytest.approx(0.45 - gradient / (1 + variance / (49 * gradient**2)), rel=1e-13)


def test_a_batch_that_passes_stays_and_one_cannot_outgrow_the_training_set() -> None:
    """Theta = 2 needs 12 / 4 = 3 of the 4 examples. At theta = 0.1 it would be 1200."""
    for theta, count, expected in ((2.0, 100, 4), (0.1, 50, 50)):
        w = start()
        batch = Points(w, alternating(count, 3.0), 4)
        ProgressiveLBFGS([w], 1.0, theta=theta).step(batch)
        assert batch.size == expected
        # 4 examples: Var(g_i) = 12, so t = 1 / (1 + 12 / 4); the whole set has no noise, and t = 1
        assert w[0].item() == pytest.approx(1 - 1 / 4 if expected == 4 else 0.0, abs=8 * EPS)


def test_without_noise_there_is_no_test_and_the_rate_is_tried_first() -> None:
    """Curvature 16 makes t = 1, 1/2, 1/4 and 1/8 useless: |1 - 16 t| >= 1; t = 1/16 is the minimum, and H = 1/16."""
    w = start()
    optimizer = ProgressiveLBFGS([w], 1.0)
    batch = Points(w, [[0.0, 0.0]] * 3, 3, scale=16.0)
    optimizer.step(batch)
    assert batch.tried == [1.0, 1 - 16, 1 - 8, 1 - 4, 1 - 2, 0.0]
    assert batch.tests == 0
    w.data.copy_(torch.tensor([5.0, -2.0]))
    optimizer.step(batch)
    torch.testing.assert_close(w.detach(), torch.zeros(2, dtype=torch.float64), rtol=0, atol=64 * EPS)
    half = start()
    ProgressiveLBFGS([half], 0.5).step(Points(half, [[0.0, 0.0]] * 3, 3))
    assert half[0].item() == 0.5


def test_pairs_without_curvature_are_left_out_and_the_oldest_go() -> None:
    w = start()
    optimizer = ProgressiveLBFGS([w], 1e-3, memory=2, eps=0.5)
    flat = Points(w, [[0.0, 0.0]] * 2, 2, scale=0.5)  # y' s = 0.5 |s|^2 is not above eps |s|^2
    optimizer.step(flat)
    assert optimizer.state_dict()["state"][0].keys() == {"batch_size"}
    moved = []
    for _ in range(3):
        before = w.detach().clone()
        optimizer.step(Points(w, [[0.0, 0.0]] * 2, 2))
        moved.append(w.detach() - before)
    kept = optimizer.state_dict()["state"][0]
    torch.testing.assert_close(kept["s"], torch.stack(moved[1:]), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(kept["y"], kept["s"], rtol=1e-9, atol=1e-15)  # curvature 1


def test_weights_stay_where_no_step_helps() -> None:
    class Wrong(Points):
        def loss_and_gradient(self) -> tuple[float, Tensor]:
            loss, gradient = super().loss_and_gradient()
            return loss, -gradient

    class NotFinite(Points):
        def loss_and_gradient(self) -> tuple[float, Tensor]:
            return math.nan, super().loss_and_gradient()[1]

    for kind, first, evaluations in ((Wrong, 1.0, 21), (NotFinite, 1.0, 1), (Points, 0.0, 1)):
        w = start(first)
        batch = kind(w, [[0.0, 0.0]] * 3, 3)
        ProgressiveLBFGS([w], 1.0).step(batch)
        assert w.tolist() == [first, 0.0]
        assert len(batch.tried) == evaluations


def test_the_size_needed_at_the_limits_of_numbers() -> None:
    one = torch.ones(1, dtype=torch.float64)
    assert size_needed(torch.tensor([1.0, 1.0]), one, 0.9) == 1
    assert size_needed(torch.tensor([0.0, 1e300], dtype=torch.float64), one, 1.0) > 1e18  # whatever there is
    assert size_needed(torch.tensor([math.nan, 1.0]), one, 1.0) == 1
    assert size_needed(torch.tensor([0.0, 2.0], dtype=torch.float64), one, 1.0) == 2  # variance 2: holds just so


def test_a_stored_state_goes_on_to_the_same_bits() -> None:
    weights = []
    for is_stored in (False, True):
        w = start()
        optimizer = ProgressiveLBFGS([w], 1.0, theta=1.0)
        for size in (4, 12):
            optimizer.step(Points(w, alternating(100, 3.0), size))
        if is_stored:
            state = optimizer.state_dict()
            optimizer = ProgressiveLBFGS([w], 1.0, theta=1.0)
            optimizer.load_state_dict(state)
        assert optimizer.batch_size == 49
        optimizer.step(Points(w, alternating(100, 3.0), 49))
        weights.append(w.detach())
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("options", "rule"),
    [({"memory": 0}, "memory must be a whole"), ({"memory": 2.5}, "memory must"), ({"theta": 0.0}, "theta must be"),
     ({"eps": -1.0}, "eps must be a number of 0 or more")],
)  # fmt: skip
def test_options_out_of_range(options: dict[str, float], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        ProgressiveLBFGS([start()], 1.0, **options)  # type: ignore[arg-type]
