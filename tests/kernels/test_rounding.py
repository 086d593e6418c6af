"""The promise of `kernels/int8/quantize.py`: how far off scores by bytes are at most, by reals."""

from __future__ import annotations

from fractions import Fraction

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given
from numba import njit

from ray_kmeans.kernels import cpu_units
from ray_kmeans.kernels.int8 import quantize
from ray_kmeans.kernels.int8.quantize import FINER
from ray_kmeans.kernels.int8.types import (
    NONE_LEFT_OUT,
    Parts,
    QuantizedRows,
    Rows,
    Scratch,
    Target,
    pad_columns,
    quads_for,
)
from ray_kmeans.kernels.llvm import int8_products
from ray_kmeans.kernels.portable import scale_of
from tests.conftest import ALL_UNITS, skip_without
from tests.support.oracle import exact

EIGHT_BITS = int8_products.plain(1)
SEVEN_BITS = EIGHT_BITS._replace(largest_byte=np.float32(64))
"""Units whose centers have bytes up to 127, and up to 64."""
FURTHER = Fraction(101, 100)
"""Of theta times what first bytes are off by: for the product of second bytes that is left out."""
pool = st.sampled_from([0.0, 1.0, -1.0, 3.0, 2.0**-30, 1 + 2.0**-23, 127.5, -1e30, 1e-45, 3e38])
near_values = st.floats(-1e3, 1e3, width=32)
values = st.one_of(
    near_values, near_values, pool, st.floats(allow_nan=False, allow_infinity=False, width=32)
)
METRICS = pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])


def bytes_of_rows(words, n):
    """Return (n, columns) whole numbers from blocks (blocks, quads, 32) of four bytes each."""
    blocks, quads, lanes = words.shape
    each = words.view(np.int8).reshape(blocks, quads, lanes, 4)
    return each.transpose(0, 2, 1, 3).reshape(blocks * lanes, 4 * quads)[:n].astype(object)


def bytes_of_centers(panel, k):
    tiles, chunks, centers, columns = panel.shape
    each = panel.transpose(0, 2, 1, 3).reshape(tiles * centers, chunks * columns)
    return each[:k].astype(object)


class Rounded:
    """Rows and centers in bytes around a reference, as compiled code makes them."""

    def __init__(self, X, centers, g, metric, unit=EIGHT_BITS):
        n, d = X.shape
        k = len(centers)
        scale, _ = scale_of(centers)
        quads, blocks = quads_for(d), -(-n // 32)
        self.scale = Fraction(scale)
        self.g = pad_columns(g[None])[0]
        with np.errstate(over="ignore"):
            scaled = pad_columns(centers * np.float32(scale))
        self.target = Target(
            centers=centers,
            scaled=scaled,
            scale=np.float32(scale),
            cosine=metric == "cosine",
            moves=np.zeros(k, np.float32),
            step=np.zeros(k, np.float32),
            safe_gap=np.float32(0),
            left_out=NONE_LEFT_OUT,
        )
        self.scratch = Scratch.of(k, d, quads, blocks)
        self.scratch.centers.numbers[:] = np.arange(k)
        self.quantized = QuantizedRows(
            packed=np.zeros((blocks, quads, 32), np.int32),
            weights=np.empty(32 * blocks, np.float32),
            errors=np.empty(32 * blocks, np.float32),
            sizes=np.empty(32 * blocks, np.float32),
            references=self.g[None],
        )
        order = np.full(32 * blocks, -1, np.int32)
        order[:n] = np.arange(n)
        parts = Parts(
            spans=np.array([[0, 0, blocks]], np.int32),
            radii=np.zeros(1, np.float32),
            moves=np.zeros(1, np.float32),
        )
        about = Rows.of([X]), order, d, np.float32(scale), self.quantized, self.scratch
        quantize.quantize_parts(0, 1, parts, *about)
        quantize.compute_terms(self.target, self.g, self.scratch)
        theta = quantize.quantize_centers(unit, self.target, self.g, k, self.scratch)
        fine_theta = quantize.quantize_centers_finely(self.target, self.g, k, self.scratch)
        self.theta, self.fine_theta = fractions([theta, fine_theta])
        self.first = bytes_of_centers(self.scratch.centers.first_bytes, k)
        self.second = bytes_of_centers(self.scratch.centers.second_bytes, k)
        self.q, self.a, self.E, self.t = map(
            fractions,
            (
                self.scratch.terms.constants,
                self.scratch.terms.slacks,
                self.scratch.terms.norms,
                self.scratch.centers.steps[:k],
            ),
        )
        self.exact_g, self.exact_centers = fractions(g), exact(centers)
        for one, offsets in (
            (self.first, self.scratch.centers.first_offsets),
            (self.second, self.scratch.centers.second_offsets),
        ):
            assert np.abs(one).max() <= 127
            assert not one[:, d:].any()
            assert (offsets[:k] == -128 * one.sum(axis=1)).all()


def fractions(values):
    return [Fraction(float(value)) for value in values]


def true_scores(row, each):
    """Return the exact scores of one row; for 'cosine' with the terms that all centers share."""
    s, g = each.scale, each.exact_g
    r = [x * s - middle for x, middle in zip(row, g, strict=True)]
    scores = []
    for center in each.exact_centers:
        e = [c * s - middle for c, middle in zip(center, g, strict=True)]
        constant = -2 * dot(g, e) - dot(g, g) + s * s if each.target.cosine else dot(e, e)
        scores.append(constant - 2 * dot(r, e))
    return scores


def dot(a, b):
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def assert_within(truth, weight, products_of_bytes, R, each, what):
    for j, (score, p) in enumerate(zip(truth, products_of_bytes, strict=True)):
        off = abs(score - (each.q[j] + weight * each.t[j] * p))
        assert off <= each.a[j] + R * each.E[j], (what, j)


def assert_promise(X, centers, g, metric):
    """Check every score by one byte and by two; return how many rows were near enough."""
    in_seven_bits = Rounded(X, centers, g, metric, SEVEN_BITS)
    assert np.abs(in_seven_bits.first).max() <= 64
    near = assert_scores(X, in_seven_bits)
    assert assert_scores(X, Rounded(X, centers, g, metric)) == near
    return near


def assert_scores(X, each):
    """Check every score of some rows; return how many of these were near enough."""
    width = 4 * each.quantized.packed.shape[1]
    first, second = each.first[:, :width], each.second[:, :width]
    in_bytes, near = bytes_of_rows(each.quantized.packed, len(X)), 0
    for i, row in enumerate(exact(X)):
        truth = true_scores(row, each)
        if each.quantized.errors[i] < np.inf:
            near += 1
            of_row = each.quantized.weights[i], each.quantized.errors[i], each.quantized.sizes[i]
            weight, error, size = fractions(of_row)
            R = 2 * (error + each.theta * size)
            assert_within(truth, weight, map(int, first.dot(in_bytes[i])), R, each, "one byte")
        of_row = quantize.quantize_finely(X[i], each.target.scale, each.g, each.scratch)
        if of_row[3] < quantize.FAR_AWAY:  # and it is a number
            weight, error, first_error, size = fractions(of_row)
            x, x_second = (
                each.scratch.vector.first_bytes[:width],
                each.scratch.vector.second_bytes[:width],
            )
            assert max(abs(v) for v in [*x.tolist(), *x_second.tolist()]) <= 127
            R = 2 * (error + each.fine_theta * size + FURTHER * each.theta * first_error)
            p = first.dot(x.astype(object))
            more = second.dot(x.astype(object)) + first.dot(x_second.astype(object))
            p = [int(a) + Fraction(int(b), FINER) for a, b in zip(p, more, strict=True)]
            assert_within(truth, weight, p, R, each, "two bytes")
    return near


@METRICS
@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 6))
def test_true_scores_lie_where_the_bytes_say(metric, data, n, k, d):
    X = data.draw(hnp.arrays(np.float32, (n, d), elements=values))
    centers = data.draw(hnp.arrays(np.float32, (k, d), elements=values))
    scale, mean = scale_of(centers)
    with np.errstate(over="ignore"):
        about = [(mean * scale).astype(np.float32), centers[0] * np.float32(scale)]
        about.append(data.draw(hnp.arrays(np.float32, d, elements=near_values)))
        assume(all(np.isfinite(centers * np.float32(scale)).ravel()))
    g = data.draw(st.sampled_from(about))
    assume(np.abs(centers * scale - g.astype(np.float64)).max() < 2.0**30)
    assume(metric == "squared_euclidean" or np.abs(g).max() < 2.0**60)  # g . g is in the scores

    assert_promise(X, centers, g, metric)


@pytest.mark.long(kind="rounding")
@METRICS
@pytest.mark.parametrize("spread", [1.0, 1e-3, 30.0])
@pytest.mark.parametrize("d", [1, 3, 16, 63, 64, 65, 200])
def test_true_scores_of_rows_of_any_width_lie_where_the_bytes_say(d, spread, metric):
    rng = np.random.default_rng(d)
    magnitudes = 10.0 ** rng.uniform(-4, 1, d)
    X = (rng.normal(size=(35, d)) * magnitudes + 3).astype(np.float32)
    centers = (X[:5] + rng.normal(size=(5, d)) * spread).astype(np.float32)
    scale, mean = scale_of(centers)
    X[-2], X[-1] = centers[0], mean  # next to nothing around one of the references

    for g in (mean * scale, centers[0].astype(np.float64) * scale):
        assert assert_promise(X, centers, g.astype(np.float32), metric) == len(X)


@METRICS
def test_true_scores_lie_where_the_bytes_say_though_all_values_are_between_two_steps(metric):
    d = 130
    for rest in (0.499, 0.501, 0.6 / 254, 0.499 / 254):  # of a step of the first byte
        v = np.full((2, d), rest / 127, np.float32) * np.float32([[1], [-1]])
        v[:, 0] = 1

        assert assert_promise(v, v.copy(), np.zeros(d, np.float32), metric) == 2


def test_a_row_too_far_away_is_known_to_be():
    X = np.float32([[2.0**31, 0], [3e38, -3e38], [1, 1]])
    each = Rounded(X, np.float32([[0, 1], [1, 0]]), np.zeros(2, np.float32), "squared_euclidean")

    assert np.isinf(each.quantized.errors[:3]).tolist() == [True, True, False]


@njit
def multiply(unit, exactly, rows, centers, offsets, sums):
    int8_products.begin(unit)
    at = sums.ctypes.data
    row, center, offset = rows.ctypes.data, centers.ctypes.data, offsets.ctypes.data
    if exactly:
        int8_products.multiply_exactly(unit, row, rows.shape[0], center, offset, at)
    else:
        int8_products.multiply(unit, row, rows.shape[0], center, offset, at)
    int8_products.store(unit, at)
    int8_products.end(unit)


@pytest.mark.parametrize("quads", [1, 4, 15, 16, 32, 192])
@pytest.mark.parametrize("exactly", [False, True])
@pytest.mark.parametrize("unit", ALL_UNITS)
def test_products_of_bytes_are_exact(unit, exactly, quads):
    skip_without(unit)
    rng = np.random.default_rng(quads)
    chunks = -(-quads // 16)
    of = cpu_units.units()[unit].of(quads)
    most = 127 if exactly else int(of.largest_byte)
    assert most == (64 if unit == "avx2" and not exactly else 127)
    for extreme in (0.0, 0.5, 1.0):
        rows, centers = (
            np.where(
                rng.random((32, 4 * quads)) < extreme,
                rng.choice([-largest, largest], (32, 4 * quads)),
                rng.integers(-largest, largest + 1, (32, 4 * quads)),
            )
            for largest in (127, most)
        )
        rows[0], centers[0] = 127, -most  # the largest sums there are
        rows[1], centers[1] = -127, -most
        centers[2] = most
        in_columns = np.zeros((32, 64 * chunks), np.int8)
        in_columns[:, : 4 * quads] = centers
        in_tiles = in_columns.reshape(2, 16, chunks, 64).transpose(0, 2, 1, 3).copy()
        in_quads = rows.astype(np.int8).reshape(32, quads, 4).transpose(1, 0, 2).copy()
        offsets = (-128 * centers.sum(axis=1)).astype(np.int32)
        sums = np.full((32, 32), -7, np.int32)

        multiply(of, exactly, in_quads, in_tiles, offsets, sums)

        np.testing.assert_array_equal(sums, centers @ rows.T)
