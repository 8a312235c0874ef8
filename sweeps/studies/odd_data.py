"""What is odd about data that a sweep can train on, a line each."""

from collections.abc import Iterator

import numpy as np

from trainables.data import Source
from trainables.data.rows import chunks
from trainables.data.streams import StreamSource

ONE_SIDED = 0.8  # of all labels: a class that has more of them makes the accuracy a poor judge
CHANNELS, LEAST_SIDE = (1, 3, 4), 8  # of images


def about_data(source: Source) -> Iterator[str]:
    """Lines about inputs that are all alike, the order of dimensions, and labels."""
    if isinstance(source, StreamSource) or source.of_tokens:
        return
    if source.decoded is None:
        yield from _about_inputs(source)
    if source.task == "classification":
        yield from _about_labels(source)


def _about_inputs(source: Source) -> Iterator[str]:
    if not any((chunk != source.inputs[:1]).any() for chunk in chunks(source.inputs)):
        yield f"all training inputs of {source.name} are the same, so networks cannot tell them apart"
    *sides, last = source.input_shape if len(source.input_shape) == 3 else (0, 0, 0)
    if min(sides) >= LEAST_SIDE and last in CHANNELS:
        yield (
            f"inputs of {source.name} have the shape {source.input_shape}, which is read as {sides[0]} channels; "
            "give images with the channels last as np.moveaxis(inputs, -1, 1)"
        )


def _about_labels(source: Source) -> Iterator[str]:
    """What is odd about class numbers: none for the first classes, nearly all for one, some for the test alone."""
    counts = np.bincount(source.labels, minlength=source.num_classes)
    if least := int(np.flatnonzero(counts)[0]):
        yield f"the labels of {source.name} start at {least}, so the classes below have no examples; subtract {least}"
    if (share := counts.max() / counts.sum()) >= ONE_SIDED:
        better = "--task binary judges by AUC" if source.num_classes == 2 else "balanced accuracy is kept in `metrics`"
        yield (
            f"{100 * share:.0f} % of the labels of {source.name} are {counts.argmax()}, which is the accuracy of a "
            f"network that gives this answer alone; {better}"
        )
    if source.test_labels is not None and (unknown := counts[source.test_labels] == 0).any():
        first = int(source.test_labels[unknown.argmax()])
        yield (
            f"{100 * unknown.mean():.2g} % of the test labels of {source.name} belong to classes without training "
            f"examples, such as {first}, so no network can get them right"
        )
