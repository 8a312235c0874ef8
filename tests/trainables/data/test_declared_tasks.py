"""Datasets that say what they are for, and labels that are read for another task."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeps.plan.grid import Grid, expand
from trainables.data import load_source
from trainables.records.saved import config_of, network_of, source_of, split_of
from trainables.records.tables import compact, read_tables, write_record
from trainables.runtime.errors import UserError
from trainables.trial import run_trial

DATA = """
import numpy as np
x = np.random.default_rng(0).normal(size=(40, 3))
def numbers(): return x, x[:, 0], None, None, "regression"
def several(): return x, x[:, :2], x[:5], x[:5, :2], "regression"
def floats(): return x, x[:, 0], None, None
def marks(): return x, (x > 0).astype(int), None, None, "multilabel"
def bools(): return x, x > 0, None, None, "multilabel"
def rare(): return x, (x[:, 0] > 1).astype(int), None, None, "binary"
def classes(): return x, (x[:, 0] > 1).astype(int), None, None
def own(): return x, x[:, :2], None, None, "declared_tasks:Sum"
def unknown(): return x, x[:, 0], None, None, "ranking"
def holes(): return x, np.where(x[:, 0] > 1, np.nan, 1.0), None, None, "regression"
def short(): return x, x[:5, 0], None, None, "regression"
def words(): return x, np.array(["a"] * 40), None, None, "regression"
def padded():
    t = np.arange(40).reshape(8, 5) % 3
    return t, np.where(t == 2, -100, t), None, None
def empty(): return np.ones((4, 5), int), np.full((4, 5), -100), None, None
class Sum:
    def loss(self, outputs, labels): return (outputs.sum(1) - labels.sum(1)).square()
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "declared_tasks.py").write_text(DATA)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("name", "task", "kind", "shape"),
    [
        ("numbers", "regression", np.float32, ()),
        ("several", "regression", np.float32, (2,)),
        ("marks", "multilabel", np.float32, (3,)),
        ("bools", "multilabel", np.float32, (3,)),
        ("rare", "binary", np.int64, ()),
        ("classes", "classification", np.int64, ()),
        ("own", "declared_tasks:Sum", np.float32, (2,)),
        ("padded", "language", np.int64, (5,)),
    ],
)
def test_what_a_dataset_declares(name: str, task: str, kind: type, shape: tuple[int, ...]) -> None:
    source = load_source(f"declared_tasks:{name}")
    assert (source.task, source.dataset_task) == (task, task)
    assert (source.labels.dtype, source.labels.shape[1:]) == (np.dtype(kind), shape)
    assert source.split(6, 1, 0).task == task


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("floats", None, "must return integer labels, .*; --task regression, multilabel or binary takes others"),
        ("unknown", None, "must return a task as its fifth value, one of .*, got 'ranking'"),
        ("holes", None, "finite labels, got NaN or infinity in the training set"),
        ("short", None, "labels for each training input, got inputs of shape"),
        ("words", None, "labels that are numbers, got <U1"),
        ("empty", None, r"labels in the training set, got only -100 \(padding\)"),
        ("numbers", "classification", "must return integer labels"),
        ("classes", "language", "`task` language must be given for a dataset of tokens"),
        ("classes", "clustering", "`task` must be one of classification, .*, got 'clustering'"),
        ("padded", "classification", "labels from 0 to 2, got -100 to 1"),
    ],
)
def test_refused(name: str, task: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_source(f"declared_tasks:{name}", task=task)


def test_another_task_is_another_trial(tmp_path: Path) -> None:
    """The dataset's own task is in the trial's ID by the fingerprint of the data, another one by its name."""

    def trial(name: str, task: str | None = None) -> Any:
        source = load_source(f"declared_tasks:{name}", task=task)
        grid = Grid(
            batch_sizes=[8], learning_rates=[0.1], model_options={"widths": [4]}, epochs=1, train_size=30, measures=()
        )
        (config,) = expand(grid, source)
        return source, config

    plain, rare, asked = trial("classes")[1], trial("rare")[1], trial("classes", "binary")[1]
    assert (plain.task, rare.task, asked.task) == (None, None, "binary")
    assert len({config.trial_id for config in (plain, rare, asked, trial("floats", "regression")[1])}) == 4
    assert trial("classes", "classification")[1] == plain
    own = trial("own")[1]
    assert own.task is None
    assert own.task_fingerprint is not None
    (tmp_path / "trials").mkdir()
    for source, config in (trial("classes", "binary"), trial("own"), trial("numbers")):
        write_record(tmp_path, run_trial(config, source))
        compact(tmp_path)
        row = next(row for row in read_tables(tmp_path).trials.to_pylist() if row["trial_id"] == config.trial_id)
        assert config_of(row) == config
        again = source_of(config_of(row))
        assert again.task == source.task
        assert network_of(config, split_of(config, again)) is not None
    assert {row["task"] for row in read_tables(tmp_path).trials.to_pylist()} == {
        "binary", "declared_tasks:Sum", "regression",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "task", "used"),
    [
        (np.arange(8) % 3, None, "classification"),
        (np.arange(8) % 2, "binary", "binary"),
        (np.linspace(0, 1, 8), None, "regression"),
        (np.eye(8, 3, dtype=np.uint8), None, "multilabel"),
        (np.eye(8, 3), "multilabel", "multilabel"),
    ],
)
def test_array_files_tell_their_task_by_their_labels(tmp_path: Path, labels: Any, task: str | None, used: str) -> None:
    np.save(tmp_path / "train_inputs.npy", np.ones((8, 4)))
    np.save(tmp_path / "train_labels.npy", labels)
    source = load_source("arrays", root=tmp_path, task=task, cache_dir=tmp_path / "cache")
    assert source.task == used
    assert (source.labels.dtype == np.float32) == (used in ("regression", "multilabel"))
    np.testing.assert_allclose(source.labels, labels, rtol=1e-7)
