"""The fixture that writes a made-up sweep; its records are made in made_up.py."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from made_up import write

from trainables.records.tables import Record


@pytest.fixture
def write_sweep(tmp_path: Path) -> Callable[..., Path]:
    """`write_sweep(records, name="sweep")`: a results folder with real Parquet files; returns its path."""

    def write_named(records: Iterable[Record], name: str = "sweep") -> Path:
        return write(tmp_path / name, records)

    return write_named
