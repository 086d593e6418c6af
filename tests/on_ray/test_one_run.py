"""One run at a time: a second fit is refused, and a fit that was followed saves nothing more."""

from __future__ import annotations

import json
import logging
from threading import Event, Thread

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.errors import BusyError, CheckpointError, LeaseLostError
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.log import LogLines
from ray_kmeans.observe.monitors import Monitor
from ray_kmeans.on_ray.coordinator_actor import Coordinator
from ray_kmeans.store import lease

X = np.random.default_rng(5).normal(size=(600, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    times = lease.Times(beat_s=0.05, lease_s=0.5, poll_s=0.05)
    monkeypatch.setattr(lease, "Times", lambda: times)


def fit(model_dir, monitor=None, steps=4, **config):
    config = RunConfig(num_workers=0, save_checkpoints_steps=1, progress=False, **config)
    km = KMeansClustering(5, str(model_dir), use_mini_batch=False, config=config)
    return km.fit(X, steps=steps, monitors=[monitor] if monitor else [])


class At(Monitor):
    """Calls a function after a step."""

    def __init__(self, iteration, call):
        self._iteration, self._call = iteration, call

    def after_step(self, state):
        if state.iteration == self._iteration:
            self._call()
        return False


def test_a_second_fit_is_refused_while_the_first_goes_on(tmp_path):
    stepped, may_end = Event(), Event()

    def wait():
        stepped.set()
        assert may_end.wait(30)

    first = Thread(target=fit, args=(tmp_path / "model", At(2, wait)))
    first.start()
    try:
        assert stepped.wait(30)
        with pytest.raises(BusyError, match=r"in use by a fit of 5 clusters of process \d+ on"):
            fit(tmp_path / "model")
    finally:
        may_end.set()
        first.join()

    together = fit(tmp_path / "model", steps=3)
    alone = [fit(tmp_path / "alone", steps=steps) for steps in (4, 3)][-1]
    assert together.clusters().tobytes() == alone.clusters().tobytes()


def test_a_fit_that_was_followed_saves_nothing_more(tmp_path):
    def follow():
        held = (tmp_path / "lease" / "00000001.json").read_bytes()
        other = {**json.loads(held), "owner": "another", "host": "node-9"}
        (tmp_path / "lease" / "00000002.json").write_text(json.dumps(other))

    with pytest.raises(LeaseLostError, match="on node-9"):
        fit(tmp_path, At(2, follow))

    assert int(fit_of(tmp_path).get_variable_value("global_step")) <= 2


def fit_of(model_dir, **config):
    config = RunConfig(num_workers=0, **config)
    return KMeansClustering(5, str(model_dir), config=config)


def test_a_damaged_checkpoint_is_skipped_where_the_config_says_so(tmp_path, caplog):
    alone = fit(tmp_path / "alone")
    km = fit(tmp_path / "model")
    for url in km.checkpoints()[-2:]:
        with open(url, "wb"):
            pass  # empty

    with pytest.raises(CheckpointError, match="skip_damaged_checkpoints=True"):
        fit(tmp_path / "model")
    skipping = fit_of(tmp_path / "model", skip_damaged_checkpoints=True)
    assert int(skipping.get_variable_value("global_step")) == 2
    assert "passed over" in caplog.text
    km = fit(tmp_path / "model", skip_damaged_checkpoints=True)

    assert km.clusters().tobytes() == alone.clusters().tobytes()


def test_what_a_coordinator_logs_reaches_the_driver(caplog):
    log = logging.getLogger("ray_kmeans")
    before = list(log.handlers)
    try:
        coordinator = Coordinator()
        log.warning("%s is waited for", "the store")
        log.info("all is well")
    finally:
        log.handlers = before

    assert coordinator.since(0)[0] == [ev.Logged("the store is waited for")]
    caplog.clear()
    LogLines()(coordinator.since(0)[0][0])
    assert [record.getMessage() for record in caplog.records] == ["the store is waited for"]
