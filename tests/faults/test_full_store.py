"""An object store of Ray that is full, with a full disk beside it: the error says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from ray_kmeans.errors import NoRoomError
from ray_kmeans.on_ray.object_store import room

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
CODE = """
import ray
import numpy as np
from ray_kmeans import KMeansClustering, RunConfig

full = {"local_fs_capacity_threshold": 1e-6, "local_fs_monitor_interval_ms": 100}
ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20,
         _system_config=full)
rows = np.ones((2**20, 25), np.float32)
km = KMeansClustering(2, "{place}", config=RunConfig(num_workers=1, progress=False))
km.fit(rows, max_steps=1)
"""


@pytest.mark.long
def test_rows_that_find_no_room_on_their_way_to_the_workers_are_an_error(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE.replace("{place}", str(tmp_path))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 1
    assert "NoRoomError: Ray's object store is full, and so is the disk" in done.stderr


@pytest.mark.parametrize("kind", [ObjectStoreFullError, OutOfDiskError])
def test_whatever_ray_calls_it(kind):
    with pytest.raises(NoRoomError, match="given by its URI, it does not"), room():
        raise kind("no room")
