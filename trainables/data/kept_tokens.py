"""Token ids of a text or of pairs of texts, kept in the cache and mapped, so that a second start tokenizes nothing.

The arrays of an entry are .npy files of the smallest type that holds the vocabulary. All processes of a machine map
them and share one copy. The arrays of a text do not depend on `context`, but its fingerprint does; an entry keeps one
fingerprint for each context. Trap: whoever changes the ids that a text has must raise FORMAT in trainables.data.cache.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.cache import Entry

Arrays = Mapping[str, NDArray[Any]]


def kept_tokens(entry: Entry, names: Iterable[str], tokenize: Callable[[], tuple[Arrays, int]]) -> tuple[Arrays, int]:
    """The arrays `names` and the vocabulary that `tokenize` returns, the arrays mapped from `entry`.

    `tokenize` is called only if the entry does not have them, by one process at a time.
    """
    names = list(names)

    def keep(_: list[Path]) -> dict[str, Any]:
        arrays, vocabulary = tokenize()
        entry.keep({}, arrays)
        return {"vocabulary": vocabulary}

    facts = entry.made([entry.file(name).name for name in names], keep)
    return {name: entry.array(name) for name in names}, facts["vocabulary"]


def id_type(vocabulary: int) -> type[np.unsignedinteger[Any]]:
    """The smallest type of token ids that PyTorch and token files have."""
    return np.uint16 if vocabulary <= 2**16 else np.uint32
