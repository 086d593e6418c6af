"""Who listens to a run: the log, and warnings."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig, open_source
from ray_kmeans.algorithm.state import Iteration, Restart, Stop
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.log import LogLines, tell_all, warn
from ray_kmeans.observe.progress import Progress
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit as runs
from ray_kmeans.workflows.parameters import FitParams
from tests.support.log_lines import RUN, X, done, fit

HERE = RunConfig(num_workers=0)
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "observability.md"


KINDS = {
    "iteration": int,
    "rows": int,
    "inertia": float,
    "shift": float,
    "empty": int,
    "seconds": float,
    "rows_per_s": float,
}
"""What stands in the log line of an iteration, in this order."""


def figures_of(text):
    """Read a log line as a machine would."""
    pairs = [pair.split("=") for pair in text.split(" ")]
    assert [key for key, _ in pairs] == list(KINDS)
    return tuple(KINDS[key](value) for key, value in pairs)


@pytest.mark.parametrize(
    "figures",
    [
        (1, 200, 12.5, 0.25, 0, 0.5),
        (10**9, 10**12, 1 / 3, 0.1 + 0.2, 10**6, 86_400.125),
        (7, 1, 0.0, 0.0, 3, 1.5e-7),
        (7, 1, np.float64(5e-324), np.float64(1.1), 3, 0.0),
        (7, 1, math.inf, math.inf, 0, 12.0),
    ],
)
def test_the_line_of_an_iteration_holds_its_event(caplog, figures):
    caplog.set_level(logging.INFO, "ray_kmeans")
    iteration, rows, inertia, shift, empty, seconds = figures

    LogLines()(ev.IterationDone(Iteration(iteration, rows, inertia, shift, empty, "d"), seconds))

    (text,) = caplog.messages
    *same, timed, speed = figures_of(text)
    assert tuple(same) == figures[:5]
    assert timed == pytest.approx(seconds, rel=1e-5)
    assert speed == pytest.approx(rows / seconds if seconds else math.inf, rel=1e-5)


def test_the_documents_show_a_line_as_it_is():
    for text in (LogLines.__doc__, GUIDE.read_text()):
        (line,) = re.findall(r"iteration=31 [^\n`]*", text)
        iteration, rows, *_, seconds, speed = figures_of(line.strip())
        assert (iteration, speed) == (31, pytest.approx(rows / seconds))


@pytest.mark.parametrize(
    ("every", "iterations"), [(1, [1, 2, 3, 4, 5, 6]), (3, [1, 3, 6]), (4, [1, 4, 6]), (99, [1, 6])]
)
def test_the_first_the_last_and_every_nth_iteration_is_logged(tmp_path, caplog, every, iterations):
    caplog.set_level(logging.INFO, "ray_kmeans")

    km = fit(tmp_path, log_step_count_steps=every)

    lines = [text for text in caplog.messages if text.startswith("iteration=")]
    logged = [line for line in km.history() if line.iteration in iterations]
    assert [figures_of(text)[:5] for text in lines] == [
        (line.iteration, line.rows, line.inertia, line.shift, line.empty) for line in logged
    ]


def logged_iterations(caplog, listener, events):
    caplog.set_level(logging.INFO, "ray_kmeans")
    caplog.clear()
    for event in events:
        listener(event)
    lines = [text for text in caplog.messages if text.startswith("iteration=")]
    return [int(re.match(r"iteration=(\d+) ", text)[1]) for text in lines]


def test_a_log_that_sees_a_fit_continue_begins_with_its_first_iteration(caplog):
    assert logged_iterations(caplog, LogLines(), map(done, range(147, 305))) == [
        147,
        *(156, 166, 196),  # its 10th, 20th and 50th
        *(200, 300),
    ]


@pytest.mark.parametrize(
    ("every", "steps", "logged"),
    [
        (100, 31, [1, 10, 20, 31]),
        (100, 86, [1, 10, 20, 50, 86]),
        (100, 100, [1, 10, 20, 50, 100]),
        (1000, 777, [1, 10, 20, 50, 100, 200, 500, 777]),
        (7, 20, [1, 7, 14, 20]),
        (15, 9, [1, 9]),
        (100, 1, [1]),
    ],
)
def test_a_short_run_has_some_lines_and_its_last_one(caplog, every, steps, logged):
    events = [*map(done, range(1, steps + 1)), ev.FitEnded(Stop.CONVERGED, steps)]

    assert logged_iterations(caplog, LogLines(every), events) == logged
    assert caplog.messages[-1].startswith("stopped: converged: ")


def test_a_line_of_a_mini_batch_has_the_loss_per_row_and_what_ends_the_fit(caplog):
    caplog.set_level(logging.INFO, "ray_kmeans")
    listen = LogLines(1)
    listen(ev.FitStarted(4, 0, None, mini_batch=True))
    listen(ev.IterationDone(Iteration(1, 200, 50.0, 0.5, 0, "d", 0.26), 2.0))
    listen(ev.IterationDone(Iteration(2, 10, 4.0, 0.5, 0, "d"), 2.0))

    assert caplog.messages[-2:] == [
        "iteration=1 rows=200 inertia=50.0 shift=0.5 empty=0 seconds=2 rows_per_s=100 "
        "loss_per_row=0.25 smoothed=0.26",
        "iteration=2 rows=10 inertia=4.0 shift=0.5 empty=0 seconds=2 rows_per_s=5 "
        "loss_per_row=0.4 smoothed=None",
    ]


def test_slow_iterations_are_logged_though_they_are_few(caplog):
    now = [1e6]

    def steps_of(seconds, iterations):
        for iteration in iterations:
            now[0] += seconds
            yield done(iteration)

    log = LogLines(clock=lambda: now[0])
    assert logged_iterations(caplog, log, steps_of(3, range(1, 10))) == [1, 5, 9]
    assert logged_iterations(caplog, log, steps_of(10, range(10, 13))) == [10, 11, 12]
    assert logged_iterations(caplog, log, steps_of(9.5, [13, 100, 101, 102])) == [100, 102]


def test_the_log_tells_of_data_checkpoints_and_the_end(tmp_path, caplog):
    caplog.set_level(logging.INFO, "ray_kmeans")

    fit(tmp_path, save_checkpoints_steps=2)

    text = caplog.text
    assert "read: 200 rows x 3 in 1 worker, read in " in text
    assert len(re.findall(r"checkpoint: \S+-iteration-(?:0|2|4|6)\.json ", text)) == 4
    assert f"stopped: {Stop.STEPS.value} (after 6 steps)" in text


def test_every_line_but_that_of_an_iteration_is_a_sentence_with_rounded_numbers(caplog):
    caplog.set_level(logging.INFO, "ray_kmeans")
    listen = LogLines()
    ends = [ev.EndedBefore(Stop.STEPS, 9), ev.NodesSplit(2, 3, 10, 30)]
    seeded = ev.Seeded("random", num_clusters=4_000, seconds=0.007968107000010605)

    for event in [*RUN, *ends, seeded, ev.FitStarted(4, 30, 40, mini_batch=True)]:
        listen(event)

    lines = [line for line in caplog.messages if not line.startswith("iteration=")]
    told = [event for event in RUN if not isinstance(event, ev.IterationDone | ev.PhaseMoved)]
    assert len(lines) == len(told) + 4
    assert lines[0] == (
        "plan: 1 worker of 2 threads, each with 572.2 MiB at most: 200 rows in memory as float32"
    )
    assert lines[-2] == "seeded: 4,000 initial centers by random, in 0.0 s"
    assert lines[-1] == "fit: 4 clusters by mini-batch after step 30, to step 40 at most"
    assert [line for line in lines if re.search(r"\w\(|=|\.\d{3}|\d{5}(?!\S*json)", line)] == []


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
        assert str(value) in record.getMessage().replace(",", "")


def test_every_event_can_be_logged_and_drawn():
    listen = tell_all([LogLines(), Progress()])

    events = [*RUN, ev.Warned("w"), ev.WorkerReplaced(1, "c"), ev.CoordinatorReplaced("c")]
    events += [ev.Waiting(1, 2, 0.5), ev.WorkersLag(1, 20), ev.WorkersJoined(3)]
    events += [ev.Logged("l"), ev.EndedBefore(Stop.CONVERGED, 9), ev.NodesSplit(2, 3, 10, 30)]
    events += [ev.RestartEnded(1, 3, Restart(7, 2.5, 9, Stop.CONVERGED))]
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
    params = FitParams(**KMeansClustering(4, use_mini_batch=False).get_params(deep=False))
    runs.fit(
        runs.plan_fit(params, config, StopRule(steps=3), None),
        open_source(X),
        ModelDir.at(str(tmp_path), {}, 5),
        config,
        listeners=[heard["a"].append, heard["b"].append],
    )

    kinds = [type(event).__name__ for event in heard["a"]]
    assert heard["a"] == heard["b"]
    before = "Planned", "PhaseBegan", "PhaseMoved", "DataLoaded", "KernelsReady", "Seeded"
    assert kinds[:8] == [*before, "CheckpointSaved", "FitStarted"]
    assert kinds[-2:] == ["CheckpointSaved", "FitEnded"]
    # A checkpoint is written while the next iteration computes, and told when it is there.
    during = kinds[8:-1]
    assert during.count("IterationDone") == 3
    assert during.count("CheckpointSaved") == 2
    assert during.index("CheckpointSaved") >= 2
