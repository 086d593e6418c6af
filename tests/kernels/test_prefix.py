"""Prefixes spare work: no score begins above the true one, and labels and sums stay the same."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from ray_kmeans.kernels.int8 import held_rows as held
from ray_kmeans.kernels.int8.nearest import reach_of
from ray_kmeans.kernels.int8.prefix import (
    Axes,
    Costs,
    PrefixRows,
    choose_axes,
    prepare_centers,
    put_rows,
)
from ray_kmeans.kernels.int8.types import (
    N_ACTIVE,
    N_OPEN,
    NONE_LEFT_OUT,
    Rows,
    Scratch,
    Target,
    pad_columns,
)
from ray_kmeans.kernels.llvm import int8_products, vectors
from tests.conftest import UNITS, by_bytes
from tests.support.walks import assert_follows, hold, unit_rows, walk

METRICS = pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
WALK = [
    "lloyd",
    "lloyd",
    "stay",
    "creep",
    "one jumps",
    "some equal",
    "shrink a little",
    "lloyd",
    "stay",
]
PLAIN = int8_products.plain(1)
UNIT_SIZES = pytest.mark.parametrize("largest_byte", [127, 64])


@pytest.fixture(params=UNITS)
def unit(request, monkeypatch):
    """A unit whose rows have prefixes from the first sweep on, whatever these cost."""
    by_bytes(monkeypatch, request.param)
    monkeypatch.setattr(held, "WORTH", np.inf)
    monkeypatch.setattr(held, "PREFIX_SCORES", 0)
    monkeypatch.setattr(held, "PREFIX_COLUMNS", 32)
    monkeypatch.setattr(held, "FASTEST_UNIT", np.inf)
    return request.param


def decaying(rng, n, d):
    """Rows whose columns, in some rotation, differ less and less."""
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return (rng.standard_normal((n, d)) * 0.93 ** np.arange(d) @ turn).astype(np.float32)


def near_ties(rng, n, d):
    rows = decaying(rng, n, d)
    rows[n // 2 :] = (rows[: n - n // 2] + rows[1 : n - n // 2 + 1]) / 2
    return rows


def one_far(rng, n, d):
    rows = decaying(rng, n, d)
    rows[n // 3] *= 1e6
    return rows


ROWS = {
    "decaying": decaying,
    "white": lambda rng, n, d: rng.standard_normal((n, d)).astype(np.float32),
    "rank one": lambda rng, n, d: np.outer(rng.standard_normal(n), np.ones(d)).astype(np.float32),
    "near ties": near_ties,
    "one far outlier": one_far,
    "far from the origin": lambda rng, n, d: decaying(rng, n, d) + np.float32(1000),
    "huge": lambda rng, n, d: decaying(rng, n, d) * np.float32(1e36),
    "denormal": lambda rng, n, d: decaying(rng, n, d) * np.float32(1e-39),
    "few different": lambda rng, n, d: decaying(rng, 5, d)[rng.integers(0, 5, n)],
}


@METRICS
@pytest.mark.parametrize("kind", ROWS)
def test_labels_and_sums_stay_those_of_the_reference(kind, metric, unit):
    rng = np.random.default_rng(1)
    rows = ROWS[kind](rng, 300, 71)
    rows = unit_rows(rows) if metric == "cosine" else rows
    held_rows = hold(rows, metric, 33, unit, threads=2)

    assert_follows(held_rows, rows, walk(rows, rows[:33], metric, WALK), metric)

    assert held_rows._prefixes is not None


@pytest.mark.parametrize(("n", "d", "k"), [(40, 33, 1), (70, 130, 70), (300, 200, 65)])
def test_so_they_do_for_any_number_of_columns_and_centers(n, d, k, unit):
    rows = decaying(np.random.default_rng(2), n, d)
    metric = "squared_euclidean"
    held_rows = hold(rows, metric, k, unit)

    assert_follows(held_rows, rows, walk(rows, rows[:k], metric, WALK), metric)

    assert held_rows._prefixes is not None


@METRICS
def test_rows_that_get_prefixes_later_keep_their_labels(metric, unit, monkeypatch):
    monkeypatch.setattr(held, "PREFIX_COLUMNS", 1000)
    rows = decaying(np.random.default_rng(8), 300, 71)
    rows = unit_rows(rows) if metric == "cosine" else rows
    held_rows = hold(rows, metric, 33, unit, threads=2)
    path = list(walk(rows, rows[:33], metric, ["lloyd", "creep", "lloyd", "stay"] * 2))

    assert_follows(held_rows, rows, path[:3], metric)
    held_rows.shorten()
    assert_follows(held_rows, rows, path[3:6], metric)
    held_rows.shorten()  # along axes that are found anew
    assert_follows(held_rows, rows, path[6:], metric)

    assert held_rows._prefixes is not None


def test_a_prefix_spares_most_scores(unit):
    rows = decaying(np.random.default_rng(3), 2000, 128)
    held_rows = hold(rows, "squared_euclidean", 100, unit)
    for _, centers in walk(rows, rows[:100], "squared_euclidean", ["lloyd"] * 4):
        held_rows.assign(centers)

    assert 0 < held_rows._tally[N_OPEN] < len(rows) * 100 / 5


@METRICS
def test_none_is_used_where_it_spares_nothing(metric, monkeypatch):
    monkeypatch.setattr(held, "PREFIX_SCORES", 0)
    rows = np.random.default_rng(4).standard_normal((1000, 64)).astype(np.float32)
    rows = unit_rows(rows) if metric == "cosine" else rows
    held_rows = hold(rows, metric, 20, "plain")
    for _, centers in walk(rows, rows[:20], metric, ["lloyd"] * 4):
        held_rows.assign(centers)

    assert held_rows._prefixes is None


@njit
def prune(unit, words, quads, tiles, offsets, panel, tails, factors, others, sums, masks):
    int8_products.multiply(
        unit, words.ctypes.data, quads, tiles.ctypes.data, offsets.ctypes.data, sums.ctypes.data
    )
    vectors.prune_by_prefix(
        sums.ctypes.data,
        panel.steps.ctypes.data,
        panel.lows.ctypes.data,
        panel.norms.ctypes.data,
        tails.ctypes.data,
        factors[0].ctypes.data,
        factors[1].ctypes.data,
        factors[2].ctypes.data,
        factors[3].ctypes.data,
        others.ctypes.data,
        masks.ctypes.data,
    )


KINDS = (
    "tails alone",
    "prefixes alone",
    "exact center",
    "both",
    "skewed",
    "short axes",
    "long axes",
)


def true_scores(rows, center, scale, reference, metric):
    """Return the scores of rows to a center, with as many bits as there are."""
    x, c, g = (np.asarray(each, np.longdouble) for each in (rows, center, reference))
    r, e = x * scale - g, c * scale - g
    if metric == "cosine":
        return -2 * g @ e - g @ g + scale**2 - 2 * r @ e
    return e @ e - 2 * r @ e


def target_of(centers, scale, metric):
    """Return centers (k, d) as a sweep takes them."""
    return Target(
        centers=centers,
        scaled=pad_columns(centers * np.float32(scale)),
        scale=np.float32(scale),
        cosine=metric == "cosine",
        moves=np.zeros(len(centers), np.float32),
        step=np.zeros(len(centers), np.float32),
        safe_gap=np.float32(0),
        left_out=NONE_LEFT_OUT,
    )


def test_axes_are_judged_by_rows_that_they_were_not_found_by():
    rng = np.random.default_rng(9)
    centers = np.float32(0.6) * rng.standard_normal((512, 384), np.float32)
    labels = rng.integers(0, 512, 1024).astype(np.int32)
    rows = centers[labels] + rng.standard_normal((1024, 384), np.float32)
    target = target_of(centers, 1, "squared_euclidean")

    # Along axes of noise the sample itself has short tails: a prefix would seem to pay.
    assert choose_axes(rows, labels, target, 64.0, Costs(float_cost=4.0), 0.75) is None


def lows_of(rows, center, axes, scale, metric, largest_byte):
    """Return where the scores of up to 32 rows to a center begin, as a sweep computes it."""
    d, p = axes.axes.shape
    unit = PLAIN._replace(largest_byte=np.float32(largest_byte))
    target = target_of(center[None], scale, metric)
    order = np.full(32, -1, np.int32)
    order[: len(rows)] = np.arange(len(rows))
    short = PrefixRows.empty(1, p)
    put_rows(axes, Rows.of([rows]), order, 0, np.float32(scale), short)
    quads = short.packed.shape[1]
    scratch, short_scratch = Scratch.of(1, d, -(-d // 64) * 16, 1), Scratch.of(1, p, quads, 1)
    centers = prepare_centers(axes, unit, target, scratch, short_scratch)
    panel, others = centers.panel, np.full(32, 3e38, np.float32)
    each = zip(short.errors, short.sizes, strict=True)
    reaches = np.array([reach_of(*row, centers.theta) for row in each])
    factors = (
        short.weights,
        reaches.astype(np.float32),
        short.tails,
        np.full(32, -np.inf, np.float32),
    )
    sums, masks = np.empty((32, 32), np.int32), np.empty(32, np.int32)
    tiles = panel.first_bytes, panel.first_offsets
    prune(unit, short.packed, quads, *tiles, panel, centers.tails, factors, others, sums, masks)
    return others[: len(rows)]


@METRICS
@UNIT_SIZES
@pytest.mark.parametrize("kind", [*KINDS])
def test_no_score_begins_above_the_true_one(kind, largest_byte, metric):
    rng = np.random.default_rng(5)
    d, p, scale = 40, 16, 0.5
    reference = np.zeros(64, np.float32)
    reference[:d] = rng.standard_normal(d)
    axes = np.eye(d, p, dtype=np.float32)
    if kind in ("both", "skewed"):
        axes = np.linalg.qr(rng.standard_normal((d, p)))[0].astype(np.float32)
    if kind == "skewed":
        axes += np.float32(0.01) * rng.standard_normal((d, p)).astype(np.float32)
    if kind == "short axes":
        axes *= np.float32(0.9)
    if kind == "long axes":
        axes *= np.float32(1.1)
    rows = rng.standard_normal((32, d)).astype(np.float32)
    for center in rows[:8].copy():  # of which some rows are copies, so that tails are parallel
        if kind == "tails alone":
            rows[:, :p] = center[:p] = reference[:p] / scale
        if kind == "exact center":
            center[:p] = reference[:p] / scale + np.sign(center[:p])
        if kind == "long axes":  # so that products are below 0, and skew makes them lower
            center[:p] = 2 * reference[:p] / scale - center[:p]
        if kind in ("prefixes alone", "long axes", "exact center"):
            rows[:, p:] = center[p:] = reference[p:d] / scale
        truth = true_scores(rows, center, scale, reference[:d], metric)

        lows = lows_of(rows, center, Axes.of(reference, axes), scale, metric, largest_byte)

        assert (lows <= truth).all()
        assert (lows > truth - 200).all()  # so it says something
    if kind == "tails alone":
        assert (lows[7:8] > truth[7:8] - 0.5).all()


def test_the_error_of_axes_covers_that_of_a_rotation_in_float32():
    rng = np.random.default_rng(6)
    axes = np.linalg.qr(rng.standard_normal((500, 64)))[0].astype(np.float32)
    r = rng.standard_normal((100, 500)).astype(np.float32)
    exact = r.astype(np.longdouble) @ axes.astype(np.longdouble)

    off = np.sqrt((((r @ axes) - exact) ** 2).sum(axis=1)) / np.sqrt((r * r).sum(axis=1))

    assert 0 < off.max() < Axes.of(np.zeros(512, np.float32), axes).error


@METRICS
def test_a_row_of_a_prefix_is_never_passed_over_while_a_center_creeps_up_to_it(metric, unit):
    rows = decaying(np.random.default_rng(7), 1500, 40)
    rows = unit_rows(rows) if metric == "cosine" else rows
    centers = list(walk(rows, rows[:8], metric, ["lloyd"] * 6))[-1][1]
    held_rows, changes, visited = hold(rows, metric, 8, unit), 0, 0
    before = held_rows.assign(centers).copy()
    for _ in range(60):
        centers = centers.copy()
        centers[0] += (centers[1] - centers[0]) * np.float32(0.02)
        centers = unit_rows(centers) if metric == "cosine" else centers

        labels = held_rows.assign(centers)

        np.testing.assert_array_equal(labels, hold(rows, metric, 8, "portable").assign(centers))
        changes, visited = changes + (labels != before).sum(), visited + held_rows._tally[N_ACTIVE]
        before = labels.copy()
    assert held_rows._prefixes is not None
    assert changes > 20  # or there was nothing to pass over
    assert visited < 50 * len(rows)  # or nothing was passed over
