"""The line search of L-BFGS-B: a step along a direction that meets the strong Wolfe conditions.

    phi(t) <= phi(0) + c1 t phi'(0)   and   |phi'(t)| <= c2 |phi'(0)|,   c1 = 1e-3, c2 = 0.9

by Moré & Thuente 1994, ACM TOMS 20(3): the next trial is the minimizer of a cubic or quadratic through the best and
the last sample, safeguarded into a bracket that shrinks. Constants and order of tests as in SciPy 1.17.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

SUFFICIENT_DECREASE = 1e-3
CURVATURE = 0.9
NARROW_BRACKET = 0.1  # its width over its upper end


class Sample(NamedTuple):
    """f on the way from x to the target: the step, the value and the slope."""

    step: float
    value: float
    slope: float

    def less_line(self, slope: float) -> "Sample":
        """Of f less the line of that slope."""
        return Sample(self.step, self.value - self.step * slope, self.slope - slope)


def wolfe_step(
    sample: Callable[[float], Sample], start: Sample, longest_step: Callable[[], float], limit: int
) -> Sample | None:
    """The first sample from step 1 on with sufficient decrease and small slope (Moré & Thuente), or None.

        f(step) <= f(0) + 1e-3 step f'(0)   and   |f'(step)| <= 0.9 |f'(0)|

    Short of these it may be the longest step, where f decreases enough, or the best end of a narrow bracket.
    """
    if not start.slope < 0:
        return None
    enough = SUFFICIENT_DECREASE * start.slope
    best = other = start
    bracketed, first_stage = False, True
    step, low, high = 1.0, 0.0, 5.0
    longest = width = width_before = math.inf

    def narrow() -> bool:
        return bracketed and (not low < step < high or high - low <= NARROW_BRACKET * high)

    for trial_number in range(limit):
        trial = sample(step)
        decreased = trial.value <= start.value + step * enough
        if decreased and abs(trial.slope) <= -CURVATURE * start.slope:
            return trial
        if trial_number == 0:
            longest = width = longest_step()
            width_before = 2 * width
        if narrow() or (step == longest and decreased and trial.slope <= enough):
            return trial
        # Until f has decreased enough, the bracket is one of f less the line of sufficient decrease.
        first_stage = first_stage and not (decreased and trial.slope >= 0)
        line = enough if first_stage and not decreased and trial.value <= best.value else 0.0
        a, b, c = best.less_line(line), other.less_line(line), trial.less_line(line)
        step = _next_step(a, b, c, bracketed, low, high)
        if c.value > a.value:
            bracketed, other = True, trial
        elif c.slope * a.slope < 0:
            bracketed, other, best = True, best, trial
        else:
            best = trial
        if bracketed:
            if abs(other.step - best.step) >= 0.66 * width_before:
                step = best.step + 0.5 * (other.step - best.step)
            width, width_before = abs(other.step - best.step), width
            low, high = min(best.step, other.step), max(best.step, other.step)
        else:
            low, high = step + 1.1 * (step - best.step), step + 4 * (step - best.step)
        step = min(max(0.0, step), longest)
        if narrow():
            step = best.step
    return None


def _next_step(best: Sample, other: Sample, trial: Sample, bracketed: bool, low: float, high: float) -> float:
    """Where interpolants of f are least: the four cases of Moré & Thuente 1994, section 4."""
    way = trial.step - best.step
    if trial.value > best.value:  # higher: the cubic's minimizer, or half way to the parabola's
        cubic = best.step + _cubic_minimizer(best, trial)[0] * way
        parabola = best.step + best.slope / ((best.value - trial.value) / way + best.slope) / 2 * way
        nearer = abs(cubic - best.step) < abs(parabola - best.step)
        return cubic if nearer else cubic + (parabola - cubic) / 2
    if trial.slope * best.slope >= 0 and abs(trial.slope) >= abs(best.slope):  # lower, and as steep
        if bracketed:
            return trial.step + _cubic_minimizer(trial, other)[0] * (other.step - trial.step)
        return high if way > 0 else low
    ratio, root = _cubic_minimizer(trial, best)
    cubic = trial.step - ratio * way
    if trial.slope * best.slope >= 0 and not (ratio < 0 and root != 0):  # the cubic has no minimizer ahead
        cubic = high if way > 0 else low
    secant = trial.step - trial.slope / (trial.slope - best.slope) * way
    nearer_step, farther_step = sorted((cubic, secant), key=lambda step: abs(step - trial.step))
    if trial.slope * best.slope < 0:  # lower, and rising
        return farther_step
    if not bracketed:  # lower, and less steep
        return max(low, min(high, farther_step))
    inside = trial.step + 0.66 * (other.step - trial.step)
    return min(inside, nearer_step) if way > 0 else max(inside, nearer_step)


def _cubic_minimizer(a: Sample, b: Sample) -> tuple[float, float]:
    """The minimizer of the cubic through both samples, as a part of the way from a to b, and its root."""
    theta = 3 * (a.value - b.value) / (b.step - a.step) + a.slope + b.slope
    scale = max(abs(theta), abs(a.slope), abs(b.slope))
    square = (theta / scale) ** 2 - (a.slope / scale) * (b.slope / scale)
    root = math.copysign(scale * math.sqrt(max(0.0, square)), b.step - a.step)
    return (root - a.slope + theta) / (root - a.slope + root + b.slope), root
