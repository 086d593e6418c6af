"""A run that saves states in a process of its own, and sleeps (SIGSTOP) at a point of a save."""

from __future__ import annotations

import os
import signal
import time

from ray_kmeans.errors import LeaseLostError
from ray_kmeans.io import publish
from ray_kmeans.store import lease_holder
from ray_kmeans.store.lease import Lease, Times
from ray_kmeans.store.model_dir import ModelDir
from tests.support.forked import FORKED
from tests.support.store_contract import state_at

QUICK = Times(beat_s=0.05, lease_s=0.4, poll_s=0.03)


def save_and_sleep(answer, url, options, keep, point, after):
    """Save two states, sleep while the next ones are saved, and send what became of them.

    `point` is owner.function, with '>' for the moment after it; the `after`-th call sleeps.
    """
    store = ModelDir.at(url, options, keep)
    try:
        with store.take_lease("fit", QUICK) as held:
            for iteration in (1, 2):
                held.save(state_at(iteration, data_name="slept"))
            owners = {"ModelDir": ModelDir, "Lease": Lease, "publish": publish, "fs": store.fs._fs}
            owner, name = point.rstrip(">").split(".")
            call = getattr(owners[owner], name)
            setattr(owners[owner], name, _sleepy(call, after, point.endswith(">")))
            for iteration in (3, 4, 5):
                held.save(state_at(iteration, data_name="slept"))
    except LeaseLostError as error:
        answer.send(f"LeaseLostError {error}")
    else:
        answer.send("saved all")


def _sleepy(call, after, called_first):
    """Return the function, whose `after`-th call sleeps."""
    calls = 0

    def sleepy(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls != after:
            return call(*args, **kwargs)
        if called_first:
            result = call(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGSTOP)
            return result
        os.kill(os.getpid(), signal.SIGSTOP)
        return call(*args, **kwargs)

    return sleepy


class SavingSleeper:
    """Another process that saves until a point, and sleeps there until it is woken."""

    def __init__(self, place, keep, point, after):
        self._answer, theirs = FORKED.Pipe(duplex=False)
        about = theirs, place.url, dict(place.storage_options), keep, point, after
        self._process = FORKED.Process(target=save_and_sleep, args=about, daemon=True)
        self._process.start()
        theirs.close()
        end = time.monotonic() + 60
        while lease_holder._stat_of(self._process.pid)[0] != "T":
            assert self._process.is_alive()
            assert time.monotonic() < end
            time.sleep(0.01)

    def wake(self):
        """Return what it says at its end."""
        os.kill(self._process.pid, signal.SIGCONT)
        assert self._answer.poll(60)
        return self._answer.recv()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.join()
