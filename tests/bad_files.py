"""Files and code that are wrong in one way each, for test_bad_input.py."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

CODE = """
import time, numpy as np, torch
def _data(**changes):
    parts = dict(a=np.zeros((20, 4), "float32"), b=np.arange(20) % 2, c=np.zeros((6, 4), "float32"), d=np.arange(6) % 2)
    return tuple((parts | changes).values())
def good_data(): return _data()
def data_exits(): raise SystemExit
def data_raises(): raise RuntimeError("no such\\nfile")
def data_three(): return _data()[:3]
def data_nan(): return _data(a=np.full((20, 4), np.nan, "float32"))
def data_float_labels(): return _data(b=np.zeros(20))
def data_negative(): return _data(b=np.arange(20) - 5)
def data_few_labels(): return _data(b=np.arange(3))
def data_shapes(): return _data(c=np.zeros((6, 5), "float32"))
def data_empty(): return _data(a=np.zeros((0, 4), "float32"), b=np.zeros(0, int))
def data_none(): return (None, None, None, None)
def data_text(): return _data(a=np.array(["a"] * 20))
class Net(torch.nn.Module):
    def __init__(self, outputs): super().__init__(); self.layer = torch.nn.LazyLinear(outputs)
    def forward(self, x): return self.layer(x.flatten(1))
def good_model(shape, classes): return Net(classes)
def model_raises(shape, classes): raise RuntimeError("not\\ntoday")
def model_wrong_shape(shape, classes): return Net(classes + 1)
def model_no_module(shape, classes): return 3
def model_other_arguments(): return Net(2)
class Fails(Net):
    def forward(self, x): raise ValueError("in forward")
def model_forward_raises(shape, classes): return Fails(classes)
class Scalar(Net):
    def forward(self, x): return super().forward(x).sum()
def model_scalar(shape, classes): return Scalar(classes)
class Nothing(Net):
    def forward(self, x): return None
def model_hangs(shape, classes): time.sleep(20)
class Slow(Net):
    def forward(self, x):
        if self.training: time.sleep(20)
        return super().forward(x)
def model_hangs_in_training(shape, classes): return Slow(classes)
def model_none(shape, classes): return Nothing(classes)
not_callable = 3
"""


def write_bad_files(folder: Path) -> None:
    """Fills `folder` with them."""
    (folder / "users_code.py").write_text(CODE)
    (folder / "exiting_code.py").write_text("import sys\nsys.exit()\n")
    (folder / "broken_code.py").write_text("def model(:\n")
    (folder / "text.txt").write_text("ab")
    (folder / "latin.txt").write_bytes(b"\xff\xfe\xfa" * 100)
    _images(folder)
    _tables(folder)
    _sweeps(folder)
    (folder / "garbage.pt").write_bytes(b"PK\x03\x04 not an archive")
    (folder / "empty.pt").write_bytes(b"")
    torch.save([1, 2], folder / "list.pt")
    torch.save({"w": torch.zeros(3)}, folder / "other.pt")
    torch.save(torch.nn.Linear(2, 2), folder / "module.pt")  # a pickle
    (folder / "wrong.yaml").write_text("- [1, 2\n")


def _png(size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros(size, "uint8")).save(buffer, "png")
    return buffer.getvalue()


def _tables(folder: Path) -> None:
    """Parquet datasets."""
    image = [{"bytes": _png(), "path": None}]
    whole = pa.table({"image": image * 4, "label": [0, 1, 0, 1]})
    kinds = {
        "p_no_label": pa.table({"image": image}),
        "p_text_label": pa.table({"image": image, "label": ["cat"]}),
        "p_null_label": pa.table({"image": image * 2, "label": [0, None]}),
        "p_plain_image": pa.table({"image": [1.0], "label": [0]}),
        "p_not_an_image": pa.table({"image": [{"bytes": b"no image", "path": None}], "label": [0]}),
        "p_null_image": pa.table({"image": [{"bytes": None, "path": None}, image[0]], "label": [0, 1]}),
        "p_sizes": pa.table({"image": [*image, {"bytes": _png((5, 4)), "path": None}], "label": [0, 1]}),
        "p_negative": pa.table({"image": image * 2, "label": [0, -1]}),
        "p_empty": whole.slice(0, 0),
    }
    for name, table in kinds.items():
        (folder / name).mkdir()
        pq.write_table(table, folder / name / "train.parquet")
        pq.write_table(whole, folder / name / "test.parquet")
    (folder / "p_no_test").mkdir()
    pq.write_table(whole, folder / "p_no_test" / "train.parquet")
    for name, content in (("p_garbage", b"PAR1 no PAR1"), ("p_cut", None)):
        (folder / name).mkdir()
        pq.write_table(whole, folder / name / "test.parquet")
        cut = (folder / name / "test.parquet").read_bytes()[:200]
        (folder / name / "train.parquet").write_bytes(cut if content is None else content)


def _images(folder: Path) -> None:
    """Image folders."""
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            for kind in ("i_classes", "i_damaged", "i_sizes"):
                (folder / kind / part / name).mkdir(parents=True)
                (folder / kind / part / name / "1.png").write_bytes(_png())
    (folder / "i_classes" / "train" / "emu").mkdir()
    (folder / "i_classes" / "train" / "emu" / "1.png").write_bytes(_png())
    (folder / "i_damaged" / "train" / "cat" / "1.png").write_bytes(_png()[:30])
    (folder / "i_sizes" / "train" / "dog" / "1.png").write_bytes(_png((7, 4)))
    (folder / "i_no_images" / "train" / "cat").mkdir(parents=True)


def _sweeps(folder: Path) -> None:
    """Results folders."""
    for name in ("s_empty", "s_record_cut", "s_record_format", "s_record_no_object", "s_table_cut", "s_table_columns"):
        (folder / name / "trials").mkdir(parents=True)
        (folder / name / "checkpoints").mkdir()
    (folder / "s_record_cut" / "trials" / "a.json").write_text('{"format": 1, "trial": {"tr')
    (folder / "s_record_format" / "trials" / "a.json").write_text(json.dumps({"format": 99}))
    (folder / "s_record_no_object" / "trials" / "a.json").write_text("[1, 2]")
    (folder / "s_table_cut" / "trials.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"trial_id": ["a"]}), folder / "s_table_columns" / "trials.parquet")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.tex").write_text("dear to somebody")
    (folder / "a_file").write_text("no folder")
