"""Warnings before a sweep about code of a user's own whose results depend on what they should not."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeps.plan.grid import Grid, expand
from trainables.brief_trials import doubts_about_code
from trainables.data import Source

CODE = """
import torch
from torch import nn
from torch.nn import functional as F
from trainables.models.of_config import build

class Base(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.linear = nn.Linear(64, classes)
    def forward(self, x):
        return self.linear(x.flatten(1))

class Counts(Base):  # the training passes, outside of its buffers
    passes = 0
    def forward(self, x):
        self.passes += self.training
        return super().forward(x) * (1 + self.passes)

class Centers(Base):
    def __init__(self, shape, classes, persistent=False):
        super().__init__(shape, classes)
        self.register_buffer("mean", torch.zeros(64), persistent=persistent)
    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.linear(x - self.mean)

class Draws(Base):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.draws = torch.Generator().manual_seed(0)
    def forward(self, x):
        return super().forward(x + torch.randn(x.shape, generator=self.draws) if self.training else x)

class Recurrent(nn.Module):
    def __init__(self, shape, classes, batch_first=False):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 8, batch_first=batch_first), nn.Linear(8, classes)
    def forward(self, x):
        return self.head(self.lstm(x.flatten(1, 2))[0][:, -1])

class Normalized(Base):
    def __init__(self, shape, classes, track_running_stats=False):
        super().__init__(shape, classes)
        self.norm = nn.BatchNorm1d(classes, track_running_stats=track_running_stats)
    def forward(self, x):
        return self.norm(super().forward(x))

class Softmax(Base):
    def forward(self, x):
        return super().forward(x).softmax(-1)

class LogSoftmax(Base):  # the cross-entropy of these is that of the logits
    def forward(self, x):
        return super().forward(x).log_softmax(-1)

class Dropped(Base):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.2, self.training)

class Language(nn.Module):
    def __init__(self, shape, classes, causal=False):
        super().__init__()
        self.embedding, self.head, self.causal = nn.Embedding(classes, 8), nn.Linear(8, classes), causal
        self.block = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.causal else None
        return self.head(self.block(self.embedding(x), mask))

class Contrast:
    def loss(self, outputs, labels):
        alike = outputs @ outputs.T
        return F.cross_entropy(alike, torch.arange(len(labels)), reduction="none")

class Detached:
    def loss(self, outputs, labels):
        return F.cross_entropy(outputs.detach(), labels, reduction="none") + 0 * outputs.sum()

class Sgd:
    def __init__(self, config, data):
        self.model = build(config, data)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0, momentum=0.9)
    def step(self, inputs, labels, learning_rate):
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(inputs), labels).backward()
        self.optimizer.step()
    def state_dict(self):
        return self.optimizer.state_dict()
    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state)

class Forgets(Sgd):
    def state_dict(self):
        return {}
    def load_state_dict(self, state):
        pass
"""

RESUMED = "continues differently after it is saved and loaded, so interrupted trials end with other results"
OF_BATCH = "gives an example another loss with other examples in its batch, also in evaluation mode"

IDLE = "`--task` doubtful_code:Detached with --model mlp changes no parameter of its model in 100 steps"


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "doubtful_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))


def lines(source: Source, **fields: Any) -> list[str]:
    about: dict[str, Any] = {"batch_sizes": [30], "learning_rates": [0.05], "train_size": 300, "epochs": 3}
    grid = Grid(**about | {"model_options": {}, "measures": ()} | fields)
    return list(doubts_about_code(expand(grid, source), source))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Counts", RESUMED),
        ("Centers", RESUMED),
        ("Draws", RESUMED),
        ("Recurrent", OF_BATCH),
        ("Normalized", OF_BATCH),
        ("Softmax", "gives probabilities, but the cross-entropy takes logits"),
    ],
)
def test_networks(digits: Source, name: str, told: str) -> None:
    (line,) = lines(digits, model=f"doubtful_code:{name}")
    assert line.startswith(f"`--model` doubtful_code:{name} {told}")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Base", {}),
        ("Dropped", {}),
        ("LogSoftmax", {}),
        ("Centers", {"persistent": True}),
        ("Recurrent", {"batch_first": True}),
        ("Normalized", {"track_running_stats": True}),
    ],
)
def test_networks_without_doubt(digits: Source, name: str, options: dict[str, Any]) -> None:
    assert lines(digits, model=f"doubtful_code:{name}", model_options=options) == []


def test_tasks_and_steps(digits: Source) -> None:
    (line,) = lines(dataclasses.replace(digits, task="doubtful_code:Contrast"))
    assert line.startswith(f"`--task` doubtful_code:Contrast with --model mlp {OF_BATCH}")
    (line,) = lines(dataclasses.replace(digits, task="doubtful_code:Detached"))
    assert line == f"{IDLE} on a few examples"
    assert lines(digits, trial="doubtful_code:Sgd") == []
    (line,) = lines(digits, trial="doubtful_code:Forgets")
    assert line.startswith(f"`--trial` doubtful_code:Forgets {RESUMED}")


def test_language_models() -> None:
    """Without a causal mask a network sees the next tokens, but where they are not the labels, it may."""
    tokens = np.random.default_rng(0).integers(0, 7, (60, 6))
    parts = tokens[:50, :-1], tokens[:50, 1:], tokens[50:, :-1], tokens[50:, 1:]
    text = Source("mine", *parts, 7, task="language")
    (line,) = lines(text, model="doubtful_code:Language", train_size=40)
    assert line.startswith("`--model` doubtful_code:Language sees the next tokens, which are the labels, so its losses")
    assert lines(text, model="doubtful_code:Language", model_options={"causal": True}, train_size=40) == []
    tagged = Source("mine", parts[0], parts[0] % 3, parts[2], parts[2] % 3, 7, task="language")
    assert lines(tagged, model="doubtful_code:Language", train_size=40) == []
