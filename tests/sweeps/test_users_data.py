"""Data of a user's own that may not be meant as they are: a sweep says so before it starts."""

import argparse
from pathlib import Path

import pytest

from sweeps.studies.study import source_of

CODE = """
import numpy as np
def made(least, seed):
    r = np.random.default_rng(seed)
    return r.normal(size=(20, 2)), least + np.arange(20) % 2, None, None
def fixed(): return made(0, 0)
def from_one(): return made(1, 0)
def afresh(): return made(0, None)
def global_generator():
    return np.random.normal(size=(20, 2)), np.arange(20) % 2, None, None
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fixed", ""),
        ("global_generator", ""),  # which is seeded
        ("from_one", "warning: the labels of data_of_user:from_one start at 1, so the classes below have no examples"),
        ("afresh", "warning: data_of_user:afresh returns other data each time it is called, so trials cannot be"),
    ],
)
def test_what_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, told: str
) -> None:
    (tmp_path / "data_of_user.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = argparse.Namespace(data_dir=Path("data"), download=False, dataset_options=[], task=None, cache_dir=None)
    source_of(options, f"data_of_user:{name}")
    error = capsys.readouterr().err
    assert error.startswith(told)
    assert error.count("\n") == bool(told)
