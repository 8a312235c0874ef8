"""What a batch size and an amount of data are told in: examples, and of a language model tokens too.

An example of a language model is a sequence of T tokens, so a batch of B examples has B T tokens.
"""

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

    def batch(self, size: int) -> str:
        """`32`, or `32 (1024 tokens)`."""
        return f"{size}" if self.tokens is None else f"{size} ({size * self.tokens} tokens)"


EXAMPLES = BatchUnit()


def batch_unit_of(trials: pd.DataFrame) -> BatchUnit:
    """The unit of trials with the columns `examples` and `tokens` of trials.parquet."""
    begun = trials[trials["examples"] > 0]
    found = (begun["tokens"] / begun["examples"]).unique().tolist()
    one = found[0] if len(found) == 1 else 0.0
    return BatchUnit(int(one) if one >= 1 and one == int(one) else None)
