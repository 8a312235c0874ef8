"""Arrays that would lose something as float32 or class numbers are refused, and so are those without a number."""

from pathlib import Path

import numpy as np
import pytest

from trainables.data import load_source
from trainables.runtime.errors import UserError

CODE = """
import numpy as np
def made(inputs=None, labels=None):
    inputs = np.arange(40.0).reshape(20, 2) if inputs is None else inputs
    labels = np.arange(20) % 2 if labels is None else labels
    return inputs, labels, None, None
def complex_inputs(): return made(np.ones((20, 2)) * 1j)
def complex_labels(): return *made(labels=np.arange(20) * 1j), "regression"
def masked_inputs(): return made(np.ma.masked_less(np.arange(40.0).reshape(20, 2), 3))
def masked_labels(): return made(labels=np.ma.masked_less(np.arange(20) % 2, 1))
def dates(): return made(np.datetime64("2026-01-01") + np.arange(40).reshape(20, 2))
def durations(): return made(np.timedelta64(1, "s") * np.arange(40).reshape(20, 2))
def digits(): return made(np.array([["1", "2"]] * 20))
def bytes_(): return made(np.array([[b"1", b"2"]] * 20))
def text_labels(): return made(labels=np.array(["0", "1"] * 10))
def objects(): return made(np.array([["1", 2]] * 20, dtype=object))
def large_ids(): return made(2**24 + np.arange(40).reshape(20, 2))
def mapped_ids():
    found = np.memmap("ids", np.int32, "w+", shape=(20, 2))
    found[:] = 2**24 + np.arange(40).reshape(20, 2)
    return made(found)
class Stream:
    examples, num_classes = 4, 2
    def __init__(self, one): self.one, self.test = one, (np.zeros((2, 2)), np.arange(2))
    def epoch(self, number): return ((self.one, label % 2) for label in range(4))
def stream_of_complex(): return Stream(np.ones(2) * 1j)
def stream_of_ids(): return Stream(np.array([2**25, 1]))

noise = np.random.default_rng(0).normal(size=(20, 2))
def offset(): return made(1e8 + noise)
def timestamps(): return made(np.stack([noise[:, 0], 1.7e9 + np.arange(20.0)], 1))
def times_in_images(): return made(np.stack([noise, 2.46e6 + 0.01 * noise], 2).reshape(20, 2, 1, 2))
def mapped_offset():
    found = np.memmap("offset", np.float64, "w+", shape=(20, 2))
    found[:] = 1e8 + noise
    return made(found)
def offset_labels(): return *made(labels=1e8 + noise[:, 0]), "regression"
class Offset(Stream):
    def __init__(self, value): super().__init__(value)
    def epoch(self, number): return ((noise[one] + self.one, one % 2) for one in range(4))
def stream_of_offset(): return Offset(1e8)

def one_input(): return 3.0, np.arange(20), None, None
def one_label(): return np.ones((20, 2)), np.int64(1), None, None
def test_inputs_alone(): return *made()[:2], np.ones((5, 2)), None
def test_labels_alone(): return *made()[:2], None, np.arange(5) % 2
def empty_inputs(): return made(np.ones((20, 3, 0)))
def empty_labels(): return *made(labels=np.ones((20, 0))), "regression"
def empty_tokens(): return made(np.ones((20, 0), int), np.ones((20, 0), int))
def beyond_float32(): return made(np.full((20, 2), 1e300))
def mapped_beyond_float32():
    found = np.memmap("numbers", np.float64, "w+", shape=(20, 2))
    found[:] = 1e300
    return made(found)
def labels_beyond_float32(): return *made(labels=np.full(20, -1e300)), "regression"

def mask_without_effect(): return made(np.ma.masked_less(np.arange(40.0).reshape(20, 2), -1))
def numbers_as_objects(): return made(np.array([[1, 2.5]] * 20, dtype=object))
def labels_as_objects(): return made(labels=np.array([0, 1] * 10, dtype=object))
def backwards(): return made(np.arange(40.0, dtype="f4").reshape(20, 2)[::-1], (np.arange(20) % 2)[::-1])
def ids(): return made(np.arange(40).reshape(20, 2))
def booleans(): return made(np.ones((20, 2), bool))
def rounded(): return made(np.stack([0.1 + noise[:, 0], np.repeat(0.1, 20)], 1))
def constants(): return made(np.stack([noise[:, 0] + 1e8 - 1e8, np.repeat(0.1, 20) * (1 + 1e-15 * noise[:, 1])], 1))
def nearly_black(): return made(np.stack([noise[:, 0], 1 + 1e-9 * noise[:, 1]], 1))
def days(): return made(1.7e9 + 86400 * np.arange(40.0).reshape(20, 2))
def float32_offset(): return made((1e8 + noise).astype(np.float32).astype(np.float64))
def halves(): return made(np.ones((20, 2), np.float16))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code_of_arrays.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("complex_inputs", "inputs that are numbers, got .*, complex numbers"),
        ("complex_labels", "labels that are numbers, got .*, complex numbers"),
        ("masked_inputs", "inputs without masked values"),
        ("masked_labels", "labels without masked values"),
        ("dates", ", dates"),
        ("durations", ", durations"),
        ("digits", "inputs that are numbers, got .*, text"),
        ("bytes_", ", bytes"),
        ("text_labels", "labels that are numbers, got .*, text"),
        ("objects", r"got object, of shape \(20, 2\)"),
        ("large_ids", "integer inputs from -16777216 to 16777216, .* got 16777216 to 16777255"),
        ("mapped_ids", "got 16777216 to 16777255"),
        ("stream_of_complex", ", complex numbers"),
        ("stream_of_ids", "got 1 to 33554432"),
        (
            "offset",
            r"inputs whose variation float32 holds, got 9999999\d\.\d+ to 10000000\d\.\d+ in inputs\[:, 0\], which "
            r"float32 rounds to steps of 8; subtract a constant from it first$",
        ),
        ("timestamps", r"got 1700000000.0 to 1700000019.0 in inputs\[:, 1\], .* steps of 128; subtract a constant"),
        ("times_in_images", r"in inputs\[:, 0, 0, 1\], which float32 rounds to steps of 0\.25"),
        ("mapped_offset", r"inputs\[:, 0\], which float32 rounds to steps of 8"),
        ("offset_labels", "labels whose variation float32 holds, got .* in labels, which float32 rounds to steps of 8"),
        ("stream_of_offset", r"inputs\[:, 0\], which float32 rounds to steps of 8"),
        ("one_input", "inputs for each example, got the single number 3.0"),
        ("one_label", "labels for each example, got the single number 1"),
        ("test_inputs_alone", "or None for both, got no labels"),
        ("test_labels_alone", "or None for both, got no inputs"),
        ("empty_inputs", r"inputs with at least one number each, got the shape \(20, 3, 0\)"),
        ("empty_labels", r"labels with at least one number each, got the shape \(20, 0\)"),
        ("empty_tokens", "2 classes or more"),
        ("beyond_float32", "finite inputs, got NaN or infinity in the training set as float32"),
        ("mapped_beyond_float32", "finite inputs, got NaN or infinity in the training set as float32"),
        ("labels_beyond_float32", "finite labels, got NaN or infinity in the training set as float32"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_would_be_lost(name: str, told: str) -> None:
    with pytest.raises(UserError, match=f"^`dataset` code_of_arrays:{name} must (return|have) .*{told}"):
        load_source(f"code_of_arrays:{name}")


KEPT = (
    "mask_without_effect", "numbers_as_objects", "labels_as_objects", "backwards", "ids", "booleans", "halves",
    "rounded", "constants", "nearly_black", "days", "float32_offset",
)  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept(name: str) -> None:
    source = load_source(f"code_of_arrays:{name}")
    assert source.inputs.shape == (20, 2)
    assert np.isfinite(source.inputs).all()
    data = source.split(15, 5, 0)
    drawn = np.concatenate([np.asarray(data.train_inputs), np.asarray(data.test_inputs)])
    np.testing.assert_array_equal(np.sort(drawn, axis=0), np.sort(source.inputs, axis=0))


def test_mapped_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "train_inputs.npy", 2**24 + np.arange(40).reshape(20, 2))
    np.save(tmp_path / "train_labels.npy", np.arange(20) % 2)
    with pytest.raises(UserError, match="`dataset` arrays must have integer inputs"):
        load_source("arrays", root=tmp_path, cache_dir=tmp_path / "cache")
    np.save(tmp_path / "train_inputs.npy", 2.0**30 + np.arange(40.0).reshape(20, 2))
    with pytest.raises(UserError, match=r"`dataset` arrays must have inputs .* 1073741824.0 to 1073741862.0 in inputs"):
        load_source("arrays", root=tmp_path, cache_dir=tmp_path / "cache")
    np.save(tmp_path / "train_inputs.npy", np.arange(40.0).reshape(20, 2))
    np.save(tmp_path / "train_labels.npy", 2.0**30 + np.arange(20.0))
    with pytest.raises(UserError, match="`dataset` arrays must have labels whose variation float32 holds"):
        load_source("arrays", root=tmp_path, cache_dir=tmp_path / "cache")
