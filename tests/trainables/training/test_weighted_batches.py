"""Micro-batches, workers, ghost batches, noise and chunks come to the loss of the whole batch for every task.

All in float64 and by the reasoning of test_parallel: results differ by roundings of sums in another order. Weights vary
from 0 to 1, and sequences are padded to lengths from 0 to 5, so a mean of the parts' means would be far off.
"""

import functools
import json
import os
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from agreement import assert_same
from narrow import as_a
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.data import Dataset
from trainables.tasks.by_name import load_task
from trainables.training import evaluate as evaluation
from trainables.training.evaluate import evaluate
from trainables.training.loop import Training
from trainables.training.matched_noise import noise_factors
from trainables.training.parallel import Workers

EXAMPLES, TESTED = 27, 11
CPU = torch.device("cpu")
SGD = {"optimizer": "sgd", "learning_rate": 0.05}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "language": ("language", {"dropout": 0.3}),
    "language, noise": ("language", {"noise_batch_size": 3}),
    "language, sam, smoothed": ("language", {"sam_radius": 0.05, "label_smoothing": 0.1}),
    "regression, ghost": ("regression", {"ghost_batch_size": 3}),
    "multilabel": ("multilabel", {}),
    "binary, smoothed": ("binary", {"label_smoothing": 0.1}),
    "weighted": ("weighted_tasks:Weighted", {"input_adversary": 0.01}),
    "weighted, ghost, noise": ("weighted_tasks:Weighted", {"ghost_batch_size": 3, "noise_batch_size": 3}),
    "weighted, line search": (
        "weighted_tasks:Weighted",
        {"optimizer": "gradient_descent", "learning_rate": 1.0, "batch_size": EXAMPLES},
    ),
    "mixed": ("weighted_tasks:Mixed", {}),
    "mixed, ghost": ("weighted_tasks:Mixed", {"ghost_batch_size": 3}),
}


class Network(nn.Module):
    """Numbers (N, 4) or tokens (N, 5) of 6 kinds to `outputs` numbers, in a dictionary where there is one name."""

    def __init__(self, outputs: int, of_tokens: bool, batch_norm: bool, dropout: float, name: str | None) -> None:
        super().__init__()
        first: nn.Module = nn.Embedding(6, 5) if of_tokens else nn.Linear(4, 5)
        norm = [nn.BatchNorm1d(5, 0.1)] if batch_norm else []
        self.layers = nn.Sequential(first, *norm, nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, outputs))
        self.name = name

    def forward(self, inputs: Tensor) -> Any:
        outputs = self.layers(inputs)
        return outputs if self.name is None else {self.name: outputs}


def labels_of(task: str, count: int) -> Tensor:
    torch.manual_seed(2)
    if task == "language":
        tokens = torch.randint(6, (count, 5))
        lengths = torch.randint(6, (count,))
        return tokens.masked_fill(torch.arange(5) >= lengths[:, None], -100)
    if task == "regression":
        return torch.randn(count, 2, dtype=torch.float64)
    if task == "multilabel":
        return torch.randint(2, (count, 3)).double()
    if task == "binary":
        return torch.randint(2, (count,))
    return torch.stack([torch.randn(count), torch.rand(count) * torch.randint(2, (count,))], 1).double()


def data(task: str) -> Dataset:
    count = EXAMPLES + TESTED
    torch.manual_seed(1)
    inputs = torch.randint(6, (count, 5)) if task == "language" else torch.rand(count, 4, dtype=torch.float64)
    labels = labels_of(task, count)
    classes = 6 if task == "language" else 2
    return Dataset(inputs[:EXAMPLES], labels[:EXAMPLES], inputs[EXAMPLES:], labels[EXAMPLES:], classes, task)


def network(task: str, batch_norm: bool = False, dropout: float = 0.0) -> nn.Module:
    outputs = {"language": 6, "regression": 2, "multilabel": 3}.get(task, 1)
    torch.manual_seed(0)
    return Network(outputs, task == "language", batch_norm, dropout, "value" if ":" in task else None).double()


def training_of(case: str, workers: Workers | None = None, micro_batch_size: int | None = None) -> Training:
    task, changes = CASES[case]
    changes = dict(changes)
    model = network(task, "ghost_batch_size" in changes, changes.pop("dropout", 0.0))
    fields: dict[str, Any] = {"batch_size": 10, "dataset": "made up", "data_fingerprint": "", "epochs": 2, **SGD}
    sizes = {"train_size": EXAMPLES, "test_size": TESTED, "measure_examples": EXAMPLES}
    return Training(TrialConfig(**fields | sizes | changes), model, data(task), workers, micro_batch_size)


def trained(case: str, workers: Workers | None = None, micro_batch_size: int | None = None) -> dict[str, Any]:
    """The numbers of two epochs."""
    training = training_of(case, workers, micro_batch_size)
    for _ in range(2):
        training.train_epoch()
    rows = [{**row, "metrics": json.loads(row["metrics"] or "{}"), "seconds": 0.0} for row in training.epochs]
    return {"model": training.model.state_dict(), "epochs": rows}


def work(rank: int, count: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=count)
    workers = Workers.of_process_group(CPU)
    found = {case: trained(case, workers) for case in CASES}
    few = data("binary")
    found["one example"] = vars(evaluation_of(workers, network("binary"), few.train_inputs[:1], few.train_labels[:1]))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def evaluation_of(workers: Workers, model: nn.Module, inputs: Tensor, labels: Tensor) -> Any:
    from trainables.training.parallel import evaluate_together

    return evaluate_together(workers, model, inputs, labels, task=load_task("binary"))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of 3 workers came to."""
    folder = tmp_path_factory.mktemp("workers")
    context = processes.get_context("forkserver")
    context.set_forkserver_preload(["torch", "trainables.training.loop"])
    members = [context.Process(target=work, args=(rank, 3, str(folder)), daemon=True) for rank in range(3)]
    for member in members:
        member.start()
    for member in members:
        member.join(600)
        assert member.exitcode == 0
    return [torch.load(folder / f"{rank}.pt") for rank in range(3)]


alone = functools.cache(trained)


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_change_nothing(case: str) -> None:
    assert_same(trained(case, micro_batch_size=4), alone(case))


@pytest.mark.parametrize("case", CASES)
def test_workers_come_to_the_numbers_of_one(together: list[dict[str, Any]], case: str) -> None:
    assert_same(together[0][case], alone(case))
    for other in together[1:]:
        assert_same(other[case], together[0][case])


def test_fewer_examples_than_workers(together: list[dict[str, Any]]) -> None:
    few = data("binary")
    alone = evaluation_of(Workers(), network("binary"), few.train_inputs[:1], few.train_labels[:1])
    assert_same(together[2]["one example"], vars(alone))


@pytest.mark.parametrize("case", ["language", "weighted", "regression, ghost", "multilabel", "binary, smoothed"])
def test_evaluation_is_the_weighted_mean_over_the_units_of_all_chunks(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = training_of(case)
    own, model, task = training.data, training.model.eval(), training.task
    with torch.no_grad():
        outputs = model(own.train_inputs)
        losses = task.loss(outputs, as_a(Tensor, own.train_labels)).flatten().tolist()
    weights = task.weights(as_a(Tensor, own.train_labels))
    shares = [1.0] * len(losses) if weights is None else weights.flatten().tolist()
    expected = sum(share * loss for share, loss in zip(shares, losses, strict=True) if share) / sum(shares)
    whole = evaluate(model, own.train_inputs, own.train_labels, task)
    assert whole.loss == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(evaluation, "CHUNK_NUMBERS", 4 * 5 * evaluation.TOKEN_NUMBERS if case == "language" else 16)
    assert_same(vars(evaluate(model, own.train_inputs, own.train_labels, task)), vars(whole))


def test_a_batch_of_padding_alone_moves_nothing() -> None:
    training = training_of("language")
    as_a(Tensor, training.data.train_labels)[:] = -100
    before = [parameter.detach().clone() for parameter in training.model.parameters()]
    training.pass_over_data()
    assert all(torch.equal(old, new) for old, new in zip(before, training.model.parameters(), strict=True))


def test_padding_is_worth_nothing() -> None:
    """Sequences of 2 and 4 tokens, padded, weigh as one batch of their 6 tokens."""
    task = load_task("language")
    logits = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[3, 1, -100, -100, -100], [0, 5, 2, 2, -100]])
    tokens = [(logits[0, 0], 3), (logits[0, 1], 1), *((logits[1, t], int(labels[1, t])) for t in range(4))]
    expected = sum(float(z.logsumexp(0) - z[y]) for z, y in tokens) / 6
    assert float(task.mean_loss(logits, labels)) == pytest.approx(expected, rel=1e-14)
    garbage = logits.masked_fill((labels == -100)[..., None], torch.nan)
    assert float(task.mean_loss(garbage, labels)) == pytest.approx(expected, rel=1e-14)


def test_noise_does_not_scale_what_all_examples_share() -> None:
    weights = torch.tensor([1.0, 0.0, 5.0, 2.0, 2.0])
    for seed in range(20):
        factors = noise_factors(5, 2, torch.Generator().manual_seed(seed), weights)
        assert float(factors @ weights) == pytest.approx(10.0, abs=1e-4)
