"""Metrics that add up exactly over chunks of the data and over workers, and the formulas of the built-in ones.

A metric of means (accuracy, F1) is a function of `Sums`. A metric of ranks (AUC, average precision) has to see all
scores, so they are `Kept`. Both are merged in the order of the examples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Value = float | None  # None where the data do not define the metric


@dataclass(frozen=True)
class Sums:
    """A metric that is a function `of` sums over the units; `sums` are those of some of them, float64 or counts."""

    sums: Tensor
    of: Callable[[Tensor], Value]

    @staticmethod
    def mean(values: Tensor, weights: Tensor | None = None) -> "Sums":
        """sum(w v) / sum(w) over units with the `values` and, where given, `weights` of the same shape."""
        if weights is None:
            total = values.sum(dtype=torch.float64)
            return Sums(torch.stack([total, torch.full_like(total, values.numel())]), ratio)
        weights = weights.double()
        counted = torch.where(weights == 0, 0.0, values.double())  # what has no weight may be anything, NaN too
        return Sums(torch.stack([(weights * counted).sum(), weights.sum()]), ratio)

    @staticmethod
    def merged(parts: "Sequence[Sums]") -> "Sums":
        return Sums(torch.stack([part.sums for part in parts]).sum(0), parts[0].of)

    def value(self) -> Value:
        return self.of(self.sums)


@dataclass(frozen=True)
class Kept:
    """A metric that is a function `of` all `rows` (n, ...), of which these are some: scores and labels."""

    rows: Tensor
    of: Callable[[Tensor], Value]

    @staticmethod
    def merged(parts: "Sequence[Kept]") -> "Kept":
        return Kept(torch.cat([part.rows for part in parts]), parts[0].of)

    def value(self) -> Value:
        return self.of(self.rows)


Metric = Sums | Kept


def merged(parts: Sequence[Metric]) -> Metric:
    """One metric of all of `parts`, which are of one kind and in the order of the examples."""
    return type(parts[0]).merged(parts) if len(parts) > 1 else parts[0]  # type: ignore[arg-type]


def ratio(sums: Tensor) -> Value:
    """The first sum over the second."""
    part, whole = sums.tolist()
    return part / whole if whole else None


def hits_by_class(hits: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(2, classes): misses and hits of the examples of each class, from `hits` and `labels` (N,)."""
    inside = labels.long().clamp(0, classes - 1)  # the loss raises for labels that are not
    return torch.bincount(inside + classes * hits, minlength=2 * classes).view(2, classes)


def overall(sums: Tensor) -> Value:
    """The share of hits, from `hits_by_class`."""
    misses, hits = sums.sum(1).tolist()
    return hits / (misses + hits) if misses + hits else None


def balanced(sums: Tensor) -> Value:
    """The mean over the classes that occur of the share of hits among their examples, from `hits_by_class`."""
    shares = [hits / (misses + hits) for misses, hits in sums.T.tolist() if misses + hits]
    return math.fsum(shares) / len(shares) if shares else None


def macro_f1(sums: Tensor) -> Value:
    """The mean over classes of 2 TP / (2 TP + FP + FN), from (3, K): TP, predicted, and true.

    Classes that neither occur nor are predicted are left out.
    """
    hits, predicted, true = sums
    seen = predicted + true > 0
    return float((2 * hits[seen] / (predicted[seen] + true[seen])).mean()) if bool(seen.any()) else None


def area_under_curve(rows: Tensor) -> Value:
    """P(score of a positive > that of a negative) + P(equal) / 2, over all pairs, from (n, 2): scores, labels 0 or 1.

    That is the area under the ROC curve (Hanley and McNeil 1982). None unless both labels occur.
    """
    scores, labels = rows.T
    positives, negatives = float(labels.sum()), float((1 - labels).sum())
    if not positives or not negatives or not bool(scores.isfinite().all()):
        return None
    _, group, sizes = scores.unique(return_inverse=True, return_counts=True)
    ranks = sizes.double().cumsum(0) - (sizes - 1) / 2  # of ties, the mean of theirs
    return (float(ranks[group] @ labels.double()) - positives * (positives + 1) / 2) / (positives * negatives)


def mean_average_precision(rows: Tensor) -> Value:
    """The mean over classes of sum_n (R_n - R_{n-1}) P_n, from (n, 2, K): scores, labels 0 or 1.

    P_n and R_n are precision and recall where the n highest scores count as positive; equal scores count at once.
    Classes without positives are left out; None where there are no others.
    """
    scores, labels = rows.unbind(1)
    if not bool(scores.isfinite().all()):
        return None
    found = [_average_precision(scores[:, k], labels[:, k]) for k in range(scores.shape[1]) if bool(labels[:, k].any())]
    return sum(found) / len(found) if found else None


def _average_precision(scores: Tensor, labels: Tensor) -> float:
    order = scores.argsort(descending=True)
    ordered, hits = scores[order], labels[order].double().cumsum(0)
    last = torch.ones(len(scores), dtype=torch.bool, device=scores.device)  # of each group of equal scores
    last[:-1] = ordered[1:] != ordered[:-1]
    hits, taken = hits[last], (last.nonzero()[:, 0] + 1).double()
    return float((hits.diff(prepend=hits.new_zeros(1)) * hits / taken).sum() / hits[-1])


def r_squared(rows: Tensor) -> Value:
    """1 - sum (y - z)^2 / sum (y - mean y)^2, the mean over the D outputs, from (n, 2, D): predictions z, labels y.

    None where the labels of an output are constant.
    """
    predictions, labels = rows.double().unbind(1)
    spread = (labels - labels.mean(0)).square().sum(0)
    if not bool((spread > 0).all()):
        return None
    return float((1 - (labels - predictions).square().sum(0) / spread).mean())
