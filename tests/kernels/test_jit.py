"""Loops are compiled wherever this runs: a cache that cannot be written is only told of, once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ray_kmeans"
FIT = """
import sys
import numpy as np
from ray_kmeans import KMeansClustering, RunConfig
x = np.arange(80, dtype=np.float32).reshape(20, 4)
config = RunConfig(num_workers=int(sys.argv[2]), progress=False)
km = KMeansClustering(2, sys.argv[1], x[:2], use_mini_batch=False, config=config).fit(x)
print(km.clusters().tolist())
"""


def nowhere(tmp_path):
    """Return a copy of the package, and an environment in which numba finds no place to write.

    A file stands wherever it would make a folder: root may write to all that is only forbidden.
    """
    copy = tmp_path / "here" / "ray_kmeans"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").write_text("")
    blocked = tmp_path / "file"
    blocked.write_text("")
    return {
        **os.environ,
        "PYTHONPATH": str(copy.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_CACHE_DIR": str(blocked / "cache"),
        "HOME": str(blocked),
        "XDG_CACHE_HOME": str(blocked),
    }


def fit(tmp_path, environment, workers=0):
    command = [sys.executable, "-c", FIT, str(tmp_path / f"model {workers}"), str(workers)]
    return subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )


def test_a_fit_goes_on_without_a_cache_and_says_so_once(tmp_path):
    done = fit(tmp_path, nowhere(tmp_path))

    assert (done.stdout, done.returncode) == (
        "[[18.0, 19.0, 20.0, 21.0], [58.0, 59.0, 60.0, 61.0]]\n",
        0,
    ), done.stderr
    assert done.stderr.count("numba finds no folder that it can write its cache to") == 1
    assert done.stderr.count("\n") == 1


def test_a_cache_that_turns_out_to_be_full_is_no_error(tmp_path, caplog, monkeypatch):
    import numba
    from numba.core import caching

    from ray_kmeans.process import jit

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    jit._warn_once.cache_clear()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)

    @jit.njit(nogil=True)
    def doubled(x):
        return 2 * x

    assert (doubled(4), doubled(1.5)) == (8, 3.0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    jit._warn_once.cache_clear()


@pytest.mark.long
@pytest.mark.ray
def test_workers_on_ray_go_on_without_a_cache(tmp_path):
    environment = nowhere(tmp_path)
    here = fit(tmp_path, environment)

    on_ray = fit(tmp_path, environment, workers=2)

    assert on_ray.returncode == 0, on_ray.stderr
    assert on_ray.stdout == here.stdout
