"""What a batch size and an amount of data are told in: examples, and of a language model tokens too.

An example of a language model is a sequence of T tokens, so a batch of B examples has B T tokens.
"""

from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class BatchUnit:
    """`tokens`: T, of an example; None where examples have one label each, and where T is not known or not always the
    same.
    """

    tokens: int | None = None

    @property
    def label(self) -> str:
        """Of an axis of batch sizes."""
        return f"batch size [{self.examples}]"

    @property
    def examples(self) -> str:
        """What an example is: `examples`, or `sequences of 32 tokens`."""
        return "examples" if self.tokens is None else f"sequences of {self.tokens} tokens"

    @property
    def of_data(self) -> str:
        """What amounts of data are in: `examples` or `tokens`, `per_example` of them each."""
        return "examples" if self.tokens is None else "tokens"

    @property
    def per_example(self) -> int:
        return self.tokens or 1

    def batch(self, size: int, *notes: str) -> str:
        """`32`, or `32 (1024 tokens)`, with further notes: `32 (1024 tokens, 1 diverged)`."""
        told = ([] if self.tokens is None else [f"{size * self.tokens} tokens"]) + list(notes)
        return f"{size} ({', '.join(told)})" if told else f"{size}"


EXAMPLES = BatchUnit()


def batch_unit_of(trials: pd.DataFrame) -> BatchUnit:
    """The unit of trials with the columns `examples` and `tokens` of trials.parquet."""
    begun = trials[trials["examples"] > 0]
    return unit_of_ratios((begun["tokens"] / begun["examples"]).unique().tolist())


def unit_of_ratios(found: Collection[float]) -> BatchUnit:
    """The unit of trials by their distinct numbers of tokens for an example, 0 or NaN where there are none."""
    one = next(iter(found)) if len(found) == 1 else 0.0
    return BatchUnit(int(one) if one >= 1 and one == int(one) else None)
