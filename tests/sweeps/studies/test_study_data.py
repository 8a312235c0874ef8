"""What a study makes of its data: images are decoded as far as trials need them, and older results keep their IDs."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sweeps.execution.preflight import check
from sweeps.session.placement import Placement
from sweeps.studies.study import source_of
from trainables.config import TrialConfig
from trainables.data import Source, load_source
from trainables.records.provenance import failed_record
from trainables.records.tables import compact, write_record
from trainables.runtime.errors import UserError

SPLIT = {"train_size": 7, "test_size": 4, "measure_examples": 7, "batch_size": 4}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root, generator = tmp_path / "images", np.random.default_rng(2)
    for part, count in (("train", 20), ("test", 8)):
        for index in range(count):
            folder = root / part / f"class{index % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{index:02}.png")
    return root


@pytest.fixture
def read(images: Path, tmp_path: Path) -> Callable[..., Source]:
    def read_as(**changes: Any) -> Source:
        options: dict[str, Any] = {
            "dataset_options": {}, "task": None, "data_dir": images, "download": False, "train_size": 7, "test_size": 4,
            "cache_dir": tmp_path / "cache", "resume": False, "results": tmp_path, "name": "results",
        }  # fmt: skip
        return source_of(argparse.Namespace(**options | changes), "image_folder")

    return read_as


def test_results_that_are_named_by_all_values_keep_their_ids(
    read: Callable[..., Source], images: Path, tmp_path: Path, make_config: Callable[..., TrialConfig]
) -> None:
    whole = load_source("image_folder", root=images, cache_dir=tmp_path / "other")
    folder = tmp_path / "results"
    (folder / "trials").mkdir(parents=True)
    assert read(resume=True).fingerprint_of(7, 4) == whole.file_fingerprint  # nothing has ended there
    for fingerprint, expected in (("0" * 16, whole.file_fingerprint), (whole.fingerprint, whole.fingerprint)):
        config = make_config(dataset="image_folder", data_fingerprint=fingerprint, **SPLIT)
        write_record(folder, failed_record(config, "stopped"))
        compact(folder)
        assert read(resume=True).fingerprint_of(7, 4) == expected
    assert read(resume=False).fingerprint_of(7, 4) == whole.file_fingerprint


def test_an_image_that_cannot_be_decoded_is_refused_before_the_trials_that_need_it(
    read: Callable[..., Source], images: Path, make_config: Callable[..., TrialConfig]
) -> None:
    place = min(_drawn(0) - _drawn(1))
    name = f"class{place // 10}/{2 * (place % 10) + place // 10:02}.png"  # ten in each class, every second number
    broken = images / "train" / name
    broken.write_bytes(broken.read_bytes()[:-60])
    needs, does_without = (
        make_config(dataset="image_folder", split_seed=seed, measures="", **SPLIT) for seed in (0, 1)
    )
    assert check([does_without], read(), Placement()) == []
    with pytest.raises(UserError, match=f"must hold readable images, got .*{name}") as told:
        check([does_without, needs], read(), Placement())
    assert "\n" not in str(told.value)


def _drawn(seed: int) -> set[int]:
    """The training examples that a split of 7 of 20 draws."""
    numbers = np.arange(20, dtype=np.float32)[:, None]
    labels = np.arange(20) % 2
    split = Source("numbers", numbers, labels, numbers[:8], labels[:8], 2).split(7, 4, seed)
    return set(np.asarray(split.train_inputs)[:, 0].astype(int).tolist())
