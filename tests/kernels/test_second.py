"""The second-nearest center is the true one over the reals; a tie goes to the lowest index."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ray_kmeans import kernels
from ray_kmeans.algorithm.metric import project
from ray_kmeans.kernels import cpu_units, portable
from ray_kmeans.kernels.int8 import refine
from ray_kmeans.kernels.int8.second_nearest import SecondNearest
from ray_kmeans.kernels.int8.types import ScratchPool
from ray_kmeans.kernels.threads import Threads
from tests.conftest import UNITS, skip_without
from tests.support.cases import CASES, gaussian
from tests.support.second_oracle import exact_order

METRICS = ["squared_euclidean", "cosine"]
MANY = {name: case for name, case in CASES.items() if len(case[1]) > 1}


def both_of(X, centers, kernel, metric):
    loaded = kernels.load(kernel, threads=2)
    prepared = loaded.prepare(centers, metric)
    labels, seconds = np.full((2, len(X)), -1, np.int32)
    loaded.assign(X, prepared, labels)
    loaded.assign_second(X, prepared, labels, seconds)
    return np.stack([labels, seconds], axis=1)


def left_of(X, centers, found, unit, metric):
    """Return the rows that bytes leave to BLAS."""
    about = cpu_units.units()[unit].of, Threads(1), ScratchPool()
    seconds = SecondNearest(centers, metric, *about)
    return seconds.label(X, *np.ascontiguousarray(found.T))


@cache
def expected_of(case, metric):
    X, centers = (project(part[:40], metric) for part in MANY[case])
    return X, centers, [exact_order(row, centers, metric)[:2] for row in X]


@pytest.mark.parametrize(
    "way", ["portable", "portable in small tiles", "cpu", "reference", *UNITS, "gpu-torch"]
)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", MANY)
def test_the_second_is_the_nearest_of_all_others(case, metric, way, monkeypatch):
    if way in UNITS:
        skip_without(way)
    X, centers, expected = expected_of(case, metric)
    if way == "portable in small tiles":
        monkeypatch.setattr(portable, "TILE_ROWS", 7)
        monkeypatch.setattr(portable, "PANEL_CENTERS", 3)

    assert both_of(X, centers, way.split()[0], metric).tolist() == expected


values = st.sampled_from([0.0, 1.0, -1.0, 3.0, 2.0**-30, 1 + 2.0**-23, -1e30, 1e-45, 3e38])


@given(st.data(), st.integers(1, 6), st.integers(2, 6), st.integers(1, 4))
def test_the_second_of_any_small_table_is_that_of_the_oracle(data, n, k, d):
    X = data.draw(hnp.arrays(np.float32, (n, d), elements=values))
    centers = data.draw(hnp.arrays(np.float32, (k, d), elements=values))

    expected = [exact_order(row, centers, "squared_euclidean")[:2] for row in X]

    for kernel in ("cpu", "reference", *cpu_units.units()):
        assert both_of(X, centers, kernel, "squared_euclidean").tolist() == expected


@pytest.mark.parametrize("kernel", ["cpu", *UNITS])
@pytest.mark.parametrize("metric", METRICS)
def test_thousands_of_rows_and_many_tiles_agree_with_the_reference(metric, kernel):
    if kernel in UNITS:
        skip_without(kernel)
    X, centers = gaussian(n=5000, d=16, k=64, offset=3.0)
    X[:1000] = (centers[np.arange(1000) % 64] + centers[np.arange(1000) % 63]) / 2
    X, centers = project(X, metric), project(centers, metric)

    found = both_of(X, centers, kernel, metric)

    np.testing.assert_array_equal(found[:300], both_of(X[:300], centers, "reference", metric))
    ordered = ((X[:, None].astype(float) - centers) ** 2).sum(axis=2).argsort(axis=1)[:, :2]
    assert (found == ordered).all(axis=1)[1000:].mean() > 0.999


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("places", "each"), [(9, 33), (3, 60)])
def test_rows_with_many_centers_about_as_far_get_the_same_second(places, each, metric, unit):
    skip_without(unit)
    rng = np.random.default_rng(4)
    centers = np.repeat(rng.standard_normal((places, 70), np.float32), each, axis=0)
    centers[1::2] = np.nextafter(centers[1::2], np.float32(9))
    X, centers = project(centers[::3] * 2, metric), project(centers, metric)

    found = both_of(X, centers, unit, metric)

    is_left = each > refine.MANY + places * each // 8
    assert bool(len(left_of(X, centers, found, unit, metric))) == is_left
    np.testing.assert_array_equal(found, both_of(X, centers, "reference", metric))


@pytest.mark.parametrize("unit", UNITS)
def test_rows_beyond_any_score_in_float32_get_the_same_second(unit):
    skip_without(unit)
    X, centers = gaussian(n=200, d=70, k=40, offset=0.0)
    X[::3] *= np.float32(1e36)
    X[1::3] *= np.float32(1e30)

    found = both_of(X, centers, unit, "squared_euclidean")

    np.testing.assert_array_equal(found, both_of(X, centers, "reference", "squared_euclidean"))
