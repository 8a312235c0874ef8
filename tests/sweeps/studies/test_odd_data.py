"""Warnings about data that a sweep can train on."""

import re

import numpy as np
import pytest

from sweeps.studies.odd_data import about_data
from trainables.data import Source

INPUTS = np.random.default_rng(0).normal(size=(20, 3, 16, 16)).astype(np.float32)
LABELS = np.arange(20) % 4


def source(inputs: object = INPUTS, labels: object = LABELS, test_labels: object = LABELS[:8]) -> Source:
    inputs, labels, test_labels = map(np.asarray, (inputs, labels, test_labels))
    return Source("mine", inputs, labels, inputs[: len(test_labels)], test_labels, 4)


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (source(), []),
        (source(np.ones((20, 6), np.float32)), ["all training inputs of mine are the same, so"]),
        (source(np.moveaxis(INPUTS, 1, -1)), [r"inputs of mine have the shape \(16, 16, 3\), which is"]),
        (source(INPUTS[:, :, :4]), []),
        (source(labels=LABELS // 2, test_labels=LABELS[:8]), ["50 % of the test labels of mine .*, such as 2, so"]),
        (source(labels=np.maximum(LABELS, 1), test_labels=LABELS[4:8] | 1), ["the labels of mine start at 1"]),
        (source(labels=LABELS * (np.arange(20) < 4)), ["85 % of the labels of mine are 0, which is the accuracy"]),
    ],
)  # fmt: skip
def test_what_is_told(odd: Source, told: list[str]) -> None:
    found = list(about_data(odd))
    assert len(found) == len(told)
    for line, start in zip(found, told, strict=True):
        assert re.match(start, line)
