"""The record of a run: what it did, how long that took, and what it survived."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.state import Iteration, Stop
from ray_kmeans.observe import events as ev
from ray_kmeans.observe import run_record
from ray_kmeans.observe.run_record import Journal, RunRecord

X = np.random.default_rng(3).normal(size=(300, 4)).astype(np.float32)


def step(iteration, seconds=1.0, wait=0.25, reduce=0.125, relocated=0):
    line = Iteration(iteration, 300, 9.0, 0.5, 0, "d", relocated=relocated)
    return ev.IterationDone(line, seconds, wait, reduce)


def run_of(events):
    """Return the record that is published last, and how often one is."""
    files = {}
    counts = []

    def publish(name, data):
        files[name] = data
        counts.append(name)

    listen = Journal(publish)
    for event in events:
        listen(event)
    [data] = files.values()
    return RunRecord.parse(data), len(counts)


def test_a_fit_leaves_one_record_for_each_run(tmp_path):
    config = RunConfig(num_workers=0, progress=False, save_checkpoints_steps=2)
    for _ in range(2):
        km = KMeansClustering(5, str(tmp_path), use_mini_batch=False, config=config)
        km.fit(X, steps=3)

    found = [RunRecord.parse(path.read_bytes()) for path in (tmp_path / "runs").iterdir()]

    first, second = sorted(found, key=lambda run: run.spans[0].iteration)
    assert [span.iteration for span in first.spans] == [1, 2, 3]
    assert [span.iteration for span in second.spans] == [4, 5, 6]
    assert (first.rows, first.features, first.workers) == (300, 4, 1)
    assert first.seeding > 0
    assert second.seeding == 0
    assert (first.checkpoints, second.checkpoints) == (3, 2)
    for run in found:
        assert run.planned_rows == 300
        assert run.peak_bytes > 0
        assert run.planned_bytes > 300 * 4 * 4
        assert run.place == "memory as float32"
        assert run.reading > 0


def test_a_record_tells_what_was_survived():
    losses = [ev.WorkerReplaced(1, "it died"), ev.CoordinatorReplaced("it too")]

    run, published = run_of([step(1), *losses, ev.CheckpointSaved("m", 1, 2.0), step(2)])

    assert published == 1
    assert [text[9:] for text in run.survived] == [str(event) for event in losses]
    assert [(span.compute, span.wait, span.reduce) for span in run.spans] == [(0.625, 0.25, 0.125)]
    assert (run.checkpoints, run.checkpointing) == (1, 2.0)


@pytest.mark.parametrize("steps", [512, 513, 514, 1025, 5000])
def test_a_record_stays_small_and_loses_no_second(steps):
    run, _ = run_of([*map(step, range(1, steps + 1)), ev.FitEnded(Stop.STEPS, steps)])

    assert len(run.spans) <= run_record.MOST_SPANS
    assert sum(span.steps for span in run.spans) == steps
    assert sum(span.compute for span in run.spans) == 0.625 * steps
    ends = np.cumsum([span.steps for span in run.spans])
    assert [span.iteration for span in run.spans] == ends.tolist()


def test_a_store_that_takes_no_record_costs_no_fit(caplog):
    def refuse(name, data):
        raise OSError("no")

    with caplog.at_level(logging.WARNING, "ray_kmeans"):
        Journal(refuse)(ev.CheckpointSaved("m", 1))

    assert "the record of this run is not written: no" in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"version": 1}',
        json.dumps({"version": 2, "spans": []}).encode(),
        json.dumps({"version": 1, "spans": [3], "began": ""}).encode(),
        json.dumps({"version": 1, "spans": [], "began": "", "more": 1}).encode(),
    ],
)
def test_what_is_no_record_is_told(data):
    assert RunRecord.parse(data) is None


def test_a_run_counts_the_centers_that_were_moved_to_rows():
    ended = ev.FitEnded(Stop.STEPS, 3)

    found, _ = run_of([step(1, relocated=2), step(2), step(3, relocated=1), ended])

    assert found.relocated == 3
