"""What data takes: memory, disk and time, for examples in memory, mapped uint8 files, and encoded images.

    python benchmarks/data.py [--examples N] [--repeats N] [--folder DIR]

Prints, on one thread and in CPU time of one process:

- epochs of training on the same examples as float32 in memory, as uint8 in memory and as a mapped uint8 file, and the
  ratio of the last two, which is to stay below 1.1 when the file fits into the memory;
- the bytes of an example in memory and on disk;
- what it takes to look at and to decode JPEGs of 224 x 224, once, and to start again from the cache.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from trainables.config import TrialConfig
from trainables.data import Source, load_source
from trainables.data import rows as rows_module
from trainables.data.rows import Scaling, values_of
from trainables.trial import Trial

SHAPE, CLASSES, JPEGS = (3, 32, 32), 10, 200


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=20000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="for files (default: a temporary folder)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        epochs(Path(name), options.examples, options.repeats)
        jpegs(Path(name))
    return 0


def epochs(folder: Path, examples: int, repeats: int) -> None:
    """Prints what epochs cost on each kind of examples."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (examples, *SHAPE), dtype=np.uint8)
    labels = generator.integers(0, CLASSES, examples)
    for name, array in (("train_inputs", pixels), ("train_labels", labels)):
        np.save(folder / f"{name}.npy", array)
        np.save(folder / f"{name.replace('train', 'test')}.npy", array[:100])
    rows_module.COPIED = 0  # small sets are tensors otherwise
    test = pixels[:100], labels[:100]
    values = values_of(pixels, Scaling(255)), labels, values_of(test[0], Scaling(255)), test[1]
    sources = {
        "float32 in memory": Source("arrays", *values, CLASSES),
        "uint8 in memory": Source("arrays", pixels, labels, *test, CLASSES, scaling=Scaling(255)),
        "uint8 mapped": load_source("arrays", root=folder, cache_dir=folder / "cache"),
    }
    for model, widths in (("mlp, 64 hidden units", "[64]"), ("mlp, 512 and 512", "[512, 512]")):
        seconds: dict[str, list[float]] = {name: [] for name in sources}
        trials = {}
        for name, source in sources.items():
            config = TrialConfig(
                dataset="arrays",
                data_fingerprint="",
                train_size=examples,
                test_size=100,
                model_options=f'{{"widths": {widths}}}',
                learning_rate=0.001,
                batch_size=256,
                epochs=1000,
                measure_examples=1,
                measures="",
            )
            trials[name] = Trial(config, source)
        for _ in range(repeats + 1):
            for name, trial in trials.items():
                started = time.process_time()
                trial.training.train_epoch()
                seconds[name].append(time.process_time() - started)
        losses = {trial.training.epochs[-1]["train_loss"] for trial in trials.values()}
        assert len(losses) == 1, losses  # the same bits
        median = {name: statistics.median(found[1:]) for name, found in seconds.items()}
        for name, source in sources.items():
            rate, size = examples / median[name], source.inputs.nbytes / examples
            print(f"{model}: {name}: {rate:.0f} examples/s (trained and evaluated), {size:.0f} bytes an example")
        ratios = [a / b for a, b in zip(seconds["uint8 mapped"], seconds["uint8 in memory"], strict=True)][1:]
        print(f"{model}: a mapped file takes {statistics.median(ratios):.3f} times as long as memory")


def jpegs(folder: Path) -> None:
    """Prints what JPEGs cost, once and again."""
    root, generator = folder / "images", np.random.default_rng(0)
    encoded = 0
    for part, count in (("train", JPEGS), ("test", JPEGS // 10)):
        for index in range(count):
            place = root / part / f"class{index % 2}"
            place.mkdir(parents=True, exist_ok=True)
            blurred = Image.fromarray(generator.integers(0, 256, (28, 28, 3), dtype=np.uint8)).resize((224, 224))
            buffer = io.BytesIO()
            blurred.save(buffer, "jpeg", quality=90)
            encoded += len(buffer.getvalue())
            (place / f"{index:05}.jpg").write_bytes(buffer.getvalue())
    count = JPEGS + JPEGS // 10
    for what, is_whole_needed in (("looked at", False), ("decoded", True), ("started again", True)):
        wall, started = time.monotonic(), time.process_time()
        source = load_source("image_folder", root=root, cache_dir=folder / "cache", is_whole_needed=is_whole_needed)
        used, wall = time.process_time() - started, time.monotonic() - wall
        print(f"JPEGs of 224 x 224: {what}: {1e3 * used / count:.3f} ms of CPU, {1e3 * wall / count:.3f} ms an image")
    started = time.process_time()
    _ = source.fingerprint
    used = time.process_time() - started
    size = source.inputs.nbytes / len(source.inputs)
    print(f"JPEGs of 224 x 224: fingerprint of all values: {1e3 * used / count:.3f} ms of CPU an image")
    print(f"JPEGs of 224 x 224: {encoded / count:.0f} bytes encoded, {size:.0f} bytes in the cache")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
