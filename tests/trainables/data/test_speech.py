"""Frames from .npz and from Kaldi's formats, written here byte by byte; one line for each thing wrong."""

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trainables.data import Source, load_source
from trainables.data.kaldi import read_kaldi
from trainables.data.speech import splice
from trainables.runtime.errors import UserError

Frames = NDArray[np.float32]


def float_matrix(frames: Frames) -> bytes:
    return b"\0BFM " + struct.pack("<bibi", 4, frames.shape[0], 4, frames.shape[1]) + frames.astype("<f4").tobytes()


def double_matrix(frames: Frames) -> bytes:
    return b"\0BDM " + struct.pack("<bibi", 4, frames.shape[0], 4, frames.shape[1]) + frames.astype("<f8").tobytes()


def text_matrix(frames: Frames) -> bytes:
    return (" [\n" + "\n".join(" ".join(f"{x:.9g}" for x in row) for row in frames) + " ]\n").encode()


def integers(values: list[int]) -> bytes:
    return b"\0B\4" + struct.pack("<i", len(values)) + b"".join(struct.pack("<bi", 4, value) for value in values)


def ark(file: Path, objects: dict[str, bytes]) -> dict[str, int]:
    """Writes the archive; returns where each object begins."""
    content, offsets = b"", {}
    for key, encoded in objects.items():
        content += key.encode() + b" "
        offsets[key] = len(content)
        content += encoded
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return offsets


def utterances(width: int, seed: int = 0) -> dict[str, tuple[Frames, list[int]]]:
    generator = np.random.default_rng(seed)
    lengths = {"b": 4, "a": 7}
    return {
        key: (generator.standard_normal((n, width)).astype(np.float32), [int(x) for x in generator.integers(0, 9, n)])
        for key, n in lengths.items()
    }


def write_npz(root: Path, width: int = 360) -> None:
    for part in ("train", "test"):
        (root / part).mkdir(parents=True)
        for key, (frames, labels) in utterances(width).items():
            np.savez(root / part / f"{key}.npz", features=frames, labels=labels)


def write_kaldi(root: Path, width: int = 360, encode: Callable[[Frames], bytes] = float_matrix) -> None:
    for part in ("train", "test"):
        ark(root / part / "feats.ark", {key: encode(frames) for key, (frames, _) in utterances(width).items()})
        lines = [f"{key} {' '.join(map(str, labels))}\n" for key, (_, labels) in utterances(width).items()]
        (root / part / "ali.txt").write_text("".join(reversed(lines)))


def read(root: Path, **options: object) -> Source:
    return load_source("timit", root=root, options=options)


def test_npz(tmp_path: Path) -> None:
    write_npz(tmp_path)
    source, spoken = read(tmp_path), utterances(360)
    np.testing.assert_array_equal(source.inputs, np.concatenate([spoken["a"][0], spoken["b"][0]]))
    assert source.labels.tolist() == spoken["a"][1] + spoken["b"][1]
    assert source.num_classes == 1 + max(source.labels)
    assert source.test_inputs is not None
    assert (source.inputs.dtype, source.input_shape, len(source.test_inputs)) == (np.dtype(np.float32), (360,), 11)


@pytest.mark.parametrize("encode", [float_matrix, double_matrix, text_matrix])
def test_kaldi_archives(tmp_path: Path, encode: Callable[[Frames], bytes]) -> None:
    write_kaldi(tmp_path, encode=encode)
    source, spoken = read(tmp_path), utterances(360)
    np.testing.assert_array_equal(source.inputs, np.concatenate([spoken["b"][0], spoken["a"][0]]))
    assert source.labels.tolist() == spoken["b"][1] + spoken["a"][1]


def test_kaldi_scripts_and_binary_alignments(tmp_path: Path) -> None:
    """scp lines in another order than the archive's, by a path beside them."""
    spoken = utterances(360)
    for part in ("train", "test"):
        for name, objects in (
            ("feats", {key: float_matrix(frames) for key, (frames, _) in spoken.items()}),
            ("ali", {key: integers(labels) for key, (_, labels) in spoken.items()}),
        ):
            offsets = ark(tmp_path / part / f"raw_{name}.ark", objects)
            lines = [f"{key} raw_{name}.ark:{offset}\n" for key, offset in sorted(offsets.items())]
            (tmp_path / part / f"{name}.scp").write_text("".join(lines))
    source = read(tmp_path)
    np.testing.assert_array_equal(source.inputs, np.concatenate([spoken["a"][0], spoken["b"][0]]))
    assert source.labels.tolist() == spoken["a"][1] + spoken["b"][1]


def test_compressed_matrices(tmp_path: Path) -> None:
    """CM2 and CM3 are shares of a range; CM is piecewise linear between a column's quartiles."""
    codes = np.array([[0, 64, 192], [255, 32, 128]], dtype=np.uint8)
    header = struct.pack("<ffii", -1.0, 2.0, 2, 3)
    quartiles = np.array([[0, 16384, 49151, 65535]] * 3, dtype="<u2")
    level = -1 + 2 * quartiles[0].astype(float) / 65535
    ark(
        tmp_path / "feats.ark",
        {
            "two": b"\0BCM2 " + header + (codes.astype("<u2") * 257).tobytes(),
            "three": b"\0BCM3 " + header + codes.tobytes(),
            "one": b"\0BCM " + header + quartiles.tobytes() + codes.T.tobytes(),
        },
    )
    found = read_kaldi(tmp_path / "feats.ark")
    np.testing.assert_allclose(found["two"], -1 + codes / 127.5, rtol=1e-6)
    np.testing.assert_allclose(found["three"], found["two"], rtol=1e-6)
    expected = [[level[0], level[1], level[2]], [level[3], level[:2].mean(), level[1:3].mean()]]
    np.testing.assert_allclose(found["one"], expected, atol=1e-6)


def test_splicing(tmp_path: Path) -> None:
    """40 features become 9 frames of them, the ends of each utterance repeated, none of its neighbour's."""
    write_npz(tmp_path, width=40)
    source, (first, _) = read(tmp_path), utterances(40)["a"]
    for row in range(len(first)):
        near = [first[min(max(row + offset, 0), len(first) - 1)] for offset in range(-4, 5)]
        np.testing.assert_array_equal(source.inputs[row], np.concatenate(near))
    assert read(tmp_path, inputs=40).input_shape == (40,)
    np.testing.assert_array_equal(splice(first, 40), first)


def change_npz(**arrays: object) -> Callable[[Path], None]:
    return lambda root: np.savez(root / "test" / "b.npz", **arrays)  # type: ignore[arg-type]


FLOATS = np.zeros((4, 360), np.float32)


def encrypt(file: Path) -> None:
    """Sets the bit that says so in both headers of every part."""
    content = bytearray(file.read_bytes())
    for signature, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        place = -1
        while (place := content.find(signature, place + 1)) >= 0:
            content[place + offset] |= 1
    file.write_bytes(content)


def huge(file: Path) -> None:
    """An archive that says it unpacks to 2 PiB."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("features.npy", b"x")
        archive.filelist[0].file_size = 2**51


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            change_npz(features=FLOATS, labels=[1, 2, 3]),
            "one label for each frame, got 4 frames and 3 labels in .*b.npz",
        ),
        (change_npz(features=FLOATS), r"must hold .npz files with features and labels, got .*b.npz \(.*labels"),
        (change_npz(features=FLOATS, labels=[0.5] * 4), r"must hold integer labels \(frames,\), got float64 \(4,\)"),
        (change_npz(features=FLOATS[:, 0], labels=[1] * 4), "must hold floating-point features"),
        (
            change_npz(features=FLOATS[:, :180], labels=[1] * 4),
            "got 180 in .*b.npz; the dataset option inputs=180 takes",
        ),
        (change_npz(features=FLOATS[:, :7], labels=[1] * 4), "must hold features of 360 numbers"),
        (change_npz(features=np.array([{}], object), labels=[1]), "Object arrays cannot be loaded"),
        (change_npz(features=FLOATS, labels=[-1] * 4), "labels from 0 to"),
        (change_npz(features=FLOATS * np.nan, labels=[1] * 4), "must have finite inputs"),
        (lambda root: encrypt(root / "test" / "b.npz"), r"b.npz \(File 'features.npy' is encrypted"),
        (
            lambda root: huge(root / "test" / "b.npz"),
            "fits into the .* GiB of memory, got .*b.npz, unpacked,",
        ),
        (lambda root: np.save((root / "test" / "b.npz").open("wb"), FLOATS), "with features and labels, got .*b.npz"),
        (lambda root: fifo(root / "test" / "b.npz"), "b.npz, which is a named pipe"),
        (lambda root: (root / "test" / "b.npz").write_bytes(b"PK\3\4 cut"), "with features and labels, got .*b.npz"),
    ],
)
def test_npz_mistakes(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    write_npz(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def spoil(root: Path) -> object:
        file = root / "train" / name
        return file.write_bytes(change(file.read_bytes()))

    return spoil


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def script(line: str) -> Callable[[Path], object]:
    return lambda root: (root / "train" / "feats.scp").write_text(line + "\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (rewrite("ali.txt", lambda text: text[:-1] + b" x\n"), "must hold whole Kaldi .* got b in .*ali.txt"),
        (rewrite("ali.txt", lambda text: text[:-3] + b"\n"), "got 4 frames and 3 labels in .*train utterance b"),
        (
            rewrite("ali.txt", lambda text: text.replace(b"b ", b"c ")),
            r"got features but no alignment of b in .* \(2 such",
        ),
        (rewrite("ali.txt", lambda text: text + text), "every utterance once, got a twice"),
        (rewrite("feats.ark", lambda content: content[:-5]), r"got a in .*feats.ark \(truncated\)"),
        (rewrite("feats.ark", lambda content: content.replace(b"FM", b"XM")), "got b in .*feats.ark"),
        (rewrite("feats.ark", lambda content: content[:9]), r"got b in .*feats.ark \(unpack"),
        (script("a gunzip -c feats.gz |"), "commands are not run, ranges not cut"),
        (script("a feats.ark:2[0:3]"), "commands are not run, ranges not cut"),
        (script("a feats.ark:" + "9" * 30), "KEY ARK:OFFSET`, got a feats.ark:9999"),
        (script("a feats.ark:" + "9" * 18), "offsets in their ark"),
        (script("a feats.ark:\u00b2"), "KEY ARK:OFFSET"),
        (script("a fe\0ats.ark:2"), r"readable Kaldi files, got .* \(embedded null byte\)"),
        (script("a /dev/zero:2"), "readable Kaldi files, got /dev/zero, which is a device"),
        (script("a " + "x" * 50_000_000 + ":2"), "KEY ARK:OFFSET`, got a xxxx"),
        (rewrite("feats.ark", lambda content: b"x" * 50_000_000), "a word of more than 1000 characters"),
        (rewrite("ali.txt", lambda text: b"a " + b"9" * 50_000_000), "must hold whole Kaldi .* got a in"),
        (rewrite("ali.txt", lambda text: b"a 99999999999999999999\n"), "must hold whole Kaldi .* got a in"),
        (rewrite("feats.ark", lambda _: b"a \0BFM " + struct.pack("<bibi", 4, -2, 4, -180)), "a matrix of -2 x -180"),
        (rewrite("feats.ark", lambda _: b"a \0BCM " + struct.pack("<ffii", 0, 1, 2**30, 2**30)), "truncated"),
        (rewrite("feats.ark", lambda _: b"a \0B\4" + struct.pack("<i", -5)), "truncated"),
        (lambda root: fifo(root / "train" / "feats.ark"), "feats.ark, which is a named pipe"),
        (script("a absent.ark:2"), "must hold readable Kaldi files, got absent.ark"),
        (lambda root: (root / "train" / "ali.txt").unlink(), "got no ali.{scp,ark,txt} in .*train"),
        (lambda root: (root / "test" / "feats.ark").write_bytes(b""), "got alignment but no features of a in .*test"),
    ],
)
def test_kaldi_mistakes(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    write_kaldi(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`data-dir` must hold \.npz files, or feats.scp and an alignment"):
        read(tmp_path)
    with pytest.raises(UserError, match="`inputs` must be a positive integer, got 0"):
        read(tmp_path, inputs=0)
