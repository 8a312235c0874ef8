"""Token ids of a text or of pairs of texts, kept in the cache and mapped, so that a second start tokenizes nothing.

The arrays of an entry are .npy files of the smallest type that holds the vocabulary. All processes of a machine map
them and share one copy. A broken entry is rebuilt: each file must have the size and the time of change that the facts
of the entry say. The arrays of a text do not depend on `context`, but its fingerprint does; an entry keeps one
fingerprint for each context. Trap: whoever changes the ids that a text has must raise FORMAT in trainables.data.cache.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.cache import Entry
from trainables.data.mapped import stamp_of

Arrays = Mapping[str, NDArray[Any]]


def kept_tokens(entry: Entry, tokenize: Callable[[], tuple[Arrays, int]]) -> tuple[Arrays, int]:
    """The arrays by name and the vocabulary that `tokenize` returns, the arrays mapped from `entry`.

    `tokenize` is called only if the entry does not have them, by one process at a time.
    """
    found = _mapped(entry)
    if found is None:
        with entry.locked():
            found = _mapped(entry)  # another process may have made them in the meantime
            if found is None:
                arrays, vocabulary = tokenize()
                entry.keep({}, arrays)
                stamps = {name: stamp_of(entry.file(name)) for name in arrays}
                entry.keep({"vocabulary": vocabulary, "stamps": stamps, "fingerprints": {}})
                found = {name: entry.array(name) for name in arrays}, vocabulary
    return found


def id_type(vocabulary: int) -> type[np.unsignedinteger[Any]]:
    """The smallest type of token ids that PyTorch and token files have."""
    return np.uint16 if vocabulary <= 2**16 else np.uint32


def _mapped(entry: Entry) -> tuple[Arrays, int] | None:
    facts = entry.facts() or {}
    stamps, vocabulary = facts.get("stamps"), facts.get("vocabulary")
    if not isinstance(stamps, dict) or not stamps or not isinstance(vocabulary, int):
        return None
    try:
        if any(list(stamp_of(entry.file(name))) != stamp for name, stamp in stamps.items()):
            return None
        return {name: entry.array(name) for name in stamps}, vocabulary
    except (OSError, ValueError):
        return None
