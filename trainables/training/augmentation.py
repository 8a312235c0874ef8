"""Random changes of training images, drawn anew for every image, applied to the whole batch on its device.

    paper      horizontal flips, rotations up to 10 degrees, shifts up to 0.2 of the size (Keskar et al. 2017,
               section 4), by bilinear interpolation; what comes into view repeats the border
    crop_flip  4 pixels of zeros around, a random crop of the old size, a random horizontal flip (He et al. 2016,
               arXiv 1512.03385, section 4.2): exact pixels, none interpolated

The draws are made on the CPU, so that they do not depend on the device. Flips suit photographs; digits and letters lose
by them.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from trainables.remedies import AUGMENTATIONS
from trainables.runtime.errors import UserError

MAX_DEGREES = 10.0
MAX_SHIFT = 0.2  # of height and width
PADDING = 4  # pixels


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """`images` (N, C, H, W), each changed by draws of its own from `generator` (on the CPU); the input is left alone.

    Raises UserError for anything but floating-point images, and for an unknown `kind`.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise UserError(
            f"`augmentation` needs images of shape (channels, height, width), "
            f"got {tuple(images.shape[1:])} of {images.dtype}"
        )
    if kind not in AUGMENTATIONS:
        raise UserError(f"`augmentation` must be one of {', '.join(AUGMENTATIONS)}, got {kind}")
    flips = torch.rand(len(images), generator=generator) < 0.5
    if kind == "crop_flip":
        corners = torch.randint(2 * PADDING + 1, (len(images), 2), generator=generator)
        return crop(images, corners, flips)
    draws = 2 * torch.rand(len(images), 3, generator=generator) - 1
    return transform(images, flips, math.radians(MAX_DEGREES) * draws[:, 0], MAX_SHIFT * draws[:, 1:])


def transform(images: Tensor, flips: Tensor, angles: Tensor, shifts: Tensor) -> Tensor:
    """Each image flipped, then turned counter-clockwise about its center, then moved.

    `flips` (N,) bool, `angles` (N,) in radians, `shifts` (N, 2) to the right and down in parts of width and height.
    """
    height, width = images.shape[2:]
    cosine, sine = angles.cos(), angles.sin()
    sign = 1.0 - 2.0 * flips.to(angles.dtype)
    # An output pixel p (in [-1, 1] across the image, x right and y down) shows the input at F R^-1 (p - 2 shift);
    # angles hold in pixels, hence the aspect ratio.
    inverse = torch.stack([sign * cosine, -sign * sine * height / width, sine * width / height, cosine], dim=1).view(
        -1, 2, 2
    )
    offset = inverse @ (-2 * shifts).unsqueeze(2)
    matrix = torch.cat([inverse, offset], dim=2).to(images)
    grid = affine_grid(matrix, list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def crop(images: Tensor, corners: Tensor, flips: Tensor) -> Tensor:
    """Each image padded by PADDING zeros, cut to its size at its row and column in `corners` (N, 2), then flipped."""
    count, channels, height, width = images.shape
    corners, flips = corners.to(images.device), flips.to(images.device)
    columns = torch.arange(width, device=images.device).expand(count, width)
    columns = torch.where(flips[:, None], width - 1 - columns, columns) + corners[:, 1:]
    rows = torch.arange(height, device=images.device) + corners[:, :1]
    index = rows[:, :, None] * (width + 2 * PADDING) + columns[:, None, :]
    index = index.view(count, 1, -1).expand(-1, channels, -1)
    return pad(images, (PADDING,) * 4).flatten(2).gather(2, index).view_as(images)
