"""Metrics against their definitions, written out naively, and their sums over chunks against the whole."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from trainables.tasks.by_name import load_task
from trainables.tasks.metrics import (
    Kept,
    Sums,
    area_under_curve,
    balanced,
    hits_by_class,
    macro_f1,
    mean_average_precision,
    merged,
    overall,
    r_squared,
)

EXAMPLES, CLASSES = 23, 4


def numbers(*shape: int, ties: bool = True) -> Tensor:
    """Scores with many ties."""
    found = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (3 * found).round() if ties else found


def bits(*shape: int) -> Tensor:
    return torch.randint(2, shape, generator=torch.Generator().manual_seed(1))


def test_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    scores, labels = numbers(EXAMPLES), bits(EXAMPLES)
    pairs = itertools.product(scores[labels == 1].tolist(), scores[labels == 0].tolist())
    shares = [1.0 if high > low else 0.5 if high == low else 0.0 for high, low in pairs]
    found = area_under_curve(torch.stack([scores, labels.double()], dim=1))
    assert found == pytest.approx(math.fsum(shares) / len(shares), rel=1e-14)
    assert area_under_curve(torch.stack([scores, torch.ones(EXAMPLES)], dim=1)) is None


def test_rare_positives_that_are_never_found_have_an_area_of_a_half() -> None:
    labels = (torch.arange(100) < 6).double()
    assert area_under_curve(torch.stack([torch.zeros(100), labels], dim=1)) == 0.5
    assert area_under_curve(torch.stack([labels, labels], dim=1)) == 1.0


def test_average_precision_is_the_sum_of_precisions_where_recall_rises() -> None:
    scores, labels = numbers(EXAMPLES, CLASSES), bits(EXAMPLES, CLASSES)
    labels[:, 2] = 0  # a class without positives is left out
    expected = []
    for k in (0, 1, 3):
        before, value = 0.0, 0.0
        for threshold in sorted(set(scores[:, k].tolist()), reverse=True):
            taken = scores[:, k] >= threshold
            hits = float(labels[taken, k].sum())
            recall = hits / float(labels[:, k].sum())
            value, before = value + (recall - before) * hits / float(taken.sum()), recall
        expected.append(value)
    found = mean_average_precision(torch.stack([scores, labels.double()], dim=1))
    assert found == pytest.approx(sum(expected) / 3, rel=1e-13)
    assert mean_average_precision(torch.zeros(3, 2, 2)) is None


def test_balanced_accuracy_and_f1_are_means_over_classes() -> None:
    labels, hits = torch.tensor([0, 0, 0, 0, 1]), torch.tensor([True, True, True, False, True])
    counts = hits_by_class(hits, labels, 3)
    assert counts.tolist() == [[1, 0, 0], [3, 1, 0]]
    assert balanced(counts) == (0.75 + 1) / 2
    assert overall(counts) == 0.8
    counts = torch.tensor([[3.0, 0.0, 0.0], [4.0, 2.0, 0.0], [6.0, 0.0, 0.0]], dtype=torch.float64)
    assert macro_f1(counts) == (2 * 3 / 10 + 0) / 2


def test_r_squared() -> None:
    predictions, labels = numbers(EXAMPLES, 2), numbers(EXAMPLES, 2, ties=False) + 1e6  # a mean far above the spread
    expected = []
    for k in range(2):
        mean = math.fsum(labels[:, k].tolist()) / EXAMPLES
        spread = math.fsum((y - mean) ** 2 for y in labels[:, k].tolist())
        errors = math.fsum((y - z) ** 2 for y, z in zip(labels[:, k].tolist(), predictions[:, k].tolist(), strict=True))
        expected.append(1 - errors / spread)
    found = r_squared(torch.stack([predictions, labels], dim=1))
    assert found == pytest.approx(sum(expected) / 2, rel=1e-8)  # labels have 1e-10 of their spread as rounding
    assert r_squared(torch.ones(4, 2, 1)) is None


@pytest.mark.parametrize("name", ["classification", "binary", "multilabel", "regression", "language"])
def test_metrics_of_chunks_add_up_to_those_of_the_whole(name: str) -> None:
    outputs: Tensor
    if name == "regression":
        outputs, labels = numbers(EXAMPLES, 2, ties=False), numbers(EXAMPLES, 2)
    elif name == "multilabel":
        outputs, labels = numbers(EXAMPLES, CLASSES), bits(EXAMPLES, CLASSES).double()
    elif name == "binary":
        outputs, labels = numbers(EXAMPLES, 1), bits(EXAMPLES)
    elif name == "language":
        outputs, labels = numbers(EXAMPLES, 3, CLASSES, ties=False), bits(EXAMPLES, 3) * 2
        labels[4:9, 1:] = -100
    else:
        outputs, labels = numbers(EXAMPLES, CLASSES, ties=False), bits(EXAMPLES) * 2
    task = load_task(name, [labels])
    whole = {key: metric.value() for key, metric in task.measured(outputs, labels).items()}
    for size in (1, 5, 22):
        parts = [task.measured(*one) for one in zip(outputs.split(size), labels.split(size), strict=True)]
        joined = {key: merged([part[key] for part in parts]).value() for key in whole}
        assert joined == whole  # counts and kept rows: exact


def test_a_weighted_mean_takes_no_notice_of_what_has_no_weight() -> None:
    values = torch.tensor([1.0, math.nan, 4.0])
    assert Sums.mean(values, torch.tensor([1.0, 0.0, 3.0])).value() == 13 / 4
    assert Sums.mean(values[:1]).value() == 1.0
    assert Kept(values[:1, None], lambda rows: float(rows.sum())).value() == 1.0
