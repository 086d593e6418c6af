"""A process that is asked to end does so also while it reads or seeds."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import RunStoppedError
from ray_kmeans.observe import events as ev
from ray_kmeans.process import interrupt
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit
from ray_kmeans.workflows.parameters import FitParams

X = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
CONFIG = RunConfig(num_workers=0, progress=False)


@pytest.mark.parametrize("initial", ["kmeans_plus_plus", "kmeans_parallel", "kmc2"])
@pytest.mark.parametrize("phase", [ev.Phase.READING, ev.Phase.SEEDING])
def test_who_is_asked_to_end_while_it_reads_or_seeds_ends_there(phase, initial, tmp_path):
    seen = []

    def tell(event):
        seen.append(event)
        if isinstance(event, ev.PhaseBegan) and event.phase is phase:
            interrupt.request_stop()

    km = KMeansClustering(20, initial_clusters=initial, use_mini_batch=False)
    plan = fit.plan_fit(FitParams(**km.get_params(deep=False)), CONFIG, StopRule(max_steps=3), None)
    store = ModelDir.at(str(tmp_path), {}, 5)

    with pytest.raises(RunStoppedError), interrupt.listening():
        fit.fit(plan, open_source(X), store, CONFIG, listeners=[tell])

    assert store.latest() is None
    assert not any(isinstance(event, ev.Seeded) for event in seen)

    # The next run of this process is another one: the request ended the first one alone.
    fit.fit(plan, open_source(X), store, CONFIG)
    assert store.latest().iteration == 3


def test_a_request_to_end_is_forgotten_with_its_run():
    with interrupt.listening():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(RunStoppedError):
            interrupt.check()

    with interrupt.listening():
        interrupt.check()
