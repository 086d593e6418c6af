"""Event files for TensorBoard: what is drawn, when it is published, what is left behind."""

from __future__ import annotations

import struct
import time
from contextlib import closing

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from ray_kmeans.algorithm.state import Iteration, Stop
from ray_kmeans.errors import StoreError
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.event_file import checksum
from ray_kmeans.observe.tensorboard import Summaries, write_evaluation
from tests.support.log_lines import done

SAVED = ev.CheckpointSaved("m/00000000-iteration-9.json", 9)
ENDED = ev.FitEnded(Stop.STEPS, 9)


class Published:
    """A store: the newest content of every name, and how often something was put there."""

    def __init__(self):
        self.files, self.puts, self.broken = {}, 0, False

    def __call__(self, name, content):
        if self.broken:
            raise StoreError("the store is gone")
        self.files[name] = content
        self.puts += 1

    def curves(self):
        """Return {tag: {step: value}} of the one file there is."""
        (content,) = self.files.values()
        return curves_of(content)


def events_of(content):
    """Read the format itself: length, its checksum, event, its checksum; nothing may be left."""
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        data = content[12 : 12 + length]
        sums = struct.unpack("<I", content[8:12]) + struct.unpack(
            "<I", content[12 + length : 16 + length]
        )
        assert sums == (masked_crc32c(content[:8]), masked_crc32c(data))
        yield Event.FromString(data)
        content = content[16 + length :]


def curves_of(content):
    first, *events = events_of(content)
    assert first.file_version == "brain.Event:2"
    curves = {}
    for event in events:
        for value in event.summary.value:
            curve = curves.setdefault(value.tag, {})
            assert event.step not in curve, "drawn twice"
            curve[event.step] = value.simple_value
    return curves


@pytest.fixture
def published():
    return Published()


def step(iteration, rows, inertia, shift, empty, seconds):
    return ev.IterationDone(Iteration(iteration, rows, inertia, shift, empty, "d"), seconds)


def draw(published, every, events):
    with closing(Summaries(every, published)) as summaries:
        for event in events:
            summaries(event)


def cut_off(*events):
    """The events of a fit that dies."""
    yield from events
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("every", "iterations", "drawn"),
    [
        (1, range(1, 6), [1, 2, 3, 4, 5]),
        (3, range(1, 8), [1, 3, 6, 7]),
        (100, range(1, 8), [1, 7]),
        (100, range(1, 87), [1, 86]),
        (100, range(147, 302), [147, 200, 300, 301]),  # a fit that continues
        (5, [1, 2, 5, 3, 4, 5, 6, 10], [1, 5, 10]),  # steps done again after a coordinator died
    ],
)
def test_of_mini_batch_the_first_the_last_and_every_nth_iteration_is_drawn_once(
    published, every, iterations, drawn
):
    begun = ev.FitStarted(4, iterations[0] - 1, None, mini_batch=True)
    draw(published, every, [begun, *map(done, iterations), ENDED])

    curves = published.curves()
    assert [tag for tag in curves if list(curves[tag]) != drawn] == []


def test_of_full_batch_every_iteration_is_drawn_once(published):
    steps = [*range(1, 60), *range(50, 87)]  # some again, after a coordinator died
    begun = ev.FitStarted(4, 0, None, mini_batch=False)

    draw(published, 100, [begun, *map(done, steps), ENDED])

    curves = published.curves()
    assert [tag for tag in curves if list(curves[tag]) != [*range(1, 87)]] == []


def test_the_last_step_of_a_mini_batch_fit_that_is_cut_off_is_drawn(published):
    begun = ev.FitStarted(4, 0, None, mini_batch=True)
    with pytest.raises(ZeroDivisionError):
        draw(published, 100, cut_off(begun, *map(done, range(1, 8))))

    assert list(published.curves()["loss/raw"]) == [1, 7]


def test_a_mini_batch_has_curves_of_its_loss_per_row_and_of_what_ends_the_fit(published):
    begun = ev.FitStarted(4, 0, None, mini_batch=True)
    steps = [Iteration(1, 200, 50.0, 0.5, 0, "d", 0.5), Iteration(2, 8, 4.0, 0.5, 0, "d")]
    draw(published, 1, [begun, *(ev.IterationDone(line, 1.0) for line in steps), ENDED])

    curves = published.curves()
    assert curves["loss/per_row"] == {1: 0.25, 2: 0.5}
    assert curves["loss/smoothed"] == {1: 0.5}


def test_a_point_is_the_loss_and_the_speed_of_its_step_and_what_became_of_the_clusters(published):
    steps = [
        step(1, rows=100, inertia=7.5, shift=3.5, empty=2, seconds=0.25),
        step(2, rows=80, inertia=6.5, shift=0.5, empty=1, seconds=4.0),
        step(3, rows=100, inertia=1e300, shift=0.0, empty=0, seconds=0.0),
    ]

    before = time.time()

    draw(published, 1, [*steps, ENDED])

    (content,) = published.files.values()
    assert all(before - 1 < event.wall_time < time.time() + 1 for event in events_of(content))
    assert published.curves() == {
        "loss/raw": {1: 7.5, 2: 6.5, 3: np.inf},  # the format holds float32
        "global_step/sec": {1: 4.0, 2: 0.25, 3: np.inf},
        "rows/sec": {1: 400.0, 2: 20.0, 3: np.inf},
        "shift": {1: 3.5, 2: 0.5, 3: 0.0},
        "empty_clusters": {1: 2.0, 2: 1.0, 3: 0.0},
    }


@pytest.mark.parametrize("event", [SAVED, ENDED], ids=lambda event: type(event).__name__)
def test_all_that_was_drawn_is_readable_at_every_checkpoint_and_at_the_end(published, event):
    with closing(Summaries(1, published)) as summaries:
        for iteration in range(1, 60):
            summaries(done(iteration, inertia=iteration / 2))
            assert published.puts == iteration - 1
            summaries(event)

            expected = {i: i / 2 for i in range(1, iteration + 1)}
            assert published.curves()["loss/raw"] == expected


def test_nothing_is_published_where_nothing_is_new(published):
    with closing(Summaries(4, published)) as summaries:
        summaries(SAVED)
        assert published.puts == 0
        for event in [done(1), SAVED, done(2), SAVED]:
            summaries(event)
        assert published.puts == 1
        summaries(ENDED)  # which draws the last step
        assert published.puts == 2
        summaries(ENDED)
    assert published.puts == 2


def test_other_events_are_not_the_business_of_summaries(published):
    others = [ev.Warned("w"), ev.WorkerReplaced(1, "c"), ev.Waiting(1, 2, 0.5)]

    with closing(Summaries(1, published)) as summaries:
        for event in [done(1), *others]:
            summaries(event)
        assert published.puts == 0


def test_a_fit_that_was_cut_off_shows_what_it_drew(published):
    with pytest.raises(ZeroDivisionError):
        draw(published, 1, cut_off(done(1), SAVED, done(2)))

    assert list(published.curves()["loss/raw"]) == [1, 2]


def test_what_ended_a_fit_is_raised_though_the_store_is_gone_too(published, caplog):
    published.broken = True

    with pytest.raises(ZeroDivisionError):
        draw(published, 1, cut_off(done(1)))

    assert published.files == {}
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "the store is gone" in str(record.exc_info[1])


def test_a_store_that_refuses_at_a_checkpoint_is_an_error_of_the_fit(published, caplog):
    summaries = Summaries(1, published)
    published.broken = True
    summaries(done(1))

    with pytest.raises(StoreError, match="the store is gone"):
        summaries(SAVED)

    published.broken = False
    summaries.close()
    assert list(published.curves()["loss/raw"]) == [1]
    assert caplog.records == []


@pytest.mark.parametrize("broken", [False, True])
def test_summaries_can_be_closed_twice(published, caplog, broken):
    summaries = Summaries(1, published)
    summaries(done(1))
    published.broken = broken

    summaries.close()
    summaries.close()

    assert published.puts == (not broken)
    assert len(caplog.records) == broken


def test_runs_of_the_same_second_have_files_of_their_own(published):
    for _ in range(3):
        draw(published, 1, [done(1), ENDED])
    write_evaluation({"score": 1.0}, 1, published)

    assert len(published.files) == 4
    for name in published.files:
        assert name.startswith("events.out.tfevents.")
        assert "/" not in name


def test_an_evaluation_is_one_file_with_its_scalars(published):
    write_evaluation({"loss": 0.5, "score": np.float32(3.25)}, np.int64(42), published)

    assert published.puts == 1
    assert published.curves() == {"loss": {42: 0.5}, "score": {42: 3.25}}


def test_an_evaluation_that_cannot_be_published_raises(published):
    published.broken = True

    with pytest.raises(StoreError):
        write_evaluation({"loss": 0.5}, 42, published)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 3.4e38, 1e300, float("inf"), float("nan")])
@pytest.mark.parametrize("step", [0, 1, 127, 128, 2**40])
def test_any_scalar_at_any_step_is_the_float32_that_tensorboard_reads(published, value, step):
    write_evaluation({"a tag, ä": value}, step, published)

    with np.errstate(over="ignore"):
        expected = {"a tag, ä": {step: np.float32(value)}}
    np.testing.assert_equal(published.curves(), expected)


@given(st.binary(max_size=300))
def test_checksums_are_those_of_tensorboard(data):
    assert checksum(data) == masked_crc32c(data)
