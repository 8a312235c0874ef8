"""Frames of TIMIT or any other speech corpus, with a phone state for each, from files that the user has made.

TIMIT is licensed (LDC93S1), so nothing is downloaded. `root` holds `train/` and `test/`, each with either

- `*.npz`, any number of utterances in each: `features` (frames, d) and `labels` (frames,), integers from 0; or
- Kaldi's `feats.scp` or `feats.ark`, and the alignment `ali.scp`, `ali.ark` or `ali.txt`, a state (pdf) for each frame
  of the same utterances: `ali-to-pdf final.mdl 'ark:gunzip -c ali.*.gz |' ark,t:ali.txt`.

F2 of Keskar et al. 2017 takes 360 inputs: 9 frames of 40 features. Frames of d features, where 360 / d is odd, are
therefore spliced: each with those before and after it, the first and last of the file or utterance repeated at its
ends, as Kaldi's splice-feats does. Other features need the option `inputs=D`, D = d for no splicing. Features are taken
as they are; normalize them where they are made. The classes are 0 to the largest label.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.data.files import require_memory, require_regular
from trainables.data.kaldi import read_kaldi
from trainables.data.source import Source
from trainables.runtime.errors import UserError, quoted

PAPER_INPUTS = 360
EXPECTED = ".npz files with features and labels"
ENDINGS = {"feats": ("scp", "ark"), "ali": ("scp", "ark", "txt")}

Utterance = tuple[str, NDArray[np.generic], NDArray[np.generic]]  # where it is from, features, labels


def read_timit(root: Path, download: bool, *, inputs: int = PAPER_INPUTS) -> Source:
    """Frames (N, inputs) float32, labels (N,).

    Raises UserError, naming the file or utterance, where frames and labels differ in number, features in width, or a
    file cannot be read.
    """
    if type(inputs) is not int or inputs < 1:
        raise UserError(f"`inputs` must be a positive integer, got {inputs!r}")
    (train, train_labels), (test, test_labels) = (_read_part(root / part, inputs) for part in ("train", "test"))
    classes = 1 + int(max(train_labels.max(), test_labels.max()))
    return Source("timit", train, train_labels, test, test_labels, classes)


def splice(frames: NDArray[np.float32], inputs: int) -> NDArray[np.float32]:
    """(N, d) -> (N, inputs): each frame with its (inputs / d - 1) / 2 neighbours on either side, the ends repeated."""
    reach = (inputs // frames.shape[1] - 1) // 2
    where = np.arange(len(frames))[:, None] + np.arange(-reach, reach + 1)
    spliced: NDArray[np.float32] = frames[where.clip(0, len(frames) - 1)].reshape(len(frames), inputs)
    return spliced


def _read_part(folder: Path, inputs: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    archives = sorted(file for file in folder.glob("*.npz") if not file.name.startswith("."))
    frames, labels = [], []
    for name, features, states in _from_npz(archives) if archives else _from_kaldi(folder):
        _check(name, features, states, inputs)
        frames.append(splice(features.astype(np.float32), inputs))
        labels.append(states.astype(np.int64))
    if not sum(len(some) for some in labels):
        raise UserError(f"`data-dir` must hold frames, got none in {folder}")
    return np.concatenate(frames), np.concatenate(labels)


def _check(name: str, features: NDArray[np.generic], labels: NDArray[np.generic], inputs: int) -> None:
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        raise UserError(
            f"`data-dir` must hold floating-point features (frames, d), got {features.dtype} {features.shape} in {name}"
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"`data-dir` must hold integer labels (frames,), got {labels.dtype} {labels.shape} in {name}")
    if len(features) != len(labels):
        raise UserError(
            f"`data-dir` must hold one label for each frame, "
            f"got {len(features)} frames and {len(labels)} labels in {name}"
        )
    width = features.shape[1]
    if not width or inputs % width or inputs // width % 2 == 0:
        raise UserError(
            f"`data-dir` must hold features of {inputs} numbers, or {inputs} over an odd number of frames, "
            f"got {width} in {name}; the dataset option inputs={width} takes them as they are"
        )


def _from_npz(files: list[Path]) -> Iterator[Utterance]:
    for file in files:
        require_regular(file, EXPECTED)
        try:
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(part.file_size for part in archive.infolist())
            require_memory(unpacked, f"{file}, unpacked,")
            with np.load(file, allow_pickle=False) as arrays:
                utterance = str(file), arrays["features"], arrays["labels"]
                if not all(isinstance(array, np.ndarray) for array in utterance[1:]):  # bytes, where no array begins
                    raise ValueError("features and labels that are not arrays")
        except UserError:
            raise
        except Exception as error:  # NumPy and zipfile raise many kinds on a damaged or encrypted file
            raise UserError(f"`data-dir` must hold {EXPECTED}, got {file} ({quoted(error)})") from error
        yield utterance


def _from_kaldi(folder: Path) -> Iterator[Utterance]:
    parts = []
    for name, endings in ENDINGS.items():
        file = next((file for ending in endings if (file := folder / f"{name}.{ending}").exists()), None)
        if file is None:
            raise UserError(
                "`data-dir` must hold .npz files, or feats.scp and an alignment such as ali.txt, in train and in test, "
                f"got no {name}.{{{','.join(endings)}}} in {folder}"
            )
        parts.append(read_kaldi(file))
    features, labels = parts
    only_one = sorted(features.keys() ^ labels.keys())
    if only_one:
        having, lacking = ("features", "alignment") if only_one[0] in features else ("alignment", "features")
        raise UserError(
            f"`data-dir` must hold features and alignment of the same utterances, got {having} but no {lacking} of "
            f"{only_one[0]} in {folder} ({len(only_one)} such)"
        )
    for key in features:
        yield f"{folder} utterance {key}", features[key], labels[key]
