"""Short fits on blocks and shards of any size, that may be cut off and run again."""

from __future__ import annotations

import pickle

import numpy as np

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data import sharding
from ray_kmeans.data.opening import open_source
from ray_kmeans.engine.fit_loop import run_fit
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.row_cache import CacheOptions
from ray_kmeans.io import publish
from ray_kmeans.observe import events as ev
from ray_kmeans.store.checkpoint import blobs_of, manifest_of, read
from ray_kmeans.workflows import fit as runs
from ray_kmeans.workflows.parameters import FitParams
from tests.support.files import in_blocks


class CutOff(Exception):
    pass


def cutting_off_at(step):
    """A listener that cuts the fit off at the line of a step."""

    def listen(event):
        if isinstance(event, ev.IterationDone) and event.line.iteration == step:
            raise CutOff

    return listen


class Kept:
    """A store in memory that keeps what a checkpoint would."""

    def __init__(self):
        self.states = []

    def latest(self):
        return self.states[-1] if self.states else None

    def save(self, state):
        blobs = blobs_of(state, "data/00000001-ab")
        sealed = publish.seal(manifest_of(state, blobs))
        self.states.append(read("a checkpoint", sealed, blobs.__getitem__))
        return str(len(self.states))


class FarPool(LocalPool):
    """A pool of one worker that only sees copies of what it is given, as in another process."""

    has_one_far_worker = True

    def step_batches(self, state, *rest):
        return super().step_batches(*pickle.loads(pickle.dumps((state, *rest))))


def run(
    store,
    x,
    k,
    steps=None,
    *,
    size,
    shards=1,
    block=7,
    every=None,
    pool=LocalPool,
    emit=lambda event: None,
    cache="memory",
    tolerance=None,
    weights=None,
    **params,
):
    """Fit as the estimator does, on blocks and shards of this size and number."""
    config = RunConfig(num_workers=0, progress=False, save_checkpoints_steps=every)
    km = KMeansClustering(k, "nowhere", config=config, **params)
    rule = StopRule(steps, relative_tolerance=tolerance)
    plan = runs.plan_fit(FitParams(**km.get_params(deep=False)), config, rule, size)
    source = open_source(in_blocks(x, block), sample_weight=weights)
    setup = WorkerSetup(Metric(plan.metric), row_cache=CacheOptions(cache))
    workers = pool(source, sharding.split(source.describe().blocks, shards), setup)
    return run_fit(plan, workers, store, emit)


def bits(state):
    """All that a later step depends on."""
    running = state.accumulators
    sums = running.sums.tobytes() if running else None
    arrays = state.centers.tobytes(), np.asarray(state.counts).tobytes()
    return *arrays, state.iteration, state.began_at, state.history, state.stop, state.sample, sums
