"""Bounds spare work, and no row whose label changes is passed over."""

from __future__ import annotations

import numpy as np
import pytest

from ray_kmeans.kernels.int8 import held_rows as held
from ray_kmeans.kernels.int8.types import N_ACTIVE, N_SCORED
from tests.conftest import UNITS, by_bytes
from tests.support.walks import assert_follows, blobs, hold, lloyd, unit_rows, walk

METRICS = pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])


@pytest.fixture(params=UNITS)
def unit(request, monkeypatch):
    by_bytes(monkeypatch, request.param)
    return request.param


@METRICS
def test_rows_whose_label_cannot_have_changed_are_not_visited(metric, unit):
    X, centers = blobs(6000, 16, 20, metric)
    held_rows = hold(X, metric, 20, unit)
    held_rows.assign(centers)
    assert held_rows._tally[N_SCORED] >= len(X)
    for _ in range(12):
        centers = lloyd(X, centers, metric)
        held_rows.assign(centers)
    held_rows.regroup()
    held_rows.assign(centers)

    held_rows.assign(centers)  # nothing moves

    assert held_rows._tally[N_ACTIVE] < len(X) / 20
    assert held_rows._tally[N_SCORED] < len(X) / 5  # whole blocks


@METRICS
def test_a_row_is_never_passed_over_while_a_center_creeps_up_to_it(metric, unit):
    X, centers = blobs(2000, 4, 8, metric, apart=4)
    for _ in range(4):
        centers = lloyd(X, centers, metric)
    held_rows, changes, visited = hold(X, metric, 8, unit), 0, 0
    before = held_rows.assign(centers).copy()
    for _ in range(80):
        centers = centers.copy()
        centers[0] += (centers[1] - centers[0]) * np.float32(0.02)
        if metric == "cosine":
            centers = unit_rows(centers)

        labels = held_rows.assign(centers)

        expected = hold(X, metric, 8, "portable").assign(centers)
        np.testing.assert_array_equal(labels, expected)
        changes, visited = changes + (labels != before).sum(), visited + held_rows._tally[N_SCORED]
        before = labels.copy()
    assert changes > 20  # or there was nothing to pass over
    assert visited < 80 * len(X)  # or nothing was passed over


@METRICS
def test_regrouping_happens_by_itself_and_changes_no_label(metric, unit, monkeypatch):
    regrouped = []
    monkeypatch.setattr(held, "LEAST_ROWS", 0)
    regroup = held.HeldRows.regroup
    monkeypatch.setattr(held.HeldRows, "regroup", lambda self: (regrouped.append(1), regroup(self)))
    rng = np.random.default_rng(1)
    X = rng.normal(size=(3000, 6)).astype(np.float32)
    X = unit_rows(X) if metric == "cosine" else X

    assert_follows(hold(X, metric, 60, unit), X, walk(X, X[:60], metric, ["lloyd"] * 12), metric)

    assert regrouped
