"""What identifies a trial: `trial_key`, the hash of its configuration.

`TrialConfig.trial_id` (trainables.config) is that of all that decides the training; `TrialConfig.warm_start_id` that of
all that decides it up to a switch.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection
from typing import Any


def trial_key(canonical: Any, left_out: Collection[str], numbers_version: int) -> str:
    """16 hexadecimal digits: SHA-256 of `numbers_version` and of a canonical TrialConfig, but for some fields.

    Fields of `left_out` and those at their defaults do not enter, so that a field added later leaves the keys of old
    trials alone.
    """
    fields = {field.name: (getattr(canonical, field.name), field.default) for field in dataclasses.fields(canonical)}
    content = {name: value for name, (value, default) in fields.items() if value != default and name not in left_out}
    if canonical.train_loss_examples is not None:
        content["train_loss_examples"] = canonical.train_loss_examples
    text = json.dumps({"numbers_version": numbers_version, **content}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
