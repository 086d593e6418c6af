"""Ray kills a worker when the memory of its node runs out: one more way to lose one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ray_kmeans.data.opening import open_source
from ray_kmeans.data.sharding import split
from ray_kmeans.engine.options import WorkerOptions, Workload
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.errors import WorkersLostError

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
X = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
STEP = 2**28


class Hungry:
    """Rows whose reader takes memory until Ray ends it, so many times."""

    only_here = False
    files = ()

    def __init__(self, x, meals, place):
        self.inner, self.meals, self.place = open_source(x), meals, place

    def describe(self):
        return self.inner.describe()

    def read(self, blocks):
        if blocks[0].index == 0 and len(list(Path(self.place).iterdir())) < self.meals:
            Path(self.place, str(os.getpid())).touch()
            eaten = []
            while True:
                eaten.append(np.ones(STEP, np.uint8))
                time.sleep(0.1)
        return self.inner.read(blocks)


def used_memory():
    """Return the share of this machine that is in use, as Ray or as the system counts it."""
    from ray._private import utils  # what the raylet asks, too

    told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(told[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return max(1 - free / total, utils.get_used_memory() / utils.get_system_memory())


def main(*places):
    """Sum rows up on a Ray that allows little memory, for a worker that is killed once, and always.

    Print what comes of it.
    """
    import ray

    from ray_kmeans.on_ray import driver

    monitor = {"memory_usage_threshold": used_memory() + 0.1, "memory_monitor_refresh_ms": 100}
    ray.init("local", num_cpus=2, include_dashboard=False, _system_config=monitor)
    for meals, place in zip((1, 100), places, strict=True):
        source = Hungry(X, meals, place)
        shards = split(source.describe().blocks, 2)
        options = WorkerOptions(
            0.5, worker_start_timeout_s=60, planned_bytes=123456, planned_rows=500
        )
        pool = driver.open_pool(Workload(source, shards, options), "squared_euclidean", print)
        try:
            print("digest", pool.summarize().digest)
        except WorkersLostError as error:
            print("lost:", str(error).replace("\n", " "))
        finally:
            pool.close()


@pytest.mark.alone  # what others take of the memory would be counted
@pytest.mark.long
def test_a_worker_that_ray_kills_for_want_of_memory_is_replaced_until_it_is_hopeless(tmp_path):
    expected = LocalPool(open_source(X), split(open_source(X).describe().blocks, 1)).summarize()
    places = [tmp_path / "once", tmp_path / "always"]
    for place in places:
        place.mkdir()

    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from tests.faults.test_memory_kill import main; main(*sys.argv[1:])",
            *map(str, places),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    once, _, always = done.stdout.partition(f"digest {expected.digest}\n")
    assert "running low on memory" in once
    assert "lost: worker 0 died 4 times in a row" in always
    assert "running low on memory" in always
    assert "The plan was for at most 123,456 bytes in a worker, for 500 rows" in always
    assert [len(list(place.iterdir())) for place in places] == [1, 4]
