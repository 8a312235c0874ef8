"""The figures: what is drawn and said, looked up in the Figure object, and the scripts around them."""

import io
import itertools
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from made_up import failed, grid, record
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from narrow import as_a, not_none

from analysis.charts import style
from analysis.charts.batch_size_curves import batch_size_curves
from analysis.charts.gap_vs_sharpness import gap_vs_sharpness
from analysis.charts.learning_rate_heatmap import learning_rate_heatmap
from analysis.charts.style import batch_size_colours, draw_means, log_axis, new_figure, rank_colours, save
from analysis.charts.switch_point import switch_point
from analysis.data.load import comparable, load_sweep
from analysis.learning_rate_heatmap import main as heatmap_main
from analysis.stats.means import Interval, Mean, mean_over_replicates
from analysis.stats.wording import plain_number, three_digits
from analysis.switch_point import main as switch_point_main
from trainables.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
DRAWN = (gap_vs_sharpness, batch_size_curves, switch_point, learning_rate_heatmap)


def words(figure: Figure) -> str:
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    panels = [
        t
        for a in figure.axes
        for t in (
            a.get_xlabel(),
            a.get_ylabel(),
            a.get_title(),
            a.get_title("left"),
            *(one.get_text() for one in a.texts),
        )
    ]
    return " ".join([*legends, *panels, figure.get_supxlabel()]).replace("\n", " ")


def test_many_learning_rates_stay_at_their_batch_size(write_sweep: Callable[..., Path]) -> None:
    rates = [round(0.001 * place, 3) for place in range(1, 31)]
    sweep = load_sweep(write_sweep(grid(learning_rates=rates, seeds=(0, 1), switch_epochs=(None,))))
    axes = batch_size_curves(sweep).axes[0]
    lines = [line for line in axes.lines if str(line.get_label()).startswith("learning rate")]
    assert len(lines) == 30
    for line in lines:
        np.testing.assert_allclose(np.asarray(line.get_xdata(), dtype=float) / [16, 64, 512], 1, atol=0.3)
    assert len({to_rgb(line.get_color()) for line in lines}) == 30


def test_gap_map(write_sweep: Callable[..., Path]) -> None:
    records = grid()
    for entry in records:
        entry.trial["flags"] = ["paper method far below strong"]
    records[3].trial["flags"] = ["missed target loss"]
    figure = gap_vs_sharpness(load_sweep(write_sweep(records)))
    said = words(figure)
    assert len(figure.axes) == 4 * 2  # measures x learning rates
    assert all(axes.get_xscale() == "log" for axes in figure.axes)
    for text in (
        "large-batch gap [percentage points]",
        "box sharpness, epsilon 1e-3, strong [%]",
        "box sharpness, epsilon 1e-3, paper [%]",
        "box sharpness, epsilon 5e-4, strong [%]",
        "largest Hessian eigenvalue",
        "matched ρ = +",
        "pooled ρ = ",
        "learning rate 0.003 ρ = ",
        "learning rate 0.01 ρ = ",
        "same seed, split and setting",
        "off target",
        "paper far below strong",
        "switched",
    ):
        assert text in said, text
    assert "_" not in said  # no names of columns
    frame = comparable(load_sweep(write_sweep(records, "again")))
    for axes, rate in zip(figure.axes[:2], (0.003, 0.01), strict=True):
        rows = frame[frame["learning_rate"] == rate]
        points = np.concatenate([c.get_offsets() for c in axes.collections if len(np.asarray(c.get_offsets()))])
        assert {tuple(np.round(point, 9)) for point in points} == {
            (round(entry["box_sharpness"], 9), round(100 * entry["large_batch_gap"], 9))
            for entry in rows.to_dict("records")
        }
        of_size = rows[(rows["batch_size"] == 512) & ~rows["is_switched"]]
        mean = np.exp(np.log(of_size["box_sharpness"]).mean()), 100 * of_size["large_batch_gap"].mean()
        large = [np.asarray(line.get_xydata())[0] for line in axes.lines if line.get_markersize() == 7]
        assert any(point == pytest.approx(mean) for point in large)
        (joined,) = [line.get_xydata() for line in axes.lines if line.get_linewidth() == 0.5]
        assert np.isnan(joined).any(axis=1).sum() == 3  # a line for each seed, through its three batch sizes
        assert len(np.asarray(joined)) == 3 * (3 + 1)


def test_gap_map_of_many_learning_rates_has_one_panel_a_measure(write_sweep: Callable[..., Path]) -> None:
    figure = gap_vs_sharpness(load_sweep(write_sweep(grid(learning_rates=[0.001 * 2**k for k in range(5)]))))
    assert len(figure.axes) == 4
    assert "learning rate" not in words(figure)


def test_gap_map_counts_what_a_log_axis_cannot_show(write_sweep: Callable[..., Path]) -> None:
    records = [
        *grid(),
        record(0.8, sharpness=0.0, seed=9, batch_size=64),
        record(0.9, sharpness=None, seed=9),
    ]
    said = words(gap_vs_sharpness(load_sweep(write_sweep(records))))
    assert "2 trials without a value above 0 not shown" in said


def test_curves_draw_means_and_intervals(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(grid()))
    figure = batch_size_curves(sweep)
    said = words(figure)
    for text in (
        "test accuracy [%]",
        "batch size [examples]",
        "large-batch gap [percentage points]",
        "3 replicates",
    ):
        assert text in said, text
    line = figure.axes[0].lines[0]
    frame = comparable(sweep)
    rows = frame[(frame["learning_rate"] == 0.003) & (frame["batch_size"] == 16) & ~frame["is_switched"]]
    mean = not_none(mean_over_replicates(rows, "test_accuracy"))
    assert np.asarray(line.get_ydata())[0] == pytest.approx(100 * mean.value)
    bar = figure.axes[0].lines[1].get_ydata()
    assert list(np.asarray(bar)) == pytest.approx(
        [100 * not_none(mean.interval).low, 100 * not_none(mean.interval).high]
    )
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["16", "64", "512"]


def test_a_bar_beyond_reach_ends_in_an_arrow() -> None:
    wide, narrow, signed = Interval(1e-26, 1e28), Interval(90.0, 110.0), Interval(-1e5, 1e5)
    with style.new_figure(height=2) as figure:
        axes = figure.subplots()
        draw_means(axes, [1, 2, 3], [Mean(100.0, own, 2, 2) for own in (wide, narrow, signed)], color="C0")
    bars = [[*map(float, np.asarray(line.get_ydata()))] for line in axes.lines[1:]]
    assert bars == [[0.1, 1e5], [0.1], [1e5], [90, 110], [-1e5, 1e5]]
    assert [line.get_marker() for line in axes.lines[1:]] == ["_", "v", "^", "_", "_"]


def test_one_replicate_has_no_bars_and_says_so(write_sweep: Callable[..., Path]) -> None:
    figure = batch_size_curves(load_sweep(write_sweep(grid(seeds=[0], learning_rates=[0.01]))))
    assert len(figure.axes[0].lines) == 1 + 1  # the line, and the empty line of hollow points
    assert "One replicate (random seed and data split): no intervals." in words(figure)


def test_switch_points_run_from_large_to_small(write_sweep: Callable[..., Path]) -> None:
    figure = switch_point(load_sweep(write_sweep(grid(switch_epochs=(None, 5, 20)))))
    ticks = [label.get_text().split("\n")[0] for label in figure.axes[0].get_xticklabels()]
    assert ticks == ["0", "5", "20", "none"]
    assert "16 → 512 64 → 512" in words(figure)
    assert len(np.asarray(figure.axes[0].lines[0].get_xdata())) == 4


RATES = (0.001, 0.003, 0.01)


def test_heat_maps_print_the_means_in_readable_colours(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(grid(learning_rates=RATES)))
    figure = learning_rate_heatmap(sweep)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert len(texts) == 9
    frame = comparable(sweep)
    rows = frame[(frame["learning_rate"] == 0.01) & (frame["batch_size"] == 16) & ~frame["is_switched"]]
    assert texts[0] == f"{100 * rows['test_accuracy'].mean():.1f}"
    assert {text.get_color() for axes in figure.axes for text in axes.texts} == {"black", "white"}
    stacked = learning_rate_heatmap(load_sweep(write_sweep(grid([2**k for k in range(8)], RATES), "wide")))
    assert len({axes.get_position().x0 for axes in stacked.axes}) == 1


def test_a_heat_map_with_holes_and_one_value(write_sweep: Callable[..., Path]) -> None:
    rates = (0.1, 0.2, 0.3)
    records = [record(batch_size=2**rank, learning_rate=rate) for rank, rate in enumerate(rates)]
    sweep = load_sweep(write_sweep(records))
    assert [text.get_text() for text in learning_rate_heatmap(sweep).axes[1].texts] == ["1.00"] * 3


def test_two_learning_rates_have_no_heat_map(write_sweep: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="at least 3 learning rates for a heat map, got 2"):
        learning_rate_heatmap(load_sweep(write_sweep(grid())))


def test_what_cannot_be_drawn_is_said(write_sweep: Callable[..., Path]) -> None:
    only_failed = load_sweep(write_sweep([failed("boom")], "failed"))
    for draw in DRAWN:
        with pytest.raises(UserError, match=r"^`results` must hold .*, got .* in "):
            draw(only_failed)
    one_size = load_sweep(write_sweep(grid([16], RATES, switch_epochs=[None]), "one"))
    for draw in (gap_vs_sharpness, batch_size_curves, switch_point):
        with pytest.raises(UserError, match="got"):
            draw(one_size)
    assert learning_rate_heatmap(one_size).axes


def test_save_writes_rendered_of_the_right_size_and_nothing_else(write_sweep: Callable[..., Path]) -> None:
    folder = write_sweep(grid())
    paths = save(batch_size_curves(load_sweep(folder)), folder, "curves")
    assert sorted(path.name for path in (folder / "figures").iterdir()) == ["curves.pdf", "curves.png", "curves.svg"]
    png = paths[0].read_bytes()
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20]) == 1420  # 7.1 inches at 200 dpi
    root = ElementTree.fromstring(paths[1].read_bytes())
    assert root.tag.endswith("svg")
    assert "batch size [examples]" in {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert paths[2].read_bytes().startswith(b"%PDF")
    pdf = paths[2].read_bytes()
    before = paths[1].read_bytes()
    save(batch_size_curves(load_sweep(folder)), folder, "curves")
    assert paths[1].read_bytes() == before
    assert paths[2].read_bytes() == pdf


def test_drawing_once_for_each_file_gives_what_savefig_does(write_sweep: Callable[..., Path]) -> None:
    sweep, buffer = load_sweep(write_sweep(grid())), io.BytesIO()
    with matplotlib.rc_context(style._STYLE):
        batch_size_curves(sweep).savefig(buffer, format="png", dpi=style.DPI)
    files = style.rendered(batch_size_curves(sweep))
    assert files["png"] == buffer.getvalue()
    assert ElementTree.fromstring(files["svg"]).get("width") == "511.2pt"  # 7.1 inches


def test_many_points_are_small_and_one_image_in_the_svg(
    write_sweep: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = load_sweep(write_sweep(grid()))

    def drawn() -> tuple[float, int]:
        figure = gap_vs_sharpness(sweep)
        sizes = max(as_a(PathCollection, c).get_sizes()[0] for c in figure.axes[0].collections)
        return sizes, style.rendered(figure, ["svg"])["svg"].count(b"<image")

    size, images = drawn()
    monkeypatch.setattr("analysis.charts.gap_vs_sharpness.MANY_POINTS", 4)
    smaller, more_images = drawn()
    assert images == 0
    assert smaller == pytest.approx(size * 4 / len(comparable(sweep)))
    assert more_images >= len(gap_vs_sharpness(sweep).axes)


def test_colours_are_distinct_and_ordered_by_rank() -> None:
    colours = batch_size_colours([512, 16, 64, 16])
    assert list(colours) == [16, 64, 512]
    lightness = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b, _ in colours.values()]
    assert lightness == sorted(lightness)


@pytest.mark.parametrize("count", [1, 2, 5, 8, 12])
def test_every_colour_stands_out_on_white(count: int) -> None:
    """WCAG 2.2, 1.4.11: a contrast of 3 : 1, the largest batch size included."""
    values = list(range(count))
    for colour in (*batch_size_colours(values).values(), *rank_colours(values).values(), *style.LINE_COLOURS):
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
        assert 1.05 / (np.dot([0.2126, 0.7152, 0.0722], parts) + 0.05) >= 3, colour


def test_numbers() -> None:
    assert [plain_number(v) for v in (0.00123, 12.34, 12345.0, 2e6, 0.5)] == [
        "0.00123",
        "12.3",
        "12300",
        "2e+06",
        "0.5",
    ]
    assert [three_digits(v) for v in (0.58, 12.0, 300.0, 0.0)] == ["0.580", "12.0", "300", "0"]


def script(name: str, *arguments: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "analysis" / name), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_scripts_work_from_anywhere_and_print_what_they_wrote(write_sweep: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_sweep(grid())
    done = script("switch_point.py", folder, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [Path(line).name for line in done.stdout.splitlines()] == [
        "switch_point.png",
        "switch_point.svg",
        "switch_point.pdf",
    ]


def test_a_bad_folder_is_one_line_and_status_2(tmp_path: Path) -> None:
    """The other scripts: tests/test_bad_input.py."""
    done = script("summary.py", tmp_path / "nothing", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("summary.py: error: `results` must ")
    assert done.stderr.count("\n") == 1


def test_a_sweep_without_the_data_is_one_line_and_status_2(
    write_sweep: Callable[..., Path], refusal: Callable[..., str]
) -> None:
    folder = write_sweep(grid(switch_epochs=[None]))
    refusal(switch_point_main, [str(folder)])
    assert not (folder / "figures").exists()


def test_no_argument_is_status_2_and_one_line(refusal: Callable[..., str]) -> None:
    refusal(heatmap_main, [])


def test_batch_sizes_are_written_in_full() -> None:
    """Four-digit batch sizes on an axis, which three significant digits would make 1020 and 4100."""
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 1024, 4096], [1, 2, 3])
    log_axis(axes, "x", at=[1, 1024, 4096])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "1024", "4096"]


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [
        ((256, 1000, 2500, 6000, 15000, 30000, 60000), ["256", "1000", "", "6000", "", "", "60000"]),
        ((16, 32, 64, 128, 300), ["16", "32", "64", "128", "300"]),
        ((8, 9), ["8", "9"]),
    ],
)
def test_labels_of_batch_sizes_do_not_touch(sizes: Sequence[int], shown: Sequence[str]) -> None:
    """Three panels to a figure, in which 15000, 30000 and 60000 would be one row of digits."""
    with new_figure(height=2.3) as figure:
        axes = figure.subplots(1, 3)[0]
        axes.plot(sizes, sizes)
        log_axis(axes, "x", at=sizes)
    figure.draw_without_rendering()
    labels = [label for label in axes.get_xticklabels() if label.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert [label.get_text() for label in axes.get_xticklabels()] == list(shown)
