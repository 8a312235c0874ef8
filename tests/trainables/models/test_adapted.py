"""Networks of users that return objects, take token ids or have sparse embeddings work; others are named in a line."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from narrow import as_a
from torch import Tensor

from trainables.check import check_trial, check_trials
from trainables.config import TrialConfig
from trainables.data import Source, load_source
from trainables.models import build_model
from trainables.runtime.errors import UserError
from trainables.trial import run_trial

MODELS = """
import math
from types import SimpleNamespace
import torch
from torch import nn

class Ids(nn.Module):
    def __init__(self, classes, sparse=False, kind=None):
        super().__init__()
        self.e, self.o, self.kind = nn.Embedding(50, 4, sparse=sparse), nn.Linear(4, classes), kind
    def forward(self, x):
        logits = self.o(self.e(x).mean(1))
        return {"logits": logits} if self.kind == "dict" else SimpleNamespace(logits=logits) if self.kind else logits

class Caches(nn.Linear):
    table = None
    def forward(self, x):
        if self.table is None:
            self.table = torch.ones(x.shape[1], dtype=x.dtype) * 2
        return super().forward(x.flatten(1) * self.table)

def ids(shape, classes): return Ids(classes)
def sparse(shape, classes): return Ids(classes, sparse=True)
def dictionary(shape, classes): return Ids(classes, kind="dict")
def object_(shape, classes): return Ids(classes, kind="object")
def caches(shape, classes): return Caches(math.prod(shape), classes)
def keyword_only(*, weights=None): raise AssertionError("was called")
def batch_norm(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(math.prod(shape)), nn.Linear(math.prod(shape), classes))

import numpy as np
def column():
    r = np.random.default_rng(0)
    return r.integers(0, 50, (80, 7)), r.integers(0, 3, (80, 1)), r.integers(0, 50, (60, 7)), r.integers(0, 3, (60, 1))
def dictionaries(): return {"a": np.zeros((4, 2))}, np.arange(4), None, None
"""


@pytest.fixture(autouse=True)
def users_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapted_code.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))


def config_of(source: Source, model: str, **changes: object) -> TrialConfig:
    fields: dict[str, object] = {
        "dataset": source.name, "data_fingerprint": "", "train_size": 80, "test_size": 60, "model": model,
        "learning_rate": 0.01, "batch_size": 20, "epochs": 2, "measure_examples": 20, "measures": "hessian_max_eig",
    }  # fmt: skip
    return TrialConfig(**fields | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ids", "sparse", "dictionary", "object_", "caches"])
def test_it_is_trained_and_measured(name: str) -> None:
    source = load_source("adapted_code:column")
    assert source.labels.shape == (80,)
    record = run_trial(config_of(source, f"adapted_code:{name}"), source)
    assert record.trial["status"] == "completed"
    (row,) = record.measures
    assert row.get("error") is None
    assert math.isfinite(row["value"])


def test_token_ids_reach_the_network_unchanged() -> None:
    source = load_source("adapted_code:column")
    model = build_model("adapted_code:ids", (7,), 3).eval()
    ids = torch.from_numpy(np.asarray(source.inputs))
    embedded = torch.nn.functional.embedding(ids.long(), as_a(Tensor, model.e.weight)).mean(1)  # type: ignore[union-attr]
    expected = torch.nn.functional.linear(embedded, model.o.weight, model.o.bias)  # type: ignore[union-attr,arg-type]
    assert torch.equal(model(ids), expected)


def test_what_cannot_work_is_named() -> None:
    source = load_source("adapted_code:column")
    with pytest.raises(
        UserError, match=r"must be a function of \(input_shape, num_classes\), got adapted_code:keyword"
    ):
        build_model("adapted_code:keyword_only", (7,), 3)
    with pytest.raises(UserError, match=r"adapted_code:batch_norm cannot train at batch size 1: it raises ValueError"):
        check_trials([config_of(source, "adapted_code:batch_norm", batch_size=1)], source, None, None, 1)
    check_trial(config_of(source, "adapted_code:batch_norm"), source)
    with pytest.raises(UserError, match="must return one array of inputs, got a dictionary"):
        load_source("adapted_code:dictionaries")
