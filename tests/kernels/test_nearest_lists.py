"""The m nearest centers are the true ones over the reals, in order; ties go to the lowest index."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ray_kmeans import kernels
from ray_kmeans.algorithm.metric import project
from ray_kmeans.kernels import candidate_lists, portable
from tests.support.cases import CASES, gaussian
from tests.support.second_oracle import exact_order

METRICS = ["squared_euclidean", "cosine"]


def nearest_of(X, centers, m, kernel, metric):
    loaded = kernels.load(kernel, threads=2)
    found = np.full((len(X), m), -1, np.int32)
    loaded.assign_nearest(X, loaded.prepare(centers, metric), found)
    return found


@cache
def expected_of(case, metric):
    X, centers = (project(part[:30], metric) for part in CASES[case])
    return X, centers, [exact_order(row, centers, metric) for row in X]


@pytest.mark.parametrize("way", ["portable", "portable in small tiles", "cpu", "gpu-torch"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES)
def test_the_m_nearest_are_those_of_the_oracle_for_every_m(case, metric, way, monkeypatch):
    X, centers, expected = expected_of(case, metric)
    if way == "portable in small tiles":
        monkeypatch.setattr(portable, "TILE_ROWS", 7)
        monkeypatch.setattr(portable, "PANEL_CENTERS", 3)
        monkeypatch.setattr(candidate_lists, "LIST_BYTES", 1000)
        monkeypatch.setattr(candidate_lists, "SPARE", 1)  # most lists overflow

    for m in {1, min(2, len(centers)), min(5, len(centers)), len(centers)}:
        found = nearest_of(X, centers, m, way.split()[0], metric)
        assert found.tolist() == [order[:m] for order in expected], m


def test_the_reference_is_the_oracle():
    X, centers = gaussian(n=20, d=5, k=9, offset=3.0)
    centers[4] = centers[7]
    for metric in METRICS:
        expected = [exact_order(row, centers, metric)[:6] for row in X]
        assert nearest_of(X, centers, 6, "reference", metric).tolist() == expected


values = st.sampled_from([0.0, 1.0, -1.0, 3.0, 2.0**-30, 1 + 2.0**-23, -1e30, 1e-45, 3e38])


@given(st.data(), st.integers(1, 4), st.integers(1, 9), st.integers(1, 4))
def test_the_m_nearest_of_any_small_table_are_those_of_the_oracle(data, n, k, d):
    X = data.draw(hnp.arrays(np.float32, (n, d), elements=values))
    centers = data.draw(hnp.arrays(np.float32, (k, d), elements=values))
    m = data.draw(st.integers(1, k))

    expected = [exact_order(row, centers, "squared_euclidean")[:m] for row in X]

    assert nearest_of(X, centers, m, "cpu", "squared_euclidean").tolist() == expected


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("m", "each"), [(3, 1), (10, 1), (10, 50), (200, 3)])
def test_many_panels_and_lists_that_overflow_agree_with_the_reference(metric, m, each):
    rng = np.random.default_rng(5)
    places = rng.standard_normal((2500 // each, 12), np.float32)
    centers = np.repeat(places, each, axis=0)
    centers[1::2] = np.nextafter(centers[1::2], np.float32(9))
    centers = centers[rng.permutation(len(centers))]
    X = np.concatenate([rng.standard_normal((500, 12), np.float32), places[:40]])
    X[7] = 0
    X, centers = project(X, metric), project(centers, metric)

    found = nearest_of(X, centers, m, "cpu", metric)

    some = np.r_[0:12, 500:508]
    np.testing.assert_array_equal(found[some], nearest_of(X[some], centers, m, "reference", metric))
    scores = -X.astype(float) @ centers.T.astype(float)
    if metric == "squared_euclidean":
        scores = ((X[:, None].astype(float) - centers) ** 2).sum(axis=2)
    taken = np.take_along_axis(scores, found.astype(int), axis=1)
    np.testing.assert_allclose(taken, np.sort(scores, axis=1)[:, :m], atol=1e-12)
