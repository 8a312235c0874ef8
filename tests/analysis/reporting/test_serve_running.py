"""The live page while trials run: their curves, before any has ended and until they end."""

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
from browser import HOSTILE, Watched
from made_up import record
from served import ask, make, reading, until

from analysis.reporting.live import serving
from trainables.records.running import COLUMNS, RunningCurves
from trainables.records.tables import write_record


def logged(count: int, slope: float = 1.0) -> list[dict[str, Any]]:
    """Rows of epochs as a trial logs them: train loss 1, 1/2, 1/3, ..., a test result after every second epoch."""
    return [
        dict.fromkeys(COLUMNS)
        | {"epoch": number, "train_loss": slope / number}
        | ({"test_accuracy": 0.5, "test_loss": 2.0} if number % 2 == 0 else {})
        for number in range(1, count + 1)
    ]


def about(trial_id: str, label: str) -> dict[str, str]:
    return {
        "trial_id": trial_id,
        "label": label,
        "metric": "accuracy",
        "metric_unit": "points",
        "metric_direction": "higher",
    }


@pytest.mark.slow
def test_curves_of_running_trials_are_drawn_before_any_has_ended_and_until_they_end(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.records.running.SECONDS", 0.0)
    folder = tmp_path / "live"
    (folder / "trials").mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps({"planned": 4, "started_at": "2026-01-01T00:00:00+00:00"}))
    ended = record(0.5, 3.0, batch_size=16)
    leave = [RunningCurves(folder, about(*trial)) for trial in ((ended.trial["trial_id"], "b16"), ("hostile", HOSTILE))]
    for curves in leave:
        curves(logged(4), 0.4, is_trained=False)
    with serving(folder, port=0) as server, (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        watched = Watched(browser)
        page = watched.page
        page.goto(server.address)
        page.wait_for_selector("#running:not([hidden])")
        assert page.locator("#notice").inner_text() == "No trial has ended yet."
        assert page.locator("#running h2").inner_text() == "Running: 2 trials"
        assert [text.strip() for text in page.locator("#running li").all_inner_texts()] == [
            f"A: {HOSTILE}, running: epoch 4, 40 % done",
            "B: b16, running: epoch 4, 40 % done",
        ]  # in the order of their labels
        drawn = "charts.get(document.querySelector(\"[data-key='running {}'] .plot\")).plot.data.slice(0, 2)"
        assert page.evaluate(drawn.format("train_loss")) == [[1, 2, 3, 4], [1, 0.5, 0.3333, 0.25]]
        assert page.evaluate(drawn.format("test_accuracy")) == [[2, 4], [50, 50]]
        assert page.title() != "taken"
        leave[0](logged(6), 0.6, is_trained=False)  # it goes on, and the open page follows
        page.wait_for_selector("#running li:has-text('B: b16, running: epoch 6, 60 % done')")
        assert page.evaluate(drawn.format("train_loss"))[0] == [1, 2, 3, 4, 5, 6]
        leave[0](logged(6), 0.6, is_trained=True)
        page.wait_for_selector("#running li:has-text('trained, being measured')")
        write_record(folder, ended)  # and ends: it is in the table, and running no more
        page.wait_for_selector(f"tr[data-trial='{ended.trial['trial_id']}']")
        until(lambda: page.locator("#running li").count() == 1)
        assert page.locator("#contents a:has-text('Running trials')").is_visible()
        fcntl.flock(lock, fcntl.LOCK_UN)  # the run was killed: what it left does not run
        page.wait_for_selector("#running", state="hidden")
        assert watched.errors == []
        page.close()


@pytest.mark.slow
def test_running_json_is_sent_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.records.running.SECONDS", 0.0)
    folder = make(tmp_path)
    leave = RunningCurves(folder, about("r", "b16"))
    with reading(folder) as server, (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, headers, body = ask(server, "/running.json")
        assert (status, json.loads(body)["trials"]) == (200, [])
        assert ask(server, "/running.json", If_None_Match=headers["ETag"])[0] == 304
        until(lambda: json.loads(ask(server, "/data.json")[2])["progress"]["is_running"])
        tag = ask(server, "/data.json")[1]["ETag"]
        leave(logged(500), 0.5, is_trained=False)
        until(lambda: ask(server, "/running.json", If_None_Match=headers["ETag"])[0] == 200)
        found = json.loads(ask(server, "/running.json")[2])
        assert found["trials"] == [{"trial_id": "r", "label": "b16", "state": "epoch 500, 50 % done"}]
        assert found["curves"]["trials"][0]["epochs"] == 500
        assert len(found["curves"]["trials"][0]["values"][0]) <= 200
        assert ask(server, "/data.json")[1]["ETag"] == tag  # of which nothing is sent again
