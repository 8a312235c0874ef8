"""What all tests share: the number of threads, the digits, and short ways to say a configuration and a sweep."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from disturbed import heed_interruptions
from made_up import write

from sweeps.session.placement import Placement
from trainables.check import check_trials
from trainables.config import TrialConfig
from trainables.data import Source, load_source
from trainables.records.tables import Record
from trainables.tasks.names import OF_CLASS_NUMBERS

os.environ.setdefault("RAY_AUTH_MODE", "token")  # as sweeps have it: Ray looks once in a process


@pytest.fixture(autouse=True, scope="session")
def threads() -> None:
    """One, as a sweep's trials have, unless OMP_NUM_THREADS says another number."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    heed_interruptions()


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache of the tests' own, also for the sweeps that they start."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def digits() -> Source:
    return load_source("digits")


@pytest.fixture
def svg_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are written as SVG alone, which takes half the time; tests/analysis/charts/test_figures.py is of all."""
    from analysis.charts import style

    monkeypatch.setattr(style, "rendered", partial(style.rendered, kinds=["svg"]))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and saved, but not drawn, which takes most of their time: the files are empty."""
    monkeypatch.setattr("analysis.charts.style.rendered", lambda *_: dict.fromkeys(("png", "svg", "pdf"), b""))


@pytest.fixture
def no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run says which trials there are, and not how long they take: for that it trains some."""
    monkeypatch.setattr("sweeps.plan.estimate.estimate", lambda *_, **__: None)


@pytest.fixture
def no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are the trials tried first, in a process of its own."""

    @contextmanager
    def unchecked(*_: object) -> Iterator[Callable[[], list[str]]]:
        yield list

    monkeypatch.setattr("sweeps.studies.study.checking", unchecked)


@pytest.fixture
def check_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trials are tried first, but in this process: one of their own takes seconds to import PyTorch."""

    @contextmanager
    def checking(
        configs: Sequence[TrialConfig], source: Source, placement: Placement
    ) -> Iterator[Callable[[], list[str]]]:
        def passed() -> list[str]:
            limits = placement.trial_timeout, placement.micro_batch_size, placement.workers_per_trial
            labels = () if source.task in OF_CLASS_NUMBERS else (source.labels, source.test_labels)
            check_trials(configs, source, *limits, labels)
            return []

        yield passed

    monkeypatch.setattr("sweeps.studies.study.checking", checking)


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[[Callable[[list[str]], int], list[str]], str]:
    """`refusal(main, arguments)`: what a command says that refuses them, by status 2 and in one line."""

    def refuse(main: Callable[[list[str]], int], arguments: list[str]) -> str:
        try:
            status: object = main(arguments)
        except SystemExit as exit:
            status = exit.code
        error = capsys.readouterr().err
        assert status == 2, error
        assert error.count("\n") == 1, error
        return error

    return refuse


@pytest.fixture(scope="session")
def make_config(digits: Source) -> Callable[..., TrialConfig]:
    """`make_config(batch_size=16, ...)`: a quick trial on digits, changed as asked."""

    def make(**changes: Any) -> TrialConfig:
        fields: dict[str, Any] = {
            "dataset": "digits",
            "data_fingerprint": digits.fingerprint,
            "train_size": 300,
            "test_size": 1497,
            "split_seed": 0,
            "model_options": '{"widths": [16]}',
            "learning_rate": 0.01,
            "batch_size": 32,
            "epochs": 4,
            "measure_examples": 300,
        }
        return TrialConfig(**fields | changes)

    return make


@pytest.fixture
def write_sweep(tmp_path: Path) -> Callable[..., Path]:
    """`write_sweep(records, name="sweep")`: a results folder with real Parquet files; returns its path."""

    def write_named(records: Iterable[Record], name: str = "sweep") -> Path:
        return write(tmp_path / name, records)

    return write_named
