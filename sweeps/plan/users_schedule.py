"""What a sweep must know of a user's own schedule before its trials have their IDs."""

from typing import Any

from sweeps.plan.users_network import fingerprint_of_source
from trainables.runtime.importing import is_import_path


def schedule_fingerprint(decay: str | None) -> dict[str, Any]:
    """The field with the fingerprint of the source of `decay`, a user's function; none for a built-in decay.

    Raises UserError for a function that cannot be imported, or has no finite factor at 0, 1/2 and 1.
    """
    if decay is None or not is_import_path(decay):
        return {}
    return {"decay_fingerprint": fingerprint_of_source(decay, "decay")}
