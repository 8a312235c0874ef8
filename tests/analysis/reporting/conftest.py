"""A report with everything in it, hostile text too, and a browser to open it in."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from browser import HOSTILE, Watched, chromium
from made_up import failed, grid, record, with_epochs, write

from analysis.data.load import load_sweep
from analysis.data.progress import progress_of
from analysis.reporting.page import page_html
from analysis.reporting.page.data import page_data
from trainables.records.tables import Record


def spectrum(found: Record) -> Record:
    common = {"measure": "spectral_density", "method": "quantile", "space": "full", "epsilon": None, "converged": True}
    found.measures.extend({**common, "scale": float(node), "value": 1.0 / node} for node in range(1, 9))
    return found


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = [with_epochs(found) for found in grid()]
    spectrum(records[0])
    records.append(with_epochs(record(batch_size=32, row={"status": "diverged", "flags": ["diverged"]}), number=250))
    records.append(
        failed(f"Traceback\nRuntimeError: {HOSTILE}", batch_size=128, model_options=json.dumps({"x": HOSTILE}))
    )
    records[1].trial["flags"] = ["missed target loss", HOSTILE]
    folder = write(tmp_path_factory.mktemp("page") / "made up", records)
    note = {"command": ["batch_grid.py", HOSTILE], "started_at": HOSTILE, "planned": 40}
    (folder / "sweep.json").write_text(json.dumps(note))
    path = {"trial_id": records[0].trial["trial_id"], "other_trial_id": records[1].trial["trial_id"], "kind": "linear"}
    rest = {"direction_seed": None, "beta": None, "batch_norm": "recalibrated", "split": "train", "accuracy": 0.5}
    points = [{**path, **rest, "alpha": alpha, "loss": 1 + alpha**2} for alpha in (0.0, 0.5, 1.0)]
    pd.DataFrame(points).to_parquet(folder / "profiles.parquet")
    loaded = load_sweep(folder)
    data = page_data(loaded, progress_of(loaded.trials, folder))
    (folder / "report.html").write_text(page_html(loaded.name, data))
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One for all tests of a process; each opens pages of its own."""
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser: Any, sweep: Path) -> Iterator[Any]:
    """The report of `sweep`, opened; fails afterwards if it said an error or asked anybody."""
    watched = Watched(browser)
    address = (sweep / "report.html").as_uri()
    watched.page.goto(address)
    yield watched.page
    assert watched.errors == []
    assert {request for request in watched.requests if not request.startswith("blob:")} == {address}
    watched.page.close()
