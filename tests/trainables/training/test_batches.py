"""The order of the examples in a trial, also where a switch draws another one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainables.config import TrialConfig
from trainables.data import Source
from trainables.training.batches import epoch_order, order_of_epoch
from trainables.trial import Trial

Make = Callable[..., TrialConfig]
BRANCH = {"switch_batch_size": 32, "switch_optimizer_state": "keep", "switch_order_seed": 5}


def test_another_order_begins_with_the_update_after_the_switch(make_config: Make) -> None:
    """Batches of 32 in 300 examples: 1.3 epochs are reached by the third update of the second epoch, after 96."""
    config = make_config(switch_epoch=1.3, **BRANCH)
    plain = [epoch_order(300, seed=0, epoch=epoch) for epoch in range(4)]
    orders = [order_of_epoch(config, epoch) for epoch in range(4)]
    assert torch.equal(orders[0], plain[0])
    assert torch.equal(orders[1][:96], plain[1][:96])
    for before, after in ((plain[1][96:], orders[1][96:]), *zip(plain[2:], orders[2:], strict=True)):
        assert not torch.equal(before, after)
        assert torch.equal(before.sort().values, after.sort().values)
    other = order_of_epoch(make_config(switch_epoch=1.3, **{**BRANCH, "switch_order_seed": 6}), 2)
    assert not torch.equal(orders[2], other)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_switch_at_the_end_of_an_epoch(make_config: Make, epoch: int) -> None:
    order = order_of_epoch(make_config(switch_epoch=2.0, **BRANCH), epoch)
    assert torch.equal(order, epoch_order(300, seed=0, epoch=epoch)) == (epoch == 1)


def test_a_branch_is_its_trunk_up_to_the_switch(make_config: Make, digits: Source, tmp_path: Path) -> None:
    """To the last bit, from the state that the trunk left as from the start; then the orders differ."""
    every = {"evaluate_every": "150examples", "epochs": 2, "measures": ""}
    trunk = Trial(make_config(**every), digits)
    for _ in range(3):
        trunk.training.train_epoch()
        if trunk.training.epochs_done < 1:
            trunk.save(tmp_path / "trunk.pt")
    at = 160 / 300  # where the first logging point is, five batches of 32
    config = make_config(**every, **{**BRANCH, "switch_epoch": at})
    assert config.warm_start_id == trunk.config.warm_start_id
    branches = [Trial(config, digits) for _ in range(2)]
    assert branches[1].resume(tmp_path / "trunk.pt")
    for branch in branches:
        branch.train()
    whole, resumed, plain = (each.training.epochs for each in (*branches, trunk))
    losses = [[row["test_loss"] for row in rows] for rows in (whole, resumed, plain)]
    assert losses[0] == losses[1]
    assert losses[0][0] == losses[2][0]
    assert losses[0][1] != losses[2][1]
