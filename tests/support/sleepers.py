"""Runs of labelled output in a process of its own, which sleeps (SIGSTOP) where it is told to."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from threading import Lock, current_thread

import numpy as np

from ray_kmeans import RunConfig
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.errors import StoreError
from ray_kmeans.io import retry
from ray_kmeans.store import lease
from ray_kmeans.store.labelled import LabelledOutput
from ray_kmeans.workflows import label
from tests.support.files import in_blocks

ROOT = Path(__file__).parents[2]
QUICK = lease.Times(beat_s=0.05, lease_s=0.3, poll_s=0.03)
BLOCK_ROWS = 24
HERE = RunConfig(num_workers=0, progress=False)
NEVER = 10**9


def write(url, rows, centers, options=None, **flags):
    """Label some rows under a model; return how many."""
    state = FitState(np.asarray(centers, np.float32), np.zeros(len(centers), np.int64))
    output = LabelledOutput.at(url, options or {})
    source = in_blocks(np.asarray(rows, np.float32), BLOCK_ROWS)
    flags = {"model_dir": "m", "times": QUICK, **flags}
    return label.write_labels(state, source, output, HERE, **flags).rows


class Naps:
    """Stops this process before its n-th call to a store or to the disk, the lease's aside."""

    def __init__(self):
        self.at, self.calls, self._lock = NEVER, 0, Lock()
        for owner, name in ((retry.RetryingFileSystem, "request"), (os, "replace"), (os, "link")):
            setattr(owner, name, self._before(getattr(owner, name)))

    def _before(self, function):
        def after_a_nap(*args, **kwargs):
            if current_thread().name != "lease":
                with self._lock:
                    self.calls += 1
                    sleeps = self.calls == self.at
                if sleeps:
                    os.kill(os.getpid(), signal.SIGSTOP)
            return function(*args, **kwargs)

        return after_a_nap


def main():
    """Write what each line of the input tells, and answer in a line."""
    naps = Naps()
    for line in sys.stdin:
        told = json.loads(line)
        naps.at, naps.calls = told.pop("at"), 0
        try:
            answer = {"rows": write(**told)}
        except StoreError as error:
            answer = {"error": type(error).__name__, "said": str(error)}
        print(json.dumps(answer), flush=True)


class Sleeper:
    """Another process that labels as it is told, one run after the other."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.support.sleepers import main; main()"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()

    def tell(self, url, rows, centers, at=NEVER, **more):
        told = {"url": url, "rows": rows.tolist(), "centers": centers.tolist(), "at": at, **more}
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()

    def hear(self):
        return json.loads(self._process.stdout.readline())

    def falls_asleep(self):
        """Wait until it sleeps, or until it is done; tell whether it sleeps."""
        stat = Path(f"/proc/{self._process.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "T":
            if select.select([self._process.stdout], [], [], 0.005)[0]:
                return False
        return True

    def wake(self):
        os.kill(self._process.pid, signal.SIGCONT)
