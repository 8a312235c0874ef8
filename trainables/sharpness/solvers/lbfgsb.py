"""L-BFGS-B on tensors: minimize a smooth function over a box, with millions of variables, on CPU or GPU.

    min f(x)   subject to   lower <= x <= upper     (all bounds finite; lower == upper holds a variable fixed)

An iteration models f by m(x + v) = f + g'v + v'Bv / 2 with B = theta I - U'CU, where the rows of U are the
last pairs s = x+ - x, y = g+ - g and C is small. It finds the first local minimizer of m on the projected
steepest descent path P(x - t g) (the Cauchy point), minimizes m over the variables that this point leaves
free, projects the result onto the box, and searches the way from x to there for a step that meets the strong
Wolfe conditions.

Why not `scipy.optimize.minimize`: it loops over bounds and variables on one CPU core and returns its last
point. Here n-sized vectors stay on the device of `start`, the host sees scalars and 2m x 2m matrices, and the
best point visited is returned. In float64 the points evaluated are SciPy's, in its order, to rounding, except
that

- variables that reach their bounds at exactly the same time are held together; SciPy may stop between them;
- the longest step puts its variables exactly on their bounds; SciPy's may end a rounding error short of them,
  which then makes its next step negligible. All points are clamped into the box, SciPy's at step 1 are not;
- without pairs the Cauchy point is exactly P(x - g); SciPy's sums lose digits where the steepest variables
  are held early. With pairs both lose them, in the slope of the path;
- SciPy skips the update of its inner products in iterations without free variables, and goes on from stale
  ones;
- a value or gradient that is not finite ends the search; SciPy goes on, and may report convergence.

Cost: U is read twice an iteration, for its products with four vectors and for the Newton step; all else are
elementwise passes, where it matters in parts that stay in the cache. Memory: about 2 memory + 12 vectors.
Inner products over the free variables are kept, and mended by the columns of those that changed sides. Only
breakpoints that the path may get to are sorted; cumulative sums then take the place of the loop over them.

Trap: with both tolerances 0 the search still stops, as converged, after an iteration that does not lower f.

Sources: Byrd, Lu, Nocedal & Zhu 1995, SIAM J. Sci. Comput. 16(5); Byrd, Nocedal & Schnabel 1994, Math.
Program. 63 (the compact form of B); Zhu, Byrd, Lu & Nocedal 1997, ACM TOMS 23(4), Algorithm 778; Morales &
Nocedal 2011, ACM TOMS 38(1) (the projection); Moré & Thuente 1994, ACM TOMS 20(3) (the line search).
Constants, and the order of tests and restarts, as in SciPy 1.17.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from trainables.sharpness.solvers import limited_memory
from trainables.sharpness.solvers.limited_memory import IndefiniteError, Pairs, dot, largest, parts
from trainables.sharpness.solvers.line_search import Sample, wolfe_step

LONGEST_STEP = 1e10

Function = Callable[[Tensor], tuple[float, Tensor]]


@dataclass(frozen=True, eq=False)
class BoxMinimum:
    """The best point visited, like `start` in dtype and device, its value, and how the search ended.

    `converged`: a tolerance stopped it, not a limit, a failed line search or a value that is not finite.
    """

    point: Tensor
    value: float
    evaluations: int
    iterations: int
    converged: bool
    message: str


def minimize_in_box(
    value_and_gradient: Function,
    start: Tensor,
    lower: Tensor,
    upper: Tensor,
    *,
    iterations: int,
    memory: int = 10,
    value_tolerance: float = 0.0,
    gradient_tolerance: float = 0.0,
    line_search_limit: int = 20,
) -> BoxMinimum:
    """min f(x) over lower <= x <= upper by L-BFGS-B, from `start` clamped into the box.

    `value_and_gradient` maps an (n,) tensor, which it must not change, to f and its (n,) gradient. `start`,
    `lower` and `upper` are (n,), of one floating dtype and device. Inner products are float64 with float32
    vectors too; f should be a float64 sum then, or its rounding ends the line search early.

    Stops when max_i |P(x - g) - x|_i <= gradient_tolerance, when f - f+ <= value_tolerance max(|f|, |f+|, 1),
    after `iterations`, or when a line search fails, within `line_search_limit` evaluations, even without the
    last `memory` pairs. In SciPy these arguments are gtol, ftol, maxiter, maxls and maxcor.

    Raises ValueError for arguments that do not fit; where f is not finite the search ends, with
    converged=False. Source: Byrd et al. 1995; the file's docstring lists the others, and the differences from
    SciPy.
    """
    _check_box(start, lower, upper)
    counts = {"iterations": iterations, "memory": memory, "line_search_limit": line_search_limit}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1, got {count}; for f alone call the function")
    for name, bound in {"value_tolerance": value_tolerance, "gradient_tolerance": gradient_tolerance}.items():
        if not bound >= 0:
            raise ValueError(f"`{name}` must be at least 0, got {bound}; 0 goes on while f decreases")

    objective = _Objective(value_and_gradient, lower)
    search = _Search(objective, lower.detach(), upper.detach(), min(memory, iterations))
    decrease = math.inf

    def outcome(message: str, converged: bool = False) -> BoxMinimum:
        point, value = objective.best
        return BoxMinimum(point, value, objective.evaluations, search.iterations, converged, message)

    try:
        search.begin(start.detach())
        while search.projected_norm() > gradient_tolerance:
            if decrease <= value_tolerance:
                return outcome("decrease within value_tolerance", converged=True)
            before = search.here.value
            if not search.advance(line_search_limit):
                return outcome("line search failed on the steepest descent path")
            if search.iterations == iterations:
                return outcome("iteration limit reached")
            now = search.here.value
            decrease = (before - now) / max(abs(before), abs(now), 1.0)
    except _NotFiniteError:
        return outcome("value or gradient not finite")
    return outcome("projected gradient within gradient_tolerance", converged=True)


def _check_box(start: Tensor, lower: Tensor, upper: Tensor) -> None:
    if start.ndim != 1 or start.numel() == 0 or not start.dtype.is_floating_point:
        got = f"{start.dtype} of shape {tuple(start.shape)}"
        raise ValueError(f"`start` must be an (n,) tensor of floats, n >= 1, got {got}; convert it")
    for name, bound in {"lower": lower, "upper": upper}.items():
        if (bound.shape, bound.dtype, bound.device) != (start.shape, start.dtype, start.device):
            got = f"{bound.dtype} of shape {tuple(bound.shape)} on {bound.device}"
            raise ValueError(f"`{name}` must be like `start`, got {got}; expand or convert it")
        if not bool(torch.isfinite(bound).all()):
            raise ValueError(f"`{name}` must be finite, got inf or nan; take a wide bound instead")
    if bool((lower > upper).any()):
        i = int((lower - upper).argmax())
        raise ValueError(f"`lower` must be at most `upper`, got {lower[i]} > {upper[i]} at {i}; swap them")


class _NotFiniteError(Exception):
    """f or its gradient is not finite at the point asked for."""


class _Evaluation(NamedTuple):
    point: Tensor
    value: float
    gradient: Tensor


class _Objective:
    """f, its last evaluation and its best point. A point equal to the last one is not evaluated again.

    Gradients are copied into two buffers in turn, as `function` may return the same tensor every time.
    """

    def __init__(self, function: Function, like: Tensor) -> None:
        self.evaluations = 0
        self.last: _Evaluation
        self.best: tuple[Tensor, float]
        self._function = function
        self._buffer, self._accepted = like.new_empty(2, like.numel())

    def __call__(self, point: Tensor) -> _Evaluation:
        if self.evaluations and torch.equal(point, self.last.point):
            return self.last
        value, gradient = self._function(point)
        if gradient.shape != point.shape:
            shapes = f"of shape {tuple(point.shape)}, got {tuple(gradient.shape)}"
            raise ValueError(f"`value_and_gradient` must return a gradient {shapes}; flatten it")
        self.evaluations += 1
        self.last = _Evaluation(point, float(value), self._buffer.copy_(gradient.detach()))
        finite = math.isfinite(self.last.value) and math.isfinite(float(largest(self.last.gradient)))
        if self.evaluations == 1 or (finite and self.last.value < self.best[1]):
            self.best = point, self.last.value
        if not finite:
            raise _NotFiniteError
        return self.last

    def accept(self) -> _Evaluation:
        """The last evaluation, whose gradient stands until the next one is accepted."""
        self._buffer, self._accepted = self._accepted, self._buffer
        return self.last


class _Path(NamedTuple):
    """The Cauchy point x + v: its time, the last breakpoint before it, U v, and U d, d = -g where free."""

    time: float
    last_break: float
    moved: Tensor
    products: Tensor


class _Search:
    """One minimization: where it is, its box, its pairs, and the vectors that it works in."""

    def __init__(self, objective: _Objective, lower: Tensor, upper: Tensor, memory: int) -> None:
        self.iterations = 0
        self.here: _Evaluation
        self._objective, self._lower, self._upper = objective, lower, upper
        self._pairs = Pairs(memory, lower)
        self._target: Tensor  # where the line search's step is 1
        self._to_bounds: Tensor | None = None  # the steps to them
        self._times, self._direction, self._spare = lower.new_empty(3, lower.numel())

    def begin(self, start: Tensor) -> None:
        self._objective(torch.clamp(start, self._lower, self._upper))
        self.here = self._objective.accept()

    def projected_norm(self) -> float:
        """max_i |P(x - g) - x|_i; finds the times of the variables to their bounds on the same pass.

        A time is 0 or nan where the variable is at its bound to stay, and inf where its gradient is 0.
        """
        reached = []
        for part in parts(self._times):
            x, gradient = self.here.point[part], self.here.gradient[part]
            above_lower, above_upper = x - self._lower[part], x - self._upper[part]
            torch.maximum(above_lower / gradient, above_upper / gradient, out=self._times[part])
            reached.append(largest(torch.maximum(torch.minimum(gradient, above_lower), above_upper)))
        return float(torch.stack(reached).max())

    def advance(self, line_search_limit: int) -> bool:
        """One iteration, begun anew without the pairs where they do not serve; False where that fails too."""
        accepted = None
        while accepted is None:
            try:
                start = Sample(0.0, self.here.value, self._aim())
            except IndefiniteError:
                self._pairs.forget()
                continue
            accepted = wolfe_step(self._sample, start, self._longest_step, line_search_limit)
            if accepted is None and self._pairs.count == 0:
                return False
            if accepted is None:
                self._pairs.forget()
        before, self.here = self.here, self._objective.accept()
        self.iterations += 1
        curvature = (accepted.slope - start.slope) * accepted.step
        if curvature > -torch.finfo(self._lower.dtype).eps * start.slope * accepted.step:
            self._pairs.add(self._direction, accepted.step, self.here.gradient, before.gradient, curvature)
        return True

    def _aim(self) -> float:
        """Head for where the model is least over what the Cauchy point leaves free, projected onto the box.

        Where f does not decrease that way, the way from the Cauchy point ends at the first bound instead
        (Morales & Nocedal 2011). Returns the slope of f on the way.
        """
        x, gradient, pairs, spare = self.here.point, self.here.gradient, self._pairs, self._spare
        path = self._cauchy_path()
        pairs.set_free(self._times, path.last_break)
        if pairs.count == 0 or float(pairs.free.max()) == 0:
            return self._head_for(self._cauchy_point(path))
        q = pairs.newton_coefficients(path.moved, 1 - pairs.theta * path.time, path.products).to(x)
        target = torch.empty_like(x)
        for part in parts(x):
            newton = torch.mv(pairs.rows[:, part].T, q).sub_(gradient[part])
            # What is held goes past its bound, so that the clamp puts it there exactly.
            overshoot = gradient[part] * (-2 * path.time * pairs.theta)
            torch.lerp(overshoot, newton, pairs.free[part], out=spare[part]).div_(pairs.theta)
            torch.add(x[part], spare[part], out=target[part]).clamp_(self._lower[part], self._upper[part])
        slope = self._head_for(target)
        if slope <= 0:
            return slope
        cauchy = self._cauchy_point(path)
        newton = (x + spare - cauchy).mul_(pairs.free)
        ends = torch.maximum((self._lower - cauchy) / newton, (self._upper - cauchy) / newton)
        end, first = ends.masked_fill_(newton == 0, math.inf).min(dim=0)
        target = torch.add(cauchy, newton, alpha=min(1.0, float(end))).clamp_(self._lower, self._upper)
        if end < 1:
            target[first] = torch.where(newton[first] > 0, self._upper[first], self._lower[first])
        return self._head_for(target)

    def _head_for(self, target: Tensor) -> float:
        self._target, self._to_bounds = target, None
        return dot(self.here.gradient, torch.sub(target, self.here.point, out=self._direction))

    def _cauchy_point(self, path: _Path) -> Tensor:
        """P(x - t g); what is held goes twice as far, so that the clamp puts it on its bound exactly."""
        way = torch.mul(self.here.gradient, 2 - self._pairs.free)
        return torch.add(self.here.point, way, alpha=-path.time).clamp_(self._lower, self._upper)

    def _cauchy_path(self) -> _Path:
        """The first local minimizer of the model on P(x - t g) (Byrd et al. 1995, section 4, algorithm CP).

        Behind a breakpoint at t, with d the direction that is left and v the way to there, the model has
        slope -d'd (1 - theta t) - (U d)'C (U v) and curvature theta d'd - (U d)'C (U d). Breakpoints beyond
        the minimizer on the present piece wait until the path is known to get there.
        """
        pairs, gradient, times = self._pairs, self.here.gradient, self._times
        if pairs.count == 0:  # B = I
            return _Path(1.0, 1.0, pairs.compact, pairs.compact)
        products, total = pairs.path_products(gradient, times)
        compact, theta = pairs.compact.to(products.device), pairs.theta
        least = max(sys.float_info.epsilon * theta * total, sys.float_info.min)  # of the curvature
        moved, left, last_break, seen, stopped = torch.zeros_like(products), total, 0.0, 0.0, False
        ahead = total / max(theta * total - float(products @ compact @ products), least)  # to the minimizer
        while not stopped:
            window = max(last_break + ahead, 2 * seen)
            index = ((times > seen) & (times <= window)).nonzero().squeeze(1)
            if len(index) == 0:
                break
            breaks, order = times[index].double().sort()
            for some, at in zip(
                torch.split(index[order], limited_memory.AT_ONCE),
                torch.split(breaks, limited_memory.AT_ONCE),
                strict=True,
            ):
                # Element 0 is of the piece the path is on, element k of the one behind the k-th breakpoint.
                d = -gradient[some].double()
                t = pad(at, (1, 0), value=last_break)
                lasts = torch.diff(t)
                squares = left - pad(d * d, (1, 0)).cumsum(0)
                along = products[:, None] - pad(pairs.columns(some) * d, (1, 0)).cumsum(1)
                way = moved[:, None] + pad(along[:, :-1] * lasts, (1, 0)).cumsum(1)
                bent = compact @ along
                slopes = -squares * (1 - theta * t) - (bent * way).sum(0)
                curvatures = theta * squares - (bent * along).sum(0)
                aheads = (-slopes / curvatures.clamp(min=least)).clamp(min=0)
                stops = ((aheads[:-1] < lasts) & (lasts > 0)).nonzero()
                stopped = len(stops) > 0
                k = int(stops[0]) if stopped else -1
                products, moved = along[:, k], way[:, k]
                left, last_break, ahead = torch.stack([squares[k], t[k], aheads[k]]).tolist()
                if stopped:
                    break
            seen = window
        if left < 1e-4 * total:  # the differences have lost digits
            products, _ = pairs.path_products(gradient, times, after=last_break)
        return _Path(last_break + ahead, last_break, (moved + ahead * products).cpu(), products.cpu())

    def _sample(self, step: float) -> Sample:
        point = self._target
        if step != 1:
            point = torch.mul(self._direction, step).add_(self.here.point).clamp_(self._lower, self._upper)
            if self._to_bounds is not None:  # exactly on the bounds that the step meets
                meets = (self._to_bounds - step).abs_() <= 4 * torch.finfo(point.dtype).eps * step
                point = torch.where(meets, torch.where(self._direction > 0, self._upper, self._lower), point)
        found = self._objective(point)
        return Sample(step, found.value, dot(found.gradient, self._direction))

    def _longest_step(self) -> float:
        """The step at which the first variable meets its bound; in the first iteration 1."""
        if self.iterations == 0:
            return 1.0
        x = self.here.point
        steps = torch.maximum((self._lower - x) / self._direction, (self._upper - x) / self._direction)
        self._to_bounds = steps.masked_fill_(self._direction == 0, math.inf)
        return min(float(self._to_bounds.min()), LONGEST_STEP)
