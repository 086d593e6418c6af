"""Fit with a listener, and write the lines of log that the fit must give."""

from __future__ import annotations

import numpy as np

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.state import Iteration, Stop
from ray_kmeans.observe import events as ev

X = np.random.default_rng(3).normal(size=(200, 3)).astype(np.float32)


def step_line(iteration, inertia=12.5, rows=200):
    """One line of the history; the tests of all who read lines build them here."""
    return Iteration(
        iteration=iteration, rows=rows, inertia=inertia, shift=0.25, empty=0, digest="d"
    )


def done(iteration, inertia=12.5, seconds=0.5):
    return ev.IterationDone(step_line(iteration, inertia), seconds=seconds)


RUN = [
    ev.Planned(workers=1, threads=2, rows=200, place="memory as float32", num_bytes=6 * 10**8),
    ev.PhaseBegan(ev.Phase.READING, 200, "rows"),
    ev.PhaseMoved(ev.Phase.READING, 200),
    ev.DataLoaded(rows=200, features=3, seconds=0.1, coordinator=("h", 1), workers=(("h", 2),)),
    ev.KernelsReady((("AMX int8", 2, 0.5),)),
    ev.Seeded("random", num_clusters=4, seconds=0.1),
    ev.FitStarted(num_clusters=4, iteration=0, last_iteration=9),
    *map(done, range(1, 10)),
    ev.Peaks((5 * 10**8,)),
    ev.CheckpointSaved("m/00000000-iteration-9.json", 9),
    ev.FitEnded(Stop.STEPS, 9),
]


def fit(tmp_path, **config):
    config = RunConfig(num_workers=0, **config)
    km = KMeansClustering(4, str(tmp_path / "model"), X[:4], use_mini_batch=False, config=config)
    return km.fit(X, steps=6)
