"""Who listens to a run: the progress bar, the log, warnings."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from types import SimpleNamespace

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig, open_source, runs
from ray_kmeans.clustering.state import Iteration, Stop
from ray_kmeans.clustering.stopping import StopRule
from ray_kmeans.observe import events as ev
from ray_kmeans.observe import listeners
from ray_kmeans.observe.listeners import LogLines, Progress, tell_all, warn
from ray_kmeans.store.model_dir import ModelDir

X = np.random.default_rng(3).normal(size=(200, 3)).astype(np.float32)
HERE = RunConfig(num_workers=0)


def step_line(iteration, inertia=12.5, rows=200):
    """One line of the history; the tests of all who read lines build them here."""
    return Iteration(
        iteration=iteration, rows=rows, inertia=inertia, shift=0.25, empty=0, digest="d"
    )


def done(iteration, inertia=12.5, seconds=0.5):
    return ev.IterationDone(step_line(iteration, inertia), seconds=seconds)


RUN = [
    ev.DataLoaded(rows=200, features=3, seconds=0.1, coordinator=("h", 1), workers=(("h", 2),)),
    ev.KernelsReady((("AMX int8", 2, 0.5),)),
    ev.Seeded("random", num_clusters=4, seconds=0.1),
    ev.FitStarted(num_clusters=4, iteration=0, last_iteration=9),
    *map(done, range(1, 10)),
    ev.CheckpointSaved("m/00000000-iteration-9.json", 9),
    ev.FitEnded(Stop.STEPS, 9),
]


def fit(tmp_path, **config):
    config = RunConfig(num_workers=0, **config)
    km = KMeansClustering(4, str(tmp_path / "model"), X[:4], use_mini_batch=False, config=config)
    return km.fit(X, steps=6)


def test_progress_draws_nothing_where_standard_error_is_no_terminal(tmp_path, capfd):
    fit(tmp_path)
    progress = Progress()
    for event in [*RUN, ev.WorkerReplaced(1, "it died"), ev.Waiting(1, 2, 0.0)]:
        progress(event)

    assert capfd.readouterr() == ("", "")


def on_a_terminal(code):
    """Run code whose standard error is a terminal; return what that shows, line by line."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:
        pass  # the other side is closed
    finally:
        os.close(ours)
        process.wait()
    assert process.returncode == 0, shown.decode()
    return re.split(r"[\r\n]+", shown.decode())


CODE = """
import numpy as np
from ray_kmeans import KMeansClustering, RunConfig
X = np.random.default_rng(3).normal(size=(200, 3)).astype(np.float32)
config = RunConfig(num_workers=0, progress={progress})
km = KMeansClustering(4, {model_dir!r}, X[:4], use_mini_batch=False, config=config)
km.fit(X, {limit})
"""


@pytest.mark.parametrize("limit", ["steps=6", ""])
def test_progress_shows_iterations_and_inertia_on_a_terminal(tmp_path, limit):
    lines = on_a_terminal(CODE.format(progress=True, model_dir=str(tmp_path), limit=limit))

    history = KMeansClustering(4, str(tmp_path)).history()
    assert "200 rows x 3 in 1 workers" in lines[0]
    bar = [line for line in lines if line.startswith("k-means, 4 clusters")][-1]
    assert re.search(rf"\b{len(history)}(/6|it)\b", bar)
    assert f"inertia {history[-1].inertia:.6g}" in bar
    assert "rows/s" in bar


def test_progress_can_be_switched_off(tmp_path):
    lines = on_a_terminal(CODE.format(progress=False, model_dir=str(tmp_path), limit="steps=6"))

    assert lines == [""]


def test_a_bar_of_a_fit_that_continues_begins_where_that_was(tmp_path):
    on_a_terminal(CODE.format(progress=True, model_dir=str(tmp_path), limit="steps=2"))

    lines = on_a_terminal(CODE.format(progress=True, model_dir=str(tmp_path), limit="steps=3"))

    bars = [line for line in lines if line.startswith("k-means, 4 clusters")]
    assert " 2/5 " in bars[0]
    assert " 5/5 " in bars[-1]


@pytest.mark.parametrize(
    ("every", "iterations"), [(1, [1, 2, 3, 4, 5, 6]), (3, [1, 3, 6]), (4, [1, 4]), (99, [1])]
)
def test_the_first_and_every_nth_iteration_is_logged(tmp_path, caplog, every, iterations):
    caplog.set_level(logging.INFO, "ray_kmeans")

    km = fit(tmp_path, log_step_count_steps=every)

    lines = [text for text in caplog.messages if text.startswith("iteration=")]
    logged = {line.iteration: line for line in km.history() if line.iteration in iterations}
    assert [int(re.match(r"iteration=(\d+) ", text)[1]) for text in lines] == iterations
    for text, line in zip(lines, logged.values(), strict=True):
        assert f"inertia={line.inertia:.9g} " in text
        assert " rows=200 " in text


def logged_iterations(caplog, listener, events):
    caplog.set_level(logging.INFO, "ray_kmeans")
    caplog.clear()
    for event in events:
        listener(event)
    lines = [text for text in caplog.messages if text.startswith("iteration=")]
    return [int(re.match(r"iteration=(\d+) ", text)[1]) for text in lines]


def test_a_log_that_sees_a_fit_continue_begins_with_its_first_iteration(caplog):
    assert logged_iterations(caplog, LogLines(), map(done, range(147, 305))) == [147, 200, 300]


def test_slow_iterations_are_logged_though_they_are_few(caplog, monkeypatch):
    clock = SimpleNamespace(now=1e6, monotonic=lambda: clock.now)
    monkeypatch.setattr(listeners, "time", clock)

    def steps_of(seconds, iterations):
        for iteration in iterations:
            clock.now += seconds
            yield done(iteration)

    log = LogLines()
    assert logged_iterations(caplog, log, steps_of(3, range(1, 10))) == [1, 5, 9]
    assert logged_iterations(caplog, log, steps_of(10, range(10, 13))) == [10, 11, 12]
    assert logged_iterations(caplog, log, steps_of(9.5, [13, 100, 101, 102])) == [100, 102]


def test_the_log_tells_of_data_checkpoints_and_the_end(tmp_path, caplog):
    caplog.set_level(logging.INFO, "ray_kmeans")

    fit(tmp_path, save_checkpoints_steps=2)

    text = caplog.text
    assert "rows=200 features=3" in text
    assert len(re.findall(r"checkpoint=\S+-iteration-(?:0|2|4|6)\.json", text)) == 4
    assert "stop=STEPS iteration=6" in text


@pytest.mark.parametrize(
    "event",
    [
        ev.Warned("column 3 is odd"),
        ev.WorkerReplaced(3, "it died"),
        ev.WorkersLag(2, 5000),
        ev.WorkersJoined(4),
        ev.CoordinatorReplaced("it died"),
        ev.Waiting(3, 5, 2.0),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_the_user_should_know_is_logged_as_a_warning(caplog, event):
    LogLines(every=99)(event)

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for value in vars(event).values():
        assert str(value) in record.getMessage()


def test_every_event_can_be_logged_and_drawn():
    listen = tell_all([LogLines(), Progress()])

    events = [*RUN, ev.Warned("w"), ev.WorkerReplaced(1, "c"), ev.CoordinatorReplaced("c")]
    events += [ev.Waiting(1, 2, 0.5), ev.WorkersLag(1, 20), ev.WorkersJoined(3)]
    for event in events:
        listen(event)

    assert {type(event) for event in events} == set(ev.Event.__args__)


def test_a_warning_of_the_run_is_a_warning_of_python_and_in_the_log(tmp_path, caplog):
    x = np.ones((9, 2), np.float32)
    km = KMeansClustering(3, str(tmp_path), use_mini_batch=False, config=HERE)

    with pytest.warns(UserWarning, match="2 of 3 initial centers are copies") as caught:
        km.fit(x)

    assert len(caught) == 1
    assert [record.levelname for record in caplog.records if "copies" in record.message] == [
        "WARNING"
    ]


def test_values_that_vanish_beside_an_outlier_are_warned_of(tmp_path):
    x = X.copy()
    x[0, 1] = 1e30
    km = KMeansClustering(3, str(tmp_path), X[:3], use_mini_batch=False, config=HERE)

    with pytest.warns(UserWarning, match=r"column 1 \(1 such\).*Remove the outliers"):
        km.fit(x, steps=1)


def test_only_warnings_become_warnings():
    for event in RUN:
        warn(event)  # any warning is an error in these tests


def test_all_listeners_hear_all_events_in_order(tmp_path):
    heard = {"a": [], "b": []}
    config = RunConfig(num_workers=0, save_checkpoints_steps=2)
    params = KMeansClustering(4, use_mini_batch=False).get_params()
    runs.fit(
        runs.plan_fit(params, config, StopRule(steps=3), None),
        open_source(X),
        ModelDir.at(str(tmp_path), {}, 5),
        config,
        listeners=[heard["a"].append, heard["b"].append],
    )

    kinds = [type(event).__name__ for event in heard["a"]]
    assert heard["a"] == heard["b"]
    assert kinds == [
        *("DataLoaded", "KernelsReady", "Seeded", "CheckpointSaved", "FitStarted"),
        *("IterationDone", "IterationDone", "CheckpointSaved", "IterationDone"),
        *("CheckpointSaved", "FitEnded"),
    ]
