"""Batches in parts: micro-batches and workers (gloo, on CPUs) come to the numbers of one worker, to rounding.

All in float64. A result is at most 40 updates of sums of at most 400 terms, in another order, and the networks carry a
rounding on almost unchanged: moving all weights by a relative 1e-9 moves no result by more than 7e-9. So results differ
by at most 7 * 40 * 400 * 2^-53 = 1.3e-11 in proportion to their terms, which the tolerance of 1e-9 leaves room for.
Two things make them that well-conditioned. Batch norm has eps = 0.1: with the usual 1e-5, two examples that agree in a
channel differ by a rounding, which it divides by sqrt(eps), and the same move changed "sam, ghost" by 2e-3. And Adam is
tried without batch norm: a bias before it has a gradient of 0, whose rounding Adam scales up to a whole step.
"""

import json
import os
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from agreement import assert_same
from narrow import as_a
from torch import Tensor, nn

from trainables.check import check_parts
from trainables.config import TrialConfig
from trainables.data import Dataset, Source
from trainables.measures.shared_loss import share
from trainables.runtime.errors import UserError
from trainables.sharpness import GaussNewton, ModelLoss, hessian_eigenvalues
from trainables.training.ghost_batch_norm import use_ghost_batch_norm
from trainables.training.loop import Training
from trainables.training.parallel import Workers, evaluate_together
from trainables.training.parts import Parts

EXAMPLES = 27  # batches of 10, 10, 7
EPS = 0.1  # of batch norm; see above
CPU = torch.device("cpu")


class Network(nn.Module):
    """A convolution and two linear layers, with batch norm and dropout, or without."""

    def __init__(
        self, batch_norm: bool, dropout: float, momentum: float | None = 0.1, channels_last: bool = False
    ) -> None:
        super().__init__()
        of_images = nn.Dropout(dropout) if channels_last else nn.Dropout2d(dropout)
        norm = [nn.BatchNorm2d(4, EPS, momentum)] if batch_norm else []
        last = [nn.BatchNorm1d(6, EPS, momentum)] if batch_norm else []
        self.layers = nn.Sequential(
            nn.Conv2d(2, 4, 3), *norm, nn.Tanh(), of_images, nn.Flatten(),
            nn.Linear(64, 6), *last, nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 3),
        )  # fmt: skip
        if channels_last:
            self.layers.to(memory_format=torch.channels_last)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)  # type: ignore[no-any-return]


NORMED = {"batch_norm": True, "dropout": 0.0}
PLAIN = {"batch_norm": False, "dropout": 0.0}
LAST = {"batch_norm": True, "dropout": 0.3, "channels_last": True}
SGD = {"optimizer": "sgd", "learning_rate": 0.1}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "adam": (PLAIN, {}),
    "synchronized": (NORMED, SGD),
    "synchronized, cumulative": (NORMED | {"momentum": None}, SGD),
    "ghost 2": (NORMED, SGD | {"ghost_batch_size": 2}),
    "ghost 3, cumulative": (NORMED | {"momentum": None}, SGD | {"ghost_batch_size": 3}),
    "ghost 4: groups of 4, 4, 2": (NORMED, SGD | {"ghost_batch_size": 4}),
    "ghost 5: two groups": (NORMED, SGD | {"ghost_batch_size": 5}),
    "ghost 9: one group of 10": (NORMED, SGD | {"ghost_batch_size": 9}),
    "dropout, augmentation, noise": (
        {"batch_norm": True, "dropout": 0.3},
        SGD | {"augmentation": "crop_flip", "noise_batch_size": 4, "label_smoothing": 0.1, "clip_norm": 0.5},
    ),
    "dropout, ghost": ({"batch_norm": True, "dropout": 0.3}, SGD | {"ghost_batch_size": 2, "augmentation": "paper"}),
    "dropout, channels last": (LAST | {"batch_norm": False}, SGD),
    "dropout, synchronized, channels last": (LAST, SGD),
    "dropout, ghost, channels last": (LAST, SGD | {"ghost_batch_size": 2}),
    "sam": ({"batch_norm": True, "dropout": 0.3}, SGD | {"sam_radius": 0.05}),
    "sam, ghost": ({"batch_norm": True, "dropout": 0.3}, SGD | {"sam_radius": 0.05, "ghost_batch_size": 2}),
    "robust": (NORMED, SGD | {"weight_adversary": 0.05, "ghost_batch_size": 3}),
    "input adversary": (NORMED, SGD | {"input_adversary": 0.01}),
    "input adversary, ghost, dropout": (
        {"batch_norm": True, "dropout": 0.3},
        SGD | {"input_adversary": 0.01, "ghost_batch_size": 2},
    ),
    "proximal": (NORMED, SGD | {"proximal": 0.01}),
    "line search": (NORMED, {"optimizer": "gradient_descent", "learning_rate": 1.0, "batch_size": EXAMPLES}),
    "lbfgs, ghost": (NORMED, {"optimizer": "lbfgs", "batch_size": EXAMPLES, "ghost_batch_size": 4}),
    "batches of 3, larger later": (NORMED, SGD | {"batch_size": 3, "batch_schedule": "1:20"}),
    "batches of 3": ({"batch_norm": False, "dropout": 0.3}, SGD | {"batch_size": 3}),
}
MICRO = {
    "adam": 3, "ghost 2": 2, "ghost 3, cumulative": 4, "ghost 4: groups of 4, 4, 2": 4, "ghost 5: two groups": 5,
    "dropout, ghost": 2, "sam, ghost": 4, "robust": 3, "input adversary, ghost, dropout": 4, "lbfgs, ghost": 4,
    "batches of 3": 2, "dropout, channels last": 3, "dropout, ghost, channels last": 4,
}  # fmt: skip
COUNTS = (2, 4)


def data() -> Dataset:
    torch.manual_seed(1)
    inputs, labels = torch.rand(38, 2, 6, 6, dtype=torch.float64), torch.randint(3, (38,))
    return Dataset(inputs[:EXAMPLES], labels[:EXAMPLES], inputs[EXAMPLES:], labels[EXAMPLES:], 3)


def network(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return Network(**options).double()


def trained(case: str, workers: Workers | None = None, micro_batch_size: int | None = None) -> dict[str, Any]:
    """The numbers of two epochs."""
    options, changes = CASES[case]
    fields: dict[str, Any] = {
        "batch_size": 10,
        "learning_rate": 0.01,
        "dataset": "made up",
        "data_fingerprint": "",
        "epochs": 2,
    }
    sizes = {"train_size": EXAMPLES, "test_size": 11, "measure_examples": EXAMPLES}
    config = TrialConfig(**fields | sizes | changes)
    training = Training(config, network(**options), data(), workers, micro_batch_size)
    for _ in range(2):
        training.train_epoch()
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in training.epochs]
    return {"model": training.model.state_dict(), "epochs": rows}


LOSSES: dict[str, dict[str, Any]] = {
    "running": {},
    "running in chunks": {"chunk_size": 5},
    "batch": {"batch_norm": "batch", "batch_size": 6},
    "batch: fewer than workers": {"batch_norm": "batch", "batch_size": 25},
    "recalibrated": {"batch_norm": "recalibrated"},
    "recalibrated in chunks": {"batch_norm": "recalibrated", "chunk_size": 6},
}


def measured(case: str, workers: Workers) -> dict[str, Any]:
    """Value, gradient, products, and a measure that iterates (where many products do not take long)."""
    model, all_data = network(**NORMED), data()
    model(all_data.train_inputs)  # running statistics of some data
    loss = share(
        ModelLoss(model, as_a(Tensor, all_data.train_inputs), as_a(Tensor, all_data.train_labels), **LOSSES[case]),
        workers,
    )
    direction = torch.linspace(-1, 1, len(loss.params), dtype=torch.float64)
    value, hessian = loss.value_and_hessian(loss.params)
    part = loss.on(torch.arange(3, 17))
    found = {
        "values": [loss.value(loss.params), value, part.value(part.params)],
        "gradient": loss.value_and_gradient(loss.params)[1],
        "hessian": hessian(direction),
        "gauss newton": GaussNewton(loss).hessian(loss.params)(direction),
    }
    if not case.endswith("in chunks"):
        found["eigenvalue"] = hessian_eigenvalues(loss, loss.params).values
    return found


def evaluated(count: int, workers: Workers) -> dict[str, float]:
    all_data = data()
    inputs, labels = all_data.train_inputs[:count], all_data.train_labels[:count]
    return vars(evaluate_together(workers, network(**PLAIN), inputs, labels))


RESULTS: dict[str, Callable[[Workers], dict[str, Any]]] = {
    **{case: partial(trained, case) for case in CASES},
    **{f"{case}, micro": partial(trained, case, micro_batch_size=MICRO[case]) for case in ("adam", "sam, ghost")},
    **{f"loss {case}": partial(measured, case) for case in LOSSES},
    **{f"evaluation of {count}": partial(evaluated, count) for count in (1, EXAMPLES)},
}


def compute(workers: Workers) -> dict[str, Any]:
    return {case: of(workers) for case, of in RESULTS.items()}


def work(rank: int, count: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet-{count}", rank=rank, world_size=count)
    workers = Workers.of_process_group(CPU)
    agreed = [workers.agreed(rank == 0), workers.agreed(rank == 1)]
    torch.save({**compute(workers), "agreed": agreed}, f"{folder}/{count}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return compute(Workers())


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each of 2 and each of 4 workers came to."""
    folder = tmp_path_factory.mktemp("workers")
    context = processes.get_context("forkserver")
    preloaded = ["torch._dynamo", "trainables.training.loop", "trainables.measures.shared_loss"]  # once for all of them
    context.set_forkserver_preload(preloaded)
    members = [context.Process(target=work, args=(r, n, str(folder)), daemon=True) for n in COUNTS for r in range(n)]
    for member in members:
        member.start()
    for member in members:
        member.join(300)
        assert member.exitcode == 0
    return {n: [torch.load(folder / f"{n}-{rank}.pt") for rank in range(n)] for n in COUNTS}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("case", RESULTS)
def test_workers_come_to_the_numbers_of_one(
    alone: dict[str, Any], together: dict[int, list[dict[str, Any]]], case: str, count: int
) -> None:
    assert_same(together[count][0][case], alone[case])


@pytest.mark.parametrize("count", COUNTS)
def test_workers_stay_in_step(together: dict[int, list[dict[str, Any]]], count: int) -> None:
    first, *others = together[count]
    assert first.pop("agreed") == [True, False]
    for other in others:
        assert other.pop("agreed") == [True, False]
        assert json.dumps(first, default=Tensor.tolist) == json.dumps(other, default=Tensor.tolist)  # to the last bit


@pytest.mark.parametrize("case", MICRO)
def test_micro_batches_change_nothing(alone: dict[str, Any], case: str) -> None:
    assert_same(trained(case, micro_batch_size=MICRO[case]), alone[case])


def test_one_part_is_plain_training_to_the_last_bit(alone: dict[str, Any]) -> None:
    for name, value in trained("sam", micro_batch_size=10)["model"].items():
        assert torch.equal(value, alone["sam"]["model"][name])


@pytest.mark.parametrize("workers", [1, 2, 4, 9])
@pytest.mark.parametrize("ghost", [None, 2, 3, 4, 16])
def test_parts_hold_every_example_once_and_whole_groups(workers: int, ghost: int | None) -> None:
    model = network(**PLAIN)
    for micro, count in product((None, 5), (2, 3, 7, 10, 17)):
        own = (Parts(model, Workers(rank, workers), micro, ghost).of(count) for rank in range(workers))
        counted = [part for parts in own for part in parts if part.weight]
        assert sorted(torch.cat([part.rows for part in counted]).tolist()) == list(range(count))
        assert sum(part.weight for part in counted) == pytest.approx(1)
        assert all(len(part.rows) <= (micro or count) for part in counted)


@pytest.mark.parametrize("count", [8, 9, 10, 11, 13])
def test_ghost_batch_norm_sees_its_groups_in_every_part(count: int) -> None:
    """A part's own groups are those that the layer makes of the whole batch: so its output is the whole's rows."""
    model = network(**NORMED)
    use_ghost_batch_norm(model, 3)
    inputs = torch.randn(count, 2, 6, 6, dtype=torch.float64)
    whole = model(inputs)
    for part in Parts(model, Workers(), 6, 3).of(count):
        torch.testing.assert_close(model(inputs[part.rows]), whole[part.rows], rtol=1e-12, atol=1e-12)


def test_refuses() -> None:
    with pytest.raises(UserError, match=r"`micro_batch_size` must be at least 10 for a network with batch norm.*got 5"):
        trained("synchronized", micro_batch_size=5)
    with pytest.raises(UserError, match=r"`micro_batch_size` must be at least 4 .* give a smaller ghost_batch_size"):
        trained("ghost 4: groups of 4, 4, 2", micro_batch_size=3)

    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(UserError, match="`workers_per_trial` must be 1 for batch norm of the type Own"):
        Parts(nn.Sequential(Own(3)), Workers(0, 2), None, None)


def test_a_smaller_micro_batch_holds_whole_groups() -> None:
    assert Parts(network(**PLAIN), Workers(), None, None).smaller(100, 8) == 12
    assert Parts(network(**PLAIN), Workers(), 12, None).smaller(100, 8) == 1
    assert Parts(network(**PLAIN), Workers(), 1, None).smaller(100, 8) is None
    assert Parts(network(**NORMED), Workers(), None, 16).smaller(100, 8) == 16
    assert Parts(network(**NORMED), Workers(), None, None).smaller(100, 8) is None


def test_micro_batches_are_checked_before_a_sweep(make_config: Callable[..., TrialConfig], digits: Source) -> None:
    plain, normed = (make_config(model_options=f'{{"batch_norm": {flag}}}') for flag in ("false", "true"))
    check_parts([plain], digits, 1)
    check_parts([normed], digits, 32)
    check_parts([normed], digits, 8, workers=4)
    with pytest.raises(UserError, match="`micro_batch_size` must be at least 32"):
        check_parts([plain, normed], digits, 31)
    with pytest.raises(UserError, match=r"`micro_batch_size` must be at least 8 .* got 7"):
        check_parts([normed], digits, 7, workers=4)
