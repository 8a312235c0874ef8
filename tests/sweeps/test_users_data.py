"""Data of a user's own that may not be meant as they are: a sweep says so before it starts."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

import trainables.data
from sweeps.studies.study import source_of
from trainables.runtime.importing import importing_alike

CODE = """
import os, signal, time
import numpy as np
time.sleep(0.3)  # only the function counts, not the import
def made(least, seed):
    r = np.random.default_rng(seed)
    return r.normal(size=(20, 2)), least + np.arange(20) % 2, None, None
def fixed(): return made(0, 0)
def from_one(): return made(1, 0)
def afresh(): return made(0, None)
def rare(): return made(0, 0)[0], 1 * (np.arange(20) < 2), None, None
def one_of_three(): return made(0, 0)[0], np.arange(20).clip(17, 19) - 17, None, None
def global_generator():
    return np.random.normal(size=(20, 2)), np.arange(20) % 2, None, None
def slowly():
    time.sleep(0.3)
    return afresh()
def exits(): os._exit(7)
def crashes(): os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fixed", ""),
        ("global_generator", ""),  # which is seeded
        ("from_one", "warning: the labels of data_of_user:from_one start at 1, so the classes below have no examples"),
        (
            "rare",
            "warning: 90 % of the labels of data_of_user:rare are 0, which is the accuracy of a network that gives "
            "this answer alone; --task binary judges by AUC\n",
        ),
        (
            "one_of_three",
            "warning: 90 % of the labels of data_of_user:one_of_three are 0, which is the accuracy of a "
            "network that gives this answer alone; balanced accuracy is kept in `metrics`\n",
        ),
        ("slowly", ""),  # too slow for a second call
        ("afresh", "warning: data_of_user:afresh returns other data each time it is called, so trials cannot be"),
    ],
)
def test_what_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, told: str
) -> None:
    (tmp_path / "data_of_user.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "data_of_user", raising=False)
    monkeypatch.setattr(trainables.data, "SECOND_CALL_SECONDS", 0.2)
    options = argparse.Namespace(data_dir=Path("data"), download=False, dataset_options=[], task=None, cache_dir=None)
    source_of(options, f"data_of_user:{name}")
    error = capsys.readouterr().err
    assert error.startswith(told)
    assert error.count("\n") == bool(told)


@pytest.mark.parametrize(("name", "status"), [("exits", 7), ("crashes", -11)])
def test_one_that_ends_the_process(tmp_path: Path, name: str, status: int) -> None:
    (tmp_path / "data_of_user.py").write_text(CODE)
    code = f"from trainables.data import load_source; load_source('data_of_user:{name}')"
    environment = {**os.environ, **importing_alike()}
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == status
    assert found.stderr == f"error: `dataset` data_of_user:{name} has ended the process that called it\n"
