"""The terminal: time left on a clock that the test turns, a table that fits 80 columns, plain and quiet modes."""

import heapq
import io
import os
import pty
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sweeps.monitoring.consoles import consoles
from sweeps.monitoring.progress import Progress
from trainables.config import NUMBERS_VERSION, TrialConfig

WORKER_START = 5.0  # seconds
SIZES = (16, 32, 64, 128, 300)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.seconds)
    return now


def result(seconds: float) -> dict[str, Any]:
    return {"status": "completed", "time_total_s": seconds, "test_accuracy": 0.95, "box_sharpness": 0.3}


def play(
    configs: list[TrialConfig], seconds_of: Callable[[TrialConfig], float], slots: int, clock: SimpleNamespace
) -> list[tuple[float, float | None]]:
    """Runs the trials in order on `slots` workers that start slowly; returns (true time left, time left as said)."""
    shown = Progress(configs, 0, Console(file=io.StringIO()))
    shown.begin({"CPU": slots}, None)
    waiting, said = list(configs), []
    running: list[Any] = []

    def start(delay: float) -> None:
        config = waiting.pop(0)
        trial = SimpleNamespace(config={"trial_id": config.trial_id}, last_result=result(seconds_of(config)))
        shown.on_trial_start(0, [], trial)
        heapq.heappush(running, (clock.seconds + delay + seconds_of(config), config.trial_id, trial))

    for _ in range(slots):
        start(WORKER_START)
    while running:
        at, _, trial = heapq.heappop(running)
        clock.seconds = at
        shown.on_trial_complete(0, [], trial)
        if waiting:
            start(0.04)
        said.append((at, shown._seconds_left()))
    return [(clock.seconds - at, left) for at, left in said]


@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize("cost", [0.0, 0.5, -0.3])  # a trial takes 2 s times (batch size / 16) to this power
def test_time_left_is_right_within_a_factor_of_two_after_a_tenth(
    make_config: Callable[..., TrialConfig], clock: SimpleNamespace, slots: int, cost: float
) -> None:
    """Smallest batch first within a replicate, as the grid orders them, so that at first few sizes are known."""
    configs = [make_config(batch_size=size, seed=seed) for seed in range(20) for size in SIZES]
    history = play(configs, lambda config: 2.0 * (config.batch_size / 16) ** cost, slots, clock)
    whole = history[0][0]
    later = [(true, said) for true, said in history if 0.01 * whole < true < 0.9 * whole]
    assert len(later) > 50
    assert all(said is not None and true / 2 < said < 2 * true for true, said in later)


def test_a_first_trial_alone_knows_a_time_left(make_config: Callable[..., TrialConfig], clock: SimpleNamespace) -> None:
    configs = [make_config(seed=seed) for seed in range(4)]
    assert play(configs, lambda config: 3.0, 1, clock)[0][1] == pytest.approx(9.0, rel=0.1)


def test_a_long_trial_says_how_far_it_is(make_config: Callable[..., TrialConfig], clock: SimpleNamespace) -> None:
    """Two of four trials of 100 epochs run at 10 s an epoch: a line a minute, and the time left without measures."""
    configs = [make_config(seed=seed, epochs=100, target_loss=None) for seed in range(4)]
    trials = [SimpleNamespace(config={"trial_id": config.trial_id}) for config in configs[:2]]
    written = io.StringIO()
    shown = Progress(configs, 0, Console(file=written, width=200))
    shown.begin({"CPU": 2}, None)
    for trial in trials:
        shown.on_trial_start(0, [], trial)
    before = len(written.getvalue().splitlines())
    for epoch in range(1, 21):
        clock.seconds += 10
        for trial in trials:
            shown.on_trial_result(0, [], trial, {"epoch": epoch})
    lines = written.getvalue().splitlines()[before:]
    assert len(lines) == 3
    assert "2 running (epoch 17 to 18)" in lines[-1]
    assert shown._seconds_left() == pytest.approx(2 * 800 / 2 + 2 * 1000 / 2)  # of a speed of two trials at once
    assert "at least 30 min 00 s left" in shown._left_text()


def test_no_time_left_is_projected_to_a_target_loss(
    make_config: Callable[..., TrialConfig], clock: SimpleNamespace
) -> None:
    config = make_config(epochs=100, target_loss=0.001)
    shown = Progress([config], 0, Console(file=io.StringIO()))
    trial = SimpleNamespace(config={"trial_id": config.trial_id})
    shown.on_trial_start(0, [], trial)
    clock.seconds += 10
    shown.on_trial_result(0, [], trial, {"epoch": 1})
    assert shown._left_text() == "unknown time left"


def test_the_live_table_fits_80_columns(make_config: Callable[..., TrialConfig]) -> None:
    """Also with the longest labels there are, and hostile words in them."""
    written = io.StringIO()
    config = make_config(
        batch_size=300, learning_rate=0.00123456, warmup_epochs=2.5, switch_epoch=3, switch_batch_size=16,
        learning_rate_scaling="sqrt", base_batch_size=16, clip_norm=0.123456, seed=123456,
    )  # fmt: skip
    shown = Progress([config], 100, Console(file=written, width=80, force_terminal=True, markup=False))
    shown.on_trial_start(0, [], SimpleNamespace(config={"trial_id": config.trial_id}))
    shown.on_trial_complete(0, [], SimpleNamespace(config={"trial_id": config.trial_id}, last_result=result(3.0)))
    plain = Console(file=written, width=80, color_system=None)
    written.truncate(0)
    plain.print(shown._table())
    lines = written.getvalue().strip("\0").splitlines()
    assert len(lines) >= 5
    assert max(map(len, lines)) <= 80
    assert "".join(config.label.split()) in "".join("".join(lines).split())  # wrapped, not cut


def test_plain_and_quiet_consoles(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    try:
        with os.fdopen(os.dup(follower), "w") as terminal:
            monkeypatch.setattr("sys.stdout", terminal)
            for options, is_live, is_quiet in (
                ({}, True, False),
                ({"plain": True}, False, False),
                ({"quiet": True}, False, True),
            ):
                talk, last = consoles(**{"plain": False, "quiet": False, **options})
                assert (talk.is_terminal and not talk.quiet) == is_live
                assert talk.quiet == is_quiet
                assert not last.quiet
    finally:
        os.close(leader)
        os.close(follower)


def test_the_best_is_the_best_in_the_primary_metric(make_config: Callable[..., TrialConfig]) -> None:
    """Of 1.7 and 1.6 nats the lower is the better."""
    about = {"metric": "nats", "metric_unit": "nats per token", "metric_direction": "lower", "status": "completed"}
    configs = [make_config(batch_size=size) for size in (16, 32, 64)]
    shown = Progress(configs, 0, Console(file=io.StringIO()))
    for config, nats in zip(configs, (1.7, 1.6, 1.65), strict=True):
        result = {**about, "test_metric": nats, "test_accuracy": 0.3}
        shown.on_trial_complete(0, [], SimpleNamespace(config={"trial_id": config.trial_id}, last_result=result))
    assert shown._best_text() == f"test loss 1.6 nats per token ({configs[1].label})"
    plain = Progress(configs, 0, Console(file=io.StringIO()))
    for config, accuracy in zip(configs, (0.91, 0.95, 0.9), strict=True):
        result = {"status": "completed", "test_accuracy": accuracy}
        plain.on_trial_complete(0, [], SimpleNamespace(config={"trial_id": config.trial_id}, last_result=result))
    assert plain._best_text() == f"95.00 % test accuracy ({configs[1].label})"


def test_a_sequential_sweep_shows_no_results_between_its_looks(make_config: Callable[..., TrialConfig]) -> None:
    """Neither of the trials that end now nor of those of the looks before, in the live table and in plain lines."""
    small, large = (make_config(batch_size=size) for size in (16, 300))
    ended = [{**vars(small), "trial_id": small.trial_id, **result(1.0), "numbers_version": NUMBERS_VERSION,
              "remedy": "none"}]  # fmt: skip
    written = {}
    for hides in (True, False):
        console = Console(file=io.StringIO(), width=200)
        shown = Progress([large], 1, console, ended, hides_results=hides)
        last = result(1.0) | {"test_accuracy": 0.9}
        shown.on_trial_complete(0, [], SimpleNamespace(config={"trial_id": large.trial_id}, last_result=last))
        console.print(shown._display())
        written[hides] = console.file.getvalue()  # type: ignore[attr-defined]
    for result_shown in ("95.00", "90.00", "+5.00", "0.3"):
        assert result_shown in written[False]
        assert result_shown not in written[True]
    assert "2/2 trials done" in written[True]
    assert "not shown before the next look" in written[True]
    assert [line.split()[:2] for line in written[True].splitlines()[-2:]] == [["16", "1/1"], ["300", "1/1"]]
