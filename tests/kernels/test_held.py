"""Rows that stay: whatever centers came before, labels and sums are those of the obvious kernel."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ray_kmeans.kernels import cpu_units, summing
from ray_kmeans.kernels.int8 import held_rows as held
from ray_kmeans.kernels.int8 import row_order
from ray_kmeans.kernels.int8.types import N_SCORED, N_UNDECIDED
from tests.conftest import UNITS, by_bytes, skip_without
from tests.support.cases import CASES, gaussian
from tests.support.walks import EVERYTHING, STEPS, assert_follows, hold, table, unit_rows, walk

METRICS = pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])


@pytest.fixture(params=[*UNITS, "plain or floats"])
def unit(request, monkeypatch):
    name = request.param.split()[0]
    if request.param in UNITS:
        by_bytes(monkeypatch, name)
    skip_without(name)
    return name


@pytest.fixture(params=[*UNITS, "portable", "reference"])
def kernel(request):
    if request.param in UNITS:
        skip_without(request.param)
    return request.param


@pytest.fixture
def small_pieces(monkeypatch):
    """Many groups, parts, and turns of the threads for a few hundred rows."""
    monkeypatch.setattr(row_order, "GROUP_ROWS", 16)
    monkeypatch.setattr(row_order, "PART_BLOCKS", 3)
    monkeypatch.setattr(held, "PART_BLOCKS", 3)
    monkeypatch.setattr(held, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(summing, "FEW_MOVES", 8)


SHAPES = [
    *[(1, 1), (2, 2), (3, 31), (16, 32), (63, 33), (64, 257), (65, 300), (130, 31), (200, 2)],
    *[(1, 33), (2, 257), (3, 500), (16, 300), (63, 1), (64, 32), (65, 500), (200, 257), (600, 33)],
]


@pytest.mark.long(kind="held rows")
@METRICS
@pytest.mark.parametrize(("d", "k"), SHAPES)
def test_labels_and_sums_do_not_depend_on_the_centers_before(d, k, metric, unit):
    X, centers = table(500, d, k, metric)
    threads, sizes = 1 + (d + k) % 3, [(500,), (1, 2, 40), (255, 257)][d % 3]

    held_rows = hold(X, metric, k, unit, threads, sizes)

    assert isinstance(held_rows, held.HeldRows)
    assert_follows(held_rows, X, walk(X, centers, metric, EVERYTHING), metric)


@pytest.mark.long(kind="held rows")
@METRICS
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_nor_on_how_rows_are_grouped_and_dealt_out(threads, metric, unit, small_pieces):
    X, centers = table(1500, 5, 40, metric)

    held_rows = hold(X, metric, 40, unit, threads, (1, 300, 64))

    assert_follows(held_rows, X, walk(X, centers, metric, EVERYTHING), metric)
    held_rows.regroup()
    assert len(held_rows._parts.spans) > 12  # or nothing was dealt out


@METRICS
@pytest.mark.parametrize(("d", "k"), [(3, 7), (65, 12)])
def test_every_kernel_follows_the_reference(d, k, metric, kernel):
    X, centers = table(40, d, k, metric)

    held_rows = hold(X, metric, k, kernel, 2, (1, 20))

    assert_follows(held_rows, X, walk(X, centers, metric, EVERYTHING), metric, "reference")


@given(
    st.lists(st.sampled_from(sorted(STEPS)), max_size=8),
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.tuples(st.integers(1, 90), st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(["squared_euclidean", "cosine"]),
    st.integers(1, 3),
)
def test_any_walk_of_the_centers_gives_the_labels_of_its_last_step(
    steps, sizes, shape, metric, threads
):
    X, centers = table(*shape, metric)
    for unit in cpu_units.units():
        held_rows = hold(X, metric, len(centers), unit, threads, sizes)
        assert_follows(held_rows, X, walk(X, centers, metric, steps), metric)


@pytest.mark.long(kind="held rows")
@METRICS
@pytest.mark.parametrize("case", CASES)
def test_rows_that_are_hard_to_label_stay_right(case, metric, unit):
    X, centers = CASES[case]
    nudged = np.nextafter(centers, np.float32(np.inf))
    nudged[~np.isfinite(nudged)] = 0
    path = [centers, nudged, centers[::-1].copy(), centers, centers, np.roll(nudged, 1, axis=1)]
    steps = ["", "", "regroup", "", "regroup", ""]

    largest = float(np.abs(X).max())

    assert_follows(
        hold(X, metric, len(centers), unit, 2, (1, 25)),
        X,
        zip(steps, path, strict=True),
        metric,
        "reference",
        scale=2.0**30 / largest if largest else 1.0,
    )


def outlier_and_denormals(d, k):
    """Rows of few columns on a grid with exact ties, with denormals and a far row."""
    rng = np.random.default_rng([d, k])
    X = np.round(rng.normal(size=(1500, d)) * 8).astype(np.float32)
    X[::5] = rng.normal(size=(300, d)) * 3
    X[1::50] *= np.float32(1e-40)
    X[7] = 1e12
    return X, X[rng.permutation(np.arange(8, 1500))[:k]].copy()


@pytest.fixture
def always_packed(monkeypatch):
    """Pack rows of few columns after their first sweep, around references of few rows each."""
    monkeypatch.setattr(held, "MANY_CENTERS", 1)
    monkeypatch.setattr(row_order, "GROUP_ROWS", 40)
    monkeypatch.setattr(row_order, "PART_BLOCKS", 3)
    monkeypatch.setattr(held, "PART_BLOCKS", 3)


@METRICS
@pytest.mark.parametrize(("d", "k"), [(1, 1), (1, 300), (2, 5), (2, 257), (3, 100), (4, 33)])
def test_rows_of_few_columns_that_are_packed_follow_the_reference(d, k, metric, always_packed):
    X, centers = outlier_and_denormals(d, k)
    X, centers = (X, centers) if metric == "squared_euclidean" else map(unit_rows, (X, centers))

    held_rows = hold(X, metric, k, "plain", 2, (1, 300, 64))

    assert_follows(held_rows, X, walk(X, centers, metric, EVERYTHING), metric, scale=2.0**-10)
    held_rows.assign(centers)
    held_rows.regroup()
    held_rows.assign(centers)
    assert len(held_rows._floats.columns) > 3  # or none were packed
    if k > 1 and metric == "squared_euclidean":
        assert held_rows._tally[N_UNDECIDED] > 0  # or there were no ties


@pytest.mark.parametrize("step", [0.02, 0.5])
@pytest.mark.parametrize("d", [1, 2, 4])
def test_a_center_that_was_pruned_counts_when_it_comes_nearer(d, step, always_packed):
    centers = np.zeros((16, d), np.float32)
    centers[:, 0] = 10 * np.arange(16)
    X = np.repeat(centers, 60, axis=0)
    X[:, 0] += np.random.default_rng(d).uniform(-4.9, 4.9, len(X))  # so neighbours are pruned
    held_rows, skipped = hold(X, "squared_euclidean", 16, "plain"), 0
    held_rows.assign(centers)
    held_rows.regroup()

    for _ in range(12):
        labels = held_rows.assign(centers)
        expected = hold(X, "squared_euclidean", 16, "portable").assign(centers)
        np.testing.assert_array_equal(labels, expected)
        skipped += len(X) - held_rows._tally[N_SCORED]
        centers = centers.copy()
        centers[1::2, 0] -= step

    assert skipped > 0 or step > 0.1  # or all rows were scored anyway


def many_near_ties(k, d, offset, metric):
    """Rows in the middle of two centers, each also one last bit beside it."""
    rng = np.random.default_rng([k, d])
    centers = (offset + rng.normal(size=(k, d))).astype(np.float32)
    centers = unit_rows(centers) if metric == "cosine" else centers
    pairs = rng.integers(0, k, (1200, 2))
    X = centers[pairs].astype(np.float64).mean(axis=1).astype(np.float32)
    X[::2, -1] = np.nextafter(X[::2, -1], np.float32(np.inf))
    X[::9] = centers[pairs[::9, 0]]
    return X, centers


@pytest.mark.long(kind="held rows")
@METRICS
@pytest.mark.parametrize("offset", [0.0, 8.0, 4096.0])
@pytest.mark.parametrize(("k", "d"), [(9, 2), (40, 33), (300, 220), (1100, 64)])
def test_near_ties_stay_right_while_centers_creep(k, d, offset, metric, unit):
    X, centers = many_near_ties(k, d, offset, metric)
    nudged = centers.copy()
    nudged[::2, 0] = np.nextafter(nudged[::2, 0], np.float32(np.inf))
    path = [("", centers), ("", nudged), ("regroup", centers), ("", nudged), ("", centers)]

    held_rows = hold(X, metric, k, unit, 2)

    assert_follows(held_rows, X, path, metric)
    held_rows.assign(nudged)
    if metric == "squared_euclidean" or offset < 100:  # else the longest center is the nearest
        assert held_rows._tally[N_UNDECIDED] > 20  # or they were no near ties


@METRICS
def test_rows_with_very_many_candidates_stay_right(metric, unit):
    X, centers = gaussian(n=300, d=5, k=200)
    X, centers = (X, centers) if metric == "squared_euclidean" else map(unit_rows, (X, centers))
    centers[20:] = centers[20]  # 180 as near, more than are settled row by row
    path = [centers, centers[::-1].copy(), centers, np.roll(centers, 7, axis=0)]

    held_rows = hold(X, metric, 200, unit, 2)

    assert_follows(held_rows, X, [("", centers) for centers in path], metric)


@pytest.mark.long(kind="held rows")
@pytest.mark.parametrize("far", [1e3, 1e9, 1e16, 1e18, 1e25])
@pytest.mark.parametrize("k", [1, 2, 30, 31, 32, 33, 63, 287])
def test_centers_that_all_go_far_in_one_direction_are_told_apart(k, far, unit):
    X, centers = table(400, 5, k, "squared_euclidean")
    X[:, 0] = centers[:, 0] = 0
    away = centers[::-1].copy()
    away[:, 0] = far  # a tie of all, so that the small columns decide
    path = [("", centers), ("", away), ("", centers), ("regroup", away), ("", centers[::-1].copy())]

    assert_follows(hold(X, "squared_euclidean", k, unit), X, path, "squared_euclidean", scale=1.0)


@METRICS
def test_what_is_returned_is_a_copy_of_the_sums(metric, kernel):
    X, centers = table(80, 5, 6, metric)
    held_rows, scale = hold(X, metric, 6, kernel), np.full(5, 2.0**10)
    sums, counts = held_rows.sums(centers, scale)
    expected = sums.copy(), counts.copy()

    sums += 5
    counts += 5

    for again, right in zip(held_rows.sums(centers, scale), expected, strict=True):
        np.testing.assert_array_equal(again, right)


def test_labels_do_not_change_when_the_given_centers_are_overwritten(kernel):
    X, centers = table(80, 5, 6, "squared_euclidean")
    given_centers, held_rows = centers.copy(), hold(X, "squared_euclidean", 6, kernel)
    held_rows.assign(given_centers)

    given_centers[:] = centers[::-1]  # the caller's own array, which may be used again

    expected = hold(X, "squared_euclidean", 6, "portable").assign(centers[::-1].copy())
    np.testing.assert_array_equal(held_rows.assign(given_centers), expected)
