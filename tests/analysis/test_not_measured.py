"""Every command on a sweep whose measures were switched off, or failed: it says so, and shows what there is."""

import dataclasses
import importlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from made_up import grid
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.charts.batch_size_curves import batch_size_curves
from analysis.charts.style import new_figure
from analysis.data.load import load_sweep
from trainables.records.tables import Record

Write = Callable[[Sequence[Record]], Path]
COLUMNS = dict.fromkeys(("box_sharpness", "box_sharpness_paper", "hessian_max_eig"))
SAID = {
    "summary": "Sharpness was not measured in any trial",
    "gap_vs_sharpness": "`results` must hold trials with measured sharpness, got none in",
    "keskar_tables": "LB is sharper, full space, epsilon 1e-3, strong: mlp on digits 512: not measured.",
    "resilience": "Box sharpness was not measured.",
    "evolution": "`results` must hold trials measured along the run",
    "warmup_heatmap": "`results` must hold plain trials at 2 or more warmups, got 1",
}
OTHERS = (
    "batch_size_curves", "free_batch", "importance", "keskar_figure4", "leaderboard",
    "learning_rate_heatmap", "remedies", "report", "switch_point", "warm_start",
)  # fmt: skip


def unmeasured(reason: str | None) -> list[Record]:
    """A made-up sweep whose measures have no value, for a reason, or none at all."""
    rows = [{"measure": "box_sharpness", "space": "full", "error": reason}] if reason else []
    return [
        dataclasses.replace(entry, trial=entry.trial | COLUMNS, measures=rows)
        for entry in grid((16, 512), (0.003, 0.01, 0.03), seeds=(0, 1))
    ]


@pytest.mark.parametrize("reason", [pytest.param(None, marks=pytest.mark.slow), "RuntimeError: no second derivatives"])
def test_every_command_copes(
    write_sweep: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, reason: str | None
) -> None:
    def rendered(figure: Figure) -> dict[str, bytes]:
        figure.draw_without_rendering()
        return {"png": b"", "svg": b"<svg/>", "pdf": b""}

    monkeypatch.setattr("analysis.charts.style.rendered", rendered)  # most of the time goes into the files
    folder = write_sweep(unmeasured(reason))
    for name in (*SAID, *OTHERS):
        status = importlib.import_module(f"analysis.{name}").main([str(folder)])
        printed = capsys.readouterr()
        said = " ".join((printed.out + printed.err).split())
        assert status == 0 if name in OTHERS else status in (0, 2), (name, said)
        assert SAID.get(name, "") in said, name
        assert not re.search(r"\bnan\b|Traceback", said, re.IGNORECASE), (name, said)
        if name == "gap_vs_sharpness" and reason:
            assert said.endswith(f": {reason}")


def texts(figure: Figure) -> list[list[str]]:
    return [[text.get_text() for text in axes.texts] for axes in figure.axes]


DRAWINGS: tuple[Callable[[Axes], object], ...] = (
    lambda axes: axes.plot([1], [2]),
    lambda axes: axes.axhline(0),
    lambda axes: axes.scatter([1], [2]),
)


def test_an_empty_panel_says_so(write_sweep: Write) -> None:
    whole = load_sweep(write_sweep(unmeasured(None)))
    assert [axes.get_ylabel() for axes in batch_size_curves(whole).axes] == [
        "test accuracy [%]", "large-batch gap\n[percentage points]"
    ]  # fmt: skip
    with new_figure(height=2.0) as figure:
        for axes, draw in zip(
            figure.subplots(1, 3),
            DRAWINGS,
            strict=True,
        ):
            draw(axes)
    assert texts(figure) == [[], ["not measured"], []]
