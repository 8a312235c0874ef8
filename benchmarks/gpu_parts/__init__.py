"""The parts of benchmarks/gpu.py. Each has `run(setting)`, which yields its rows one by one, so that what was measured
before a part ran out of time is kept, and `TITLE`, `COLUMNS` and `NOTE` for its table. It may have `table(rows)`, the
rows of the table where they are others, and `summary(rows)`, a sentence below it.
"""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(PROJECT), str(PROJECT / "benchmarks"), str(PROJECT / "tests" / "stand_in")]

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What every part is given: where it runs, its `seconds` from now on, and where data and results are."""

    device: torch.device
    seconds: float
    smoke: bool
    output: Path
    dataset: str
    data_dir: Path
    begun: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until the part should end by itself."""
        return self.seconds - (time.monotonic() - self.begun)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def one_number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}g}"
