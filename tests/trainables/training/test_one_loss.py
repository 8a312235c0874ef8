"""Later calls of a closure: the same function, and no trace in batch norm or the random stream."""

import torch
from torch import Tensor, nn

from trainables.training.one_loss import one_loss, running_statistics_kept


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).double()


def test_calls_are_one_function_and_count_once() -> None:
    model, inputs = network(), torch.randn(6, 4, dtype=torch.float64)

    def closure() -> Tensor:
        outputs: Tensor = model(inputs)
        return outputs.square().mean()

    torch.manual_seed(1)
    expected = closure()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    following = torch.rand(3)

    model, values = network(), []
    torch.manual_seed(1)
    loss_at = one_loss(model, closure)
    values = [loss_at() for _ in range(3)]
    assert torch.equal(torch.rand(3), following)
    assert all(torch.equal(value, expected) for value in values)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert model[1].num_batches_tracked == 1
    assert not torch.equal(closure(), expected)  # other masks: the network's dropout is at work


def test_kept_statistics_still_normalize_by_the_batch() -> None:
    model, inputs = network(), torch.randn(6, 4, dtype=torch.float64)
    layer, hidden = model[1], model[0](inputs)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with running_statistics_kept(model):
        inside = layer(hidden)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert torch.equal(inside, layer(hidden))
    assert layer.num_batches_tracked == 1
