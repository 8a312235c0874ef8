"""Augmentation: exact pixels where there are any, slices as reference, torchvision for rotations."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.functional import InterpolationMode, rotate

from trainables.remedies import AUGMENTATIONS
from trainables.runtime.errors import UserError
from trainables.training.augmentation import MAX_SHIFT, PADDING, augment, crop, transform

CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


def images(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def moved(picture: Tensor, *, flip: bool = False, angle: float = 0.0, shift: tuple[float, float] = (0, 0)) -> Tensor:
    """One change for all of the batch."""
    count = len(picture)
    flips = torch.full((count,), flip)
    return transform(
        picture,
        flips,
        torch.full((count,), angle, dtype=torch.float64),
        torch.tensor(shift, dtype=torch.float64).expand(count, 2),
    )


def test_flips_shifts_and_quarter_turns_move_whole_pixels() -> None:
    wide, square = images(2, 3, 6, 10), images(2, 1, 8, 8)
    torch.testing.assert_close(moved(wide), wide, **CLOSE)
    torch.testing.assert_close(moved(wide, flip=True), wide.flip(3), **CLOSE)
    right_up = moved(wide, shift=(0.2, -1 / 6))
    torch.testing.assert_close(right_up[:, :, :-1, 2:], wide[:, :, 1:, :-2], **CLOSE)
    torch.testing.assert_close(right_up[:, :, :-1, 0], wide[:, :, 1:, 0], **CLOSE)  # the border repeated
    torch.testing.assert_close(moved(square, angle=math.pi / 2), square.rot90(1, (2, 3)), **CLOSE)
    torch.testing.assert_close(moved(wide, angle=math.pi), wide.flip(2, 3), **CLOSE)
    both = moved(square, flip=True, angle=math.pi / 2, shift=(0.25, 0))
    torch.testing.assert_close(both[..., 2:], square.flip(3).rot90(1, (2, 3))[..., :-2], **CLOSE)


def test_rotation_against_torchvision() -> None:
    wide = images(1, 1, 20, 32)
    expected = rotate(wide, 10.0, InterpolationMode.BILINEAR)
    inner = (..., slice(5, -5), slice(5, -5))  # torchvision fills the corners with 0
    torch.testing.assert_close(moved(wide, angle=math.radians(10))[inner], expected[inner], rtol=0, atol=1e-6)


def test_crop_against_slices() -> None:
    pictures = images(81, 2, 5, 7)
    places = torch.cartesian_prod(torch.arange(9), torch.arange(9))
    flips = torch.arange(81) % 2 == 1
    found, padded = crop(pictures, places, flips), pad(pictures, (PADDING,) * 4)
    for i, (row, column) in enumerate(places.tolist()):
        expected = padded[i, :, row : row + 5, column : column + 7]
        assert torch.equal(found[i], expected.flip(2) if flips[i] else expected)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_each_image_has_its_own_draw_and_the_seed_decides(kind: str) -> None:
    pictures = images(1, 1, 9, 9).expand(40, 1, 9, 9).contiguous()
    kept = pictures.clone()
    found = augment(pictures, kind, torch.Generator().manual_seed(3))
    assert torch.equal(pictures, kept)
    assert found.dtype == pictures.dtype
    assert len(torch.unique(found, dim=0)) > 30
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.equal(found, augment(pictures, kind, torch.Generator().manual_seed(3)))
    assert not torch.equal(found, augment(pictures, kind, torch.Generator().manual_seed(4)))


def test_draws_of_the_paper_fill_their_ranges() -> None:
    size, count = 40, 400
    column = torch.arange(size, dtype=torch.float64) / size
    ramps = torch.stack([column.expand(size, size), column[:, None].expand(size, size)]).expand(count, 2, size, size)
    found = augment(ramps, "paper", torch.Generator().manual_seed(0))
    middle = found[:, :, size // 2 - 1 : size // 2 + 1, size // 2 - 1 : size // 2 + 1].mean((2, 3)) - (0.5 - 0.5 / size)
    reach = MAX_SHIFT * math.hypot(1, 1)  # the shift turned by the rotation
    assert middle.abs().max() < reach
    assert (middle.amax(0) > 0.18).all()
    assert (middle.amin(0) < -0.18).all()
    slope = found[:, 0, size // 2, size // 2 + 1] - found[:, 0, size // 2, size // 2]
    assert 0.4 < (slope < 0).double().mean() < 0.6  # flipped
    angles = torch.asin((found[:, 1, size // 2, size // 2 + 1] - found[:, 1, size // 2, size // 2]) * size)
    assert 9.5 < math.degrees(angles.abs().max()) <= 10 + 1e-4


def test_refuses() -> None:
    draws = torch.Generator().manual_seed(0)
    with pytest.raises(UserError, match="`augmentation` needs images of shape"):
        augment(torch.rand(5, 64), "paper", draws)
    with pytest.raises(UserError, match=r"got \(1, 8, 8\) of torch.int64"):
        augment(torch.ones(5, 1, 8, 8, dtype=torch.int64), "paper", draws)
    with pytest.raises(UserError, match="`augmentation` must be one of paper, crop_flip, got cutout"):
        augment(torch.rand(5, 1, 8, 8), "cutout", draws)
