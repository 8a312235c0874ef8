"""Ghost batch norm: plain batch norm on one group after another, plain at a single group and in eval mode."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from trainables.runtime.errors import UserError
from trainables.training.ghost_batch_norm import use_ghost_batch_norm
from trainables.training.one_loss import running_statistics_kept

SHAPES: list[tuple[type[nn.Module], tuple[int, ...]]] = [
    (nn.BatchNorm1d, (3,)),
    (nn.BatchNorm1d, (3, 5)),
    (nn.BatchNorm2d, (3, 4, 2)),
    (nn.BatchNorm3d, (3, 2, 2, 2)),
]


def groups_of(examples: int, size: int) -> list[list[int]]:
    """The naive reference's groups: strided ones, what is left over, a single example joined to the last."""
    count, left = divmod(examples, size)
    if left == 1:
        count, left = count - 1, size + 1
    groups = [list(range(j, examples - left, count)) for j in range(count)]
    return [*groups, list(range(examples - left, examples))] if left else groups


def pair(kind: type[nn.Module], size: int, **options: object) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = nn.Sequential(kind(3, dtype=torch.float64, **options))
    for p in plain.parameters():
        nn.init.normal_(p)
    ghost = copy.deepcopy(plain)
    use_ghost_batch_norm(ghost, size)
    return plain, ghost


@pytest.mark.parametrize(("kind", "shape"), SHAPES)
@pytest.mark.parametrize(("examples", "size"), [(8, 4), (10, 4), (9, 4), (12, 2), (5, 4), (4, 4), (3, 4)])
@pytest.mark.parametrize(("momentum", "channels_last"), [(0.1, False), (None, True)])
def test_against_plain_batch_norm_group_by_group(
    kind: type[nn.Module], shape: tuple[int, ...], examples: int, size: int, momentum: float | None, channels_last: bool
) -> None:
    plain, ghost = pair(kind, size, momentum=momentum)
    for _ in range(2):
        one = torch.randn(examples, *shape, dtype=torch.float64)
        if channels_last and one.ndim > 3:  # with fewer dimensions PyTorch has no such layout
            one = one.movedim(1, -1).contiguous().movedim(-1, 1)
        one.requires_grad_()
        two = one.detach().clone().requires_grad_()
        groups = groups_of(examples, size)
        assert sorted(itertools.chain(*groups)) == list(range(examples))
        expected = torch.empty_like(one)
        for group in groups:
            expected[group] = plain(one[group])
        output = ghost(two)
        torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
        assert output.stride() == expected.stride()
        weights = torch.randn_like(expected)
        (expected * weights).sum().backward()
        (output * weights).sum().backward()
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-11, atol=1e-11)
    for p, q in zip(ghost.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(ghost.state_dict(), plain.state_dict(), rtol=1e-12, atol=1e-13)
    assert torch.equal(ghost.eval()(one), _loaded(plain, ghost).eval()(one))


def _loaded(plain: nn.Module, ghost: nn.Module) -> nn.Module:
    plain.load_state_dict(ghost.state_dict())
    return plain


def test_equals_plain_when_one_group_holds_the_batch() -> None:
    plain, ghost = pair(nn.BatchNorm1d, 16)
    inputs = torch.randn(16, 3, dtype=torch.float64)
    assert torch.equal(ghost(inputs), plain(inputs))
    assert all(torch.equal(a, b) for a, b in zip(ghost.state_dict().values(), plain.state_dict().values(), strict=True))


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}])
def test_without_weights_or_statistics(options: dict[str, bool]) -> None:
    plain, ghost = pair(nn.BatchNorm1d, 4, **options)
    inputs = torch.randn(8, 3, dtype=torch.float64)
    expected = torch.empty_like(inputs)
    for group in groups_of(8, 4):
        expected[group] = plain(inputs[group])
    torch.testing.assert_close(ghost(inputs), expected, rtol=1e-12, atol=1e-12)
    assert ghost.state_dict().keys() == plain.state_dict().keys()


def test_kept_statistics_and_channels_last() -> None:
    _, ghost = pair(nn.BatchNorm2d, 4)
    inputs = torch.randn(8, 3, 4, 4, dtype=torch.float64)
    before = copy.deepcopy(ghost.state_dict())
    with running_statistics_kept(ghost):
        kept = ghost(inputs)
    assert all(torch.equal(value, before[name]) for name, value in ghost.state_dict().items())
    torch.testing.assert_close(ghost(inputs.to(memory_format=torch.channels_last)), kept, rtol=1e-12, atol=1e-12)


def test_changes_the_model_in_place_and_again() -> None:
    inner = nn.Sequential(nn.BatchNorm1d(3))
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), inner)
    modules, parameters = list(model.modules()), list(model.parameters())
    use_ghost_batch_norm(model, 4)
    use_ghost_batch_norm(model, 2)
    assert all(one is other for one, other in zip(model.modules(), modules, strict=True))
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    assert model[1].group_size == inner[0].group_size == 2

    def moments(output: Tensor) -> Tensor:
        return output[0::2].mean(0).abs().max()

    assert moments(model(torch.randn(4, 4))) < 1e-6  # groups (0, 2) and (1, 3), each of mean 0


def test_refuses() -> None:
    with pytest.raises(UserError, match="`ghost_batch_size` cannot be used with a model without batch norm, got 4"):
        use_ghost_batch_norm(nn.Linear(2, 2), 4)
    with pytest.raises(UserError, match="`ghost_batch_size` must be at least 2, got 1"):
        use_ghost_batch_norm(nn.BatchNorm1d(2), 1)
    model = nn.BatchNorm2d(3)
    use_ghost_batch_norm(model, 2)
    with pytest.raises(ValueError, match="expected 4D input"):
        model(torch.randn(8, 3))
