"""Streams of a user's own, for tests."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn


class Stream:
    """Points of two classes, made from the numbers of epoch and example."""

    num_classes = 2

    def __init__(self, examples: int = 60, given: int | None = None, seeded: bool = True) -> None:
        self.examples, self._given, self._seeded = examples, examples if given is None else given, seeded
        self.calls: list[int] = []
        self.test = self._points(np.random.default_rng(99), 20)

    def epoch(self, number: int) -> Iterator[tuple[Any, int]]:
        self.calls.append(number)
        generator = np.random.default_rng(number if self._seeded else None)
        inputs, labels = self._points(generator, self._given)
        return iter(zip(inputs, labels.tolist(), strict=True))

    @staticmethod
    def _points(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
        labels = generator.integers(0, 2, count)
        return generator.normal(size=(count, 3)) + 2 * labels[:, None], labels


def stream(**options: Any) -> Stream:
    return Stream(**options)


def unnumbered() -> Any:
    return (pair for pair in Stream().epoch(0))


def without_test() -> Any:
    found = Stream()
    del found.test
    return found


def ragged() -> Any:
    class Ragged(Stream):
        def epoch(self, number: int) -> Iterator[tuple[Any, int]]:
            return iter([(np.zeros(2), 0), (np.zeros(3), 1)])

    return Ragged(2)


class Notes:
    """A training step that trains nothing and notes its inputs."""

    def __init__(self, config: Any, data: Any) -> None:
        self.model = nn.Linear(3, 2)
        self.seen: list[Tensor] = []

    def step(self, inputs: Tensor, labels: Tensor, learning_rate: float) -> None:
        self.seen.append(inputs)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
