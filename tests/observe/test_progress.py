"""How far a run is: bars on a terminal, lines in the log of a job, nothing anywhere else."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import closing, redirect_stderr
from itertools import groupby

import pytest
import tqdm.std

from ray_kmeans import KMeansClustering
from ray_kmeans.algorithm.state import Iteration
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.events import Phase
from ray_kmeans.observe.progress import RAY_JOB, Progress
from tests.support.log_lines import RUN, done, fit

READ = ev.DataLoaded(
    rows=1000, features=3, seconds=0.1, coordinator=("h", 1), workers=(("h", 2),) * 2
)
SEEDED = ev.Seeded("random", num_clusters=4, seconds=0.1)
STARTED = ev.FitStarted(num_clusters=4, iteration=0, last_iteration=9)


# --- on a terminal ---------------------------------------------------------------------------


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
    assert any("200 rows x 3 in 1 worker," in line for line in lines)
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


LOSS = """
import logging
from ray_kmeans.observe.events import *
from ray_kmeans.observe.log import LogLines
from ray_kmeans.observe.progress import Progress
{setting}
progress = Progress()
for event in {events}:
    LogLines()(event)
    progress(event)
progress.close()
"""
LOSSES = [ev.WorkerReplaced(1, "it died"), ev.CoordinatorReplaced("it too"), ev.Waiting(1, 2, 0.5)]


@pytest.mark.parametrize("setting", ["", "logging.basicConfig()"])
def test_a_loss_is_told_once_on_a_line_of_its_own_between_the_bars(setting):
    events = repr([STARTED, done(1), *LOSSES, done(2)])

    lines = on_a_terminal(LOSS.format(setting=setting, events=events))

    begin = "WARNING:ray_kmeans:" if setting else ""
    assert [line for line in lines if line.strip() and "k-means" not in line] == [
        f"{begin}{event}" for event in LOSSES
    ]


def test_the_log_has_its_own_handlers_again_when_a_bar_is_closed(screen):
    before = list(logging.getLogger().handlers)

    with redirect_stderr(screen):
        progress = Progress()  # held, for garbage brings them back too
        assert logging.getLogger().handlers != before
        progress.close()

    assert logging.getLogger().handlers == before


# --- what a bar says -------------------------------------------------------------------------


class Screen(io.StringIO):
    """A terminal that keeps all that was ever on it."""

    def isatty(self):
        return True

    @property
    def lines(self):
        return [line.strip() for line in re.split(r"[\r\n]+", self.getvalue()) if line.strip()]

    def bars(self, name):
        return [line for line in self.lines if line.startswith(f"{name}:")]


@pytest.fixture
def clock(monkeypatch):
    """The time of the bars; it passes when a test says so."""

    class Clock:
        now = 1e6

    clock = Clock()
    monkeypatch.setattr(tqdm.std, "time", lambda: clock.now)
    return clock


@pytest.fixture
def screen():
    return Screen()


def show(clock, events, place):
    """Let one second pass before each event; `place` is the standard error of the time."""
    with redirect_stderr(place), closing(Progress()) as progress:
        for event in events:
            clock.now += 1
            progress(event)


@pytest.mark.parametrize("phase", [Phase.READING, Phase.WRITING])
def test_a_phase_of_rows_shows_how_many_of_how_many_for_how_long_and_how_fast(clock, screen, phase):
    moves = [ev.PhaseMoved(phase, rows) for rows in (2_000, 4_000, 6_000)]

    show(clock, [ev.PhaseBegan(phase, 8_000, "rows"), *moves], screen)

    bar = screen.bars(phase.value)[-1]
    assert "75%" in bar
    assert re.search(r"6\.00k/8\.00k \[00:03<00:01, 2\.00k rows/s\]", bar)


def test_a_seeding_counts_what_it_says_it_counts(clock, screen):
    show(
        clock, [ev.PhaseBegan(Phase.SEEDING, 5, "rounds"), ev.PhaseMoved(Phase.SEEDING, 2)], screen
    )

    assert re.search(r" 2/5 \[00:01<00:01, .* rounds/s\]", screen.bars("seeding")[-1])


def test_a_phase_without_a_known_end_shows_what_is_done(clock, screen):
    show(
        clock,
        [ev.PhaseBegan(Phase.READING, None, "rows"), ev.PhaseMoved(Phase.READING, 3_000)],
        screen,
    )

    assert screen.bars("reading")[-1].startswith("reading: 3.00k rows [00:01, ")


def test_the_iterations_show_the_rows_per_second_and_the_inertia_of_the_last_one(clock, screen):
    show(clock, [STARTED, done(1), done(2, inertia=7.25, seconds=0.001)], screen)

    bar = screen.bars("k-means, 4 clusters")[-1]
    assert re.search(r"2/9 \[00:02<00:07, .*inertia 7\.25, 200k rows/s\]", bar)


def test_mini_batches_show_the_loss_per_row_and_the_smoothed_one_that_ends_the_fit(clock, screen):
    begun = ev.FitStarted(num_clusters=4, iteration=0, last_iteration=9, mini_batch=True)
    lines = Iteration(1, 200, 50.0, 0.5, 0, "d", 0.26), Iteration(2, 10, 4.0, 0.5, 0, "d")
    steps = [ev.IterationDone(line, 1.0) for line in lines]

    show(clock, [begun, *steps], screen)

    bars = screen.bars("k-means, 4 clusters")
    assert any("loss per row 0.25 (smoothed 0.26), 200 rows/s]" in bar for bar in bars)
    assert "loss per row 0.4, 10.0 rows/s]" in bars[-1]


def test_one_bar_follows_the_other_and_the_first_two_give_way_to_what_came_of_them(clock, screen):
    events = [
        *(ev.PhaseBegan(Phase.READING, 1000, "rows"), ev.PhaseMoved(Phase.READING, 1000), READ),
        *(ev.PhaseBegan(Phase.SEEDING, 4, "centers"), ev.PhaseMoved(Phase.SEEDING, 4), SEEDED),
        *(STARTED, *map(done, range(1, 10)), RUN[-1]),
    ]

    show(clock, events, screen)

    left = [line.rpartition("\r")[2] for line in screen.getvalue().split("\n")]
    assert [line.split(":")[0].strip() for line in left if line] == [
        "1,000 rows x 3 in 2 workers, read in 0.1 s",
        "4 initial centers by random, in 0.1 s",
        "k-means, 4 clusters",
    ]


def steps_drawn(screen):
    """Return how many of the nine steps were done whenever that changed."""
    bars = screen.bars("k-means, 4 clusters")
    return "".join(done for done, _ in groupby(re.search(r" (\d)/9 ", bar)[1] for bar in bars))


def test_what_moves_beside_the_open_phase_does_not_move_its_bar(clock, screen):
    """A stream reads its next batch between two iterations."""
    show(clock, [STARTED, done(1), ev.PhaseMoved(Phase.READING, 7), done(2)], screen)

    assert steps_drawn(screen) == "012"


def test_iterations_without_a_bar_are_not_drawn(clock, screen):
    show(clock, [ev.PhaseBegan(Phase.READING, 1000, "rows"), done(1), RUN[-1], done(2)], screen)

    assert [line for line in screen.lines if "inertia" in line] == []


def test_after_the_loss_of_the_coordinator_the_bars_begin_again_where_the_model_was(clock, screen):
    again = ev.FitStarted(num_clusters=4, iteration=2, last_iteration=9)
    loss = ev.CoordinatorReplaced("it died")
    first = [STARTED, *map(done, range(1, 6)), loss, ev.PhaseBegan(Phase.READING, 1000, "rows")]

    show(clock, [*first, READ, again, *map(done, range(3, 10))], screen)

    assert steps_drawn(screen) == "012345" + "23456789"


def test_a_bar_that_was_cut_off_stays_as_it_was_and_may_be_closed_twice(clock, screen):
    with redirect_stderr(screen):
        progress = Progress()
        for event in [STARTED, done(1), done(2)]:
            progress(event)
        progress.close()
        shown = screen.getvalue()
        progress.close()

    assert screen.getvalue() == shown
    assert shown.endswith("\n")
    assert " 2/9 " in screen.bars("k-means, 4 clusters")[-1]


# --- in the log of a job, and anywhere else --------------------------------------------------


class Log(io.StringIO):
    """A file that knows when each of its lines came."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.times = clock, []

    def write(self, text):
        self.times += [self.clock.now] * text.count("\n")
        return super().write(text)


@pytest.fixture
def log(clock, monkeypatch):
    monkeypatch.setenv(RAY_JOB, "{}")
    return Log(clock)


def test_the_log_of_a_job_has_whole_lines_at_least_ten_seconds_apart(clock, log):
    iterations = (done(i, inertia=1000 / i) for i in range(1, 36))
    far = ev.FitStarted(num_clusters=4, iteration=0, last_iteration=50)

    show(clock, [far, *iterations, RUN[-1]], log)

    assert "\r" not in log.getvalue()
    assert [b - a for a, b in zip(log.times, log.times[1:], strict=False)] == [10, 10]
    assert log.getvalue().splitlines() == [
        "k-means, 4 clusters:  20% 10/50 [00:10<00:40,  1.00it/s, inertia 100, 400 rows/s]",
        "k-means, 4 clusters:  40% 20/50 [00:20<00:30,  1.00it/s, inertia 50, 400 rows/s]",
        "k-means, 4 clusters:  60% 30/50 [00:30<00:20,  1.00it/s, inertia 33.3333, 400 rows/s]",
    ]


def test_slow_steps_have_their_lines_in_the_log_of_a_job_also_after_fast_ones(clock, log):
    far = ev.FitStarted(num_clusters=4, iteration=0, last_iteration=10_000)
    with redirect_stderr(log), closing(Progress()) as progress:
        progress(far)
        for iteration in range(1, 2004):
            clock.now += 0.01 if iteration <= 2000 else 15
            progress(done(iteration))

    drawn = [re.search(r" (\d+)/10000 ", line)[1] for line in log.getvalue().splitlines()]
    assert drawn[-3:] == ["2001", "2002", "2003"]


def test_a_long_phase_has_lines_in_the_log_of_a_job(clock, log):
    moves = (ev.PhaseMoved(Phase.WRITING, 1000 * i) for i in range(1, 25))

    show(clock, [ev.PhaseBegan(Phase.WRITING, 40_000, "rows"), *moves], log)

    assert log.getvalue().splitlines() == [
        "writing:  25% 10.0k/40.0k [00:10<00:30, 1.00k rows/s]",
        "writing:  50% 20.0k/40.0k [00:20<00:20, 1.00k rows/s]",
    ]


def test_the_log_of_a_job_says_nothing_of_phases_that_are_short(clock, log):
    """What comes of them stands in the log lines, which are not the bar's."""
    begun = [ev.PhaseBegan(Phase.READING, 1000, "rows"), ev.PhaseMoved(Phase.READING, 1000)]

    show(clock, [*begun, READ, SEEDED, STARTED, *map(done, range(1, 9)), RUN[-1]], log)

    assert log.getvalue() == ""


def test_a_job_without_progress_has_no_lines_of_it(clock, log):
    with redirect_stderr(log):
        progress = Progress(wanted=False)
        for event in [STARTED, *map(done, range(1, 9))]:
            clock.now += 100
            progress(event)

    assert log.getvalue() == ""


def test_the_variable_by_which_a_job_is_known_is_rays():
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    assert RAY_JOB == RAY_JOB_CONFIG_JSON_ENV_VAR


def test_progress_draws_nothing_where_standard_error_is_no_terminal(tmp_path, capfd):
    fit(tmp_path)
    progress = Progress()
    for event in [*RUN, ev.WorkerReplaced(1, "it died"), ev.Waiting(1, 2, 0.0)]:
        progress(event)

    assert capfd.readouterr() == ("", "")
