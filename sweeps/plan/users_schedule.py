"""What a sweep must know of a user's own schedule before its trials have their IDs."""

from functools import lru_cache
from typing import Any

from trainables.runtime.importing import is_import_path


@lru_cache
def schedule_fingerprint(decay: str | None) -> dict[str, Any]:
    """The field with the fingerprint of the source of `decay`, a user's function; none for a built-in decay.

    Raises UserError for a function that cannot be imported, or has no finite factor at 0, 1/2 and 1.
    """
    if decay is None or not is_import_path(decay):
        return {}
    from trainables.models.fingerprints import source_fingerprint  # brings PyTorch
    from trainables.training.schedule import check_decay_function

    check_decay_function(decay)
    return {"decay_fingerprint": source_fingerprint(decay, "decay")}
