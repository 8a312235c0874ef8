"""The test metric under a shift: the test images with noise, blurred, or with less contrast.

Each is made here from the plain test images, in three severities, in the manner of Hendrycks and Dietterich 2019
(arXiv 1903.12261), with sizes relative to the data, so that they suit any image:

    noise     Gaussian, standard deviation 0.1, 0.2 and 0.3 of the range of the values (drawn once, by a fixed seed)
    blur      Gaussian, standard deviation 0.04, 0.08 and 0.12 of the image's height; the border is repeated
    contrast  differences from the image's own mean times 0.5, 0.3 and 0.15

Values stay in the range of the plain ones. The results are further metrics of a trial: test_accuracy_noise_0.1, ...
Trap: the changed images are made at once, so they take as much memory as the test set.
"""

import json
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from trainables.data.rows import tensor_of
from trainables.runtime.errors import UserError
from trainables.runtime.seeds import generator
from trainables.training.loop import Training
from trainables.training.parallel import Workers, evaluate_together

SEED = 0  # of the noise, the same for every trial
REACH = 3.0  # standard deviations of the blur's kernel


def noise(images: Tensor, severity: float) -> Tensor:
    """`images` plus noise of the standard deviation `severity` times the range of their values."""
    drawn = torch.randn(images.shape, generator=generator(SEED, "shift noise", round(1000 * severity)))
    return images + severity * (images.max() - images.min()) * drawn.to(images)


def blur(images: Tensor, severity: float) -> Tensor:
    """`images` convolved with a Gaussian of the standard deviation `severity` times their height."""
    deviation = severity * images.shape[2]
    reach = max(1, math.ceil(REACH * deviation))
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (steps / deviation) ** 2)
    kernel = (kernel / kernel.sum()).to(images)
    flat = images.flatten(0, 1).unsqueeze(1)
    rows = conv2d(pad(flat, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    both = conv2d(pad(rows, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1))
    return both.view_as(images)


def contrast(images: Tensor, severity: float) -> Tensor:
    """`images` with their differences from each one's mean times `severity`."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + severity * (images - mean)


SEVERITIES: Mapping[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "noise": (noise, (0.1, 0.2, 0.3)),
    "blur": (blur, (0.04, 0.08, 0.12)),
    "contrast": (contrast, (0.5, 0.3, 0.15)),
}


def shifted(images: Tensor, name: str, severity: float) -> Tensor:
    """(N, C, H, W) `images` changed by the shift of this name; they are left alone.

    Raises UserError for anything but images.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise UserError(
            f"`shifts` needs images of shape (channels, height, width), got {tuple(images.shape[1:])} of {images.dtype}"
        )
    return SEVERITIES[name][0](images, severity).clamp(images.min(), images.max())


def shifted_metrics(
    training: Training, names: tuple[str, ...], workers: Workers | None = None
) -> dict[str, float | None]:
    """The primary metric of the network of now on the changed test images, by shift and severity; null: not finite.

    `workers` share the images, by default those of the training.
    """
    images, labels = tensor_of(training.data.test_inputs), training.data.test_labels
    metric, found = training.task.metric, {}
    for name in names:
        for severity in SEVERITIES[name][1]:
            inputs = shifted(images, name, severity)
            result = evaluate_together(
                workers or training.workers, training.model, inputs, labels, training.micro_batch_size, training.task
            )
            value = result.metrics[metric]
            is_known = value is not None and math.isfinite(value)
            found[f"test_{metric}_{name}_{severity:g}"] = value if is_known else None
    return found


def with_metrics(known: str | None, further: Mapping[str, float | None]) -> str | None:
    """The JSON of the column `metrics` with further ones."""
    both = {**json.loads(known or "{}"), **further}
    return json.dumps(both) if both else None
