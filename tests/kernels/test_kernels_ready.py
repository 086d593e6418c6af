"""What compiles is compiled before the first step, and the log says how long that took."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ray_kmeans.observe import events as ev

CODE = """
import sys
import numpy as np
from numba.core.dispatcher import Dispatcher
from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.observe import events as ev

rows, k, columns, mini_batch, metric, weighted, place = sys.argv[1:]

def compiled():  # what is loaded from the cache is not compiled
    found = {}
    for name, module in list(sys.modules.items()):
        if name.startswith("ray_kmeans"):
            for each in vars(module).values():
                if isinstance(each, Dispatcher):
                    found[each.py_func.__qualname__] = list(map(str, each.stats.cache_misses))
    return found

x = np.random.default_rng(0).integers(-3, 4, (int(rows), int(columns))).astype(np.float32)
km = KMeansClustering(
    int(k), place, x[: int(k)], metric, use_mini_batch=mini_batch == "True",
    config=RunConfig(num_workers=0, progress=False),
)
ready = {}
km._listeners.append(lambda e: ready.update(compiled()) if isinstance(e, ev.KernelsReady) else None)
weights = np.arange(len(x)) % 3 if weighted == "True" else None
km.fit(x, steps=2, sample_weight=weights, **({"batch_size": 500} if mini_batch == "True" else {}))
for name, signatures in compiled().items():
    later = set(signatures) - set(ready[name])
    if later:
        print(name, later)
"""


@pytest.mark.parametrize(
    ("size", "mini_batch", "metric", "weighted"),
    [
        ((2000, 10, 8), False, "squared_euclidean", False),
        ((2000, 10, 8), False, "cosine", True),
        ((2000, 10, 8), True, "squared_euclidean", False),
        ((2000, 10, 8), True, "cosine", True),
        ((20000, 64, 96), False, "squared_euclidean", False),  # bytes, where there is a unit
    ],
)
def test_the_steps_of_a_fit_compile_nothing(tmp_path, size, mini_batch, metric, weighted):
    about = map(str, (*size, mini_batch, metric, weighted, tmp_path / "m"))

    command = [sys.executable, "-c", CODE, *about]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == ""


def test_how_long_it_took_and_what_by_is_said():
    quick = ev.KernelsReady((("AMX int8", 2, 0.25), ("AMX int8", 2, 0.5)))
    slow = ev.KernelsReady((("float32 BLAS", 2, 20.0),), coordinator=3.25)

    assert str(quick) == "2 x AMX int8 in 2 threads; ready after 0.5 s"
    assert str(slow) == (
        "1 x float32 BLAS in 2 threads; ready after 23.2 s "
        "(numba compiles what its cache does not hold)"
    )
