"""On Ray: restarts and labelling at the end of a fit give the same bits, whoever is killed."""

from __future__ import annotations

import os
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.observe import events as ev
from tests.support.ray_runs import write_parquet

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

X = np.random.default_rng(3).normal(size=(3_000, 4)).astype(np.float32)


def estimator(model_dir, num_workers):
    config = RunConfig(num_workers, save_checkpoints_steps=1, progress=False)
    how = {"use_mini_batch": False, "relative_tolerance": 1e-2, "n_init": 3, "config": config}
    return KMeansClustering(6, str(model_dir), **how)


class Killer:
    """Kills the coordinator or a worker, once, when an event of a kind comes."""

    def __init__(self, victim, kind, phase=None):
        self.victim, self.kind, self.phase = victim, kind, phase
        self.pids = {}
        self.seen = []

    def __call__(self, event):
        self.seen.append(event)
        if isinstance(event, ev.DataLoaded):
            self.pids = {"coordinator": event.coordinator[1], "worker": event.workers[0][1]}
        comes = isinstance(event, self.kind) and getattr(event, "phase", None) is self.phase
        if comes and self.pids:
            self.kind = ()
            os.kill(self.pids[self.victim], signal.SIGKILL)


def test_a_detached_fit_labels_its_rows_and_may_be_asked_again(tmp_path):
    uri = write_parquet(tmp_path / "data", X)
    alone = estimator(tmp_path / "alone", 0)
    alone.fit_and_label(uri, str(tmp_path / "labels alone"))
    for _ in range(2):  # the second time all is there
        km = estimator(tmp_path / "m", 2)
        km.set_params(config__detached=True)

        counts = km.fit_and_label(uri, str(tmp_path / "labels"))

        assert counts.rows == len(X)
        assert km.clusters().tobytes() == alone.clusters().tobytes()
        labels, wanted = (pq.read_table(tmp_path / name) for name in ("labels", "labels alone"))
        assert labels.equals(wanted)


@pytest.mark.parametrize(
    ("victim", "kind", "phase"),
    [
        ("coordinator", ev.RestartEnded, None),
        ("coordinator", ev.PhaseBegan, ev.Phase.WRITING),
        ("worker", ev.RestartEnded, None),
        ("worker", ev.PhaseBegan, ev.Phase.WRITING),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_restarts_and_labels_are_those_of_one_process(tmp_path, victim, kind, phase):
    uri = write_parquet(tmp_path / "data", X)
    alone = estimator(tmp_path / "alone", 0)
    alone.fit_and_label(uri, str(tmp_path / "labels alone"))
    km, killer = estimator(tmp_path / "m", 2), Killer(victim, kind, phase)
    km._listeners.append(killer)

    km.fit_and_label(uri, str(tmp_path / "labels"))

    assert killer.kind == ()  # it has killed
    assert km.restarts() == alone.restarts()
    assert np.array_equal(km.clusters(), alone.clusters())
    labels, wanted = (pq.read_table(tmp_path / name) for name in ("labels", "labels alone"))
    assert labels.equals(wanted)
    assert not list((tmp_path / "m/restarts").glob("*"))
