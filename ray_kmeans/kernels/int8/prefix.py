"""Rows and centers rotated, and cut to the columns in which they differ most.

Along the principal axes of a sample, a few columns hold most of a residual: they are its *prefix*,
and what is left is its *tail*. The product of two prefixes in bytes, and the lengths of the tails
by Cauchy and Schwarz, bound a score from below; only centers whose bound is not above the score of
the center of before have to be looked at. docs/internals/exactness.md derives the bounds.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.kernels import F32, I32, compiled
from ray_kmeans.kernels.int8.nearest import pad_centers
from ray_kmeans.kernels.int8.quantize import (
    AHEAD,
    FAR_AWAY,
    LARGEST_BYTE,
    ROOM,
    SMALL_E,
    SMALL_R,
    address_of,
    compute_terms,
    fetch_row,
    largest_of,
    quantize_centers,
    steps_of,
    subtract,
    sum_of_squares,
    to_bytes,
)
from ray_kmeans.kernels.int8.refine import PAIRS_FROM
from ray_kmeans.kernels.int8.refine_by_floats import dot
from ray_kmeans.kernels.int8.types import (
    CenterPanel,
    CenterTerms,
    Parts,
    Rows,
    Scratch,
    Target,
    bare,
    bare_sum,
    quads_for,
)
from ray_kmeans.kernels.llvm import vectors
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS, Unit

MOST_PREFIX = 256
"""Columns of the longest prefix."""
MOST_COLUMNS = 2**12
"""Columns of rows with a prefix: the bounds of float64 sums below hold, and axes are found soon."""
TILE_ROWS = 512
"""Rows that are rotated at once."""
SAMPLE = 1024
"""Rows of the sample that axes are found by."""
COUNTED = 128
"""Rows of the sample on which open scores are counted."""
PREFIXES = (16, 32, 48, 64, 128, 192, 256)
"""Numbers of columns to choose from: whole tiles where there is more than one."""
LARGEST_SKEW = 2.0**-10
"""Largest skew of axes that are used; the bounds hold up to 1."""
ROUNDING = 0.01
"""What rounding to bytes changes, about, as a share of a prefix."""
FOLD = 16
"""Cost of looking at a score, in products of bytes."""
LOOKUP = 64
"""Cost of an open score besides its products, in products of bytes."""
REFINING = 1.5
"""Cost of a row that one byte leaves undecided around one reference, in costs of one byte. Two
bytes are three products, but around references near them half of these rows are decided."""
REFINING_PAIRS = 0.25
"""The same where two candidates are compared in float64."""
LOADING = 8
"""Cost of loading a row and computing its score to the center of before, in scores in float32."""


def zeros_in_lines(n: int, columns: int) -> F32:
    """Return zeros (n, columns) float32 that begin at a line of the cache.

    Vectors are loaded twice as fast where none lies across two lines.
    """
    memory = np.zeros(4 * n * columns + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + 4 * n * columns].view(np.float32).reshape(n, columns)


class Axes(NamedTuple):
    """A rotation that is cut off after some columns, and how far it is from one."""

    reference: F32
    """(columns,) the mean of a sample, times the scale."""
    axes: F32
    """(d, p) the axes, of length 1 and at right angles up to rounding."""
    skew: float
    """Upper bound of |I - A'A|, A being the axes."""
    error: float
    """How far a rotated row is off in float32 at most, as a share of |r|."""
    without: float
    """What a row costs without a prefix, about, in products of bytes for each center."""

    @classmethod
    def of(cls, reference: F32, axes: F32, without: float = np.inf) -> Axes:
        """Return the axes (d, p) with their bounds."""
        d, p = axes.shape
        exact = axes.astype(np.float64)
        skew = float(np.linalg.norm(np.eye(p) - exact.T @ exact)) * 1.01 + d * 2.0**-50
        size = float(np.linalg.norm(exact)) * 1.01
        # The product in any order, and one rounding of r, which the axes may not lengthen.
        error = 1.01 * ((d + 2) * 2.0**-24 * size + 2.0**-24 * (1 + skew))
        return cls(reference=reference, axes=axes, skew=skew, error=error, without=without)


class PrefixRows(NamedTuple):
    """The prefixes of rows, quantized to one byte a column, slot by slot."""

    packed: I32
    """(blocks, quads, 32) the bytes, four columns in each int32."""
    weights: F32
    """(slots,) -2 times the step of each row."""
    errors: F32
    """(slots,) upper bound of |a - a'|, a being the prefix; infinite for rows too far away."""
    sizes: F32
    """(slots,) |a'|, the length of the quantized prefix, rounded up."""
    tails: F32
    """(slots,) -2 times the length of the tail, rounded away from 0."""
    radii: F32
    """(slots,) |r|, the length of the whole residual, rounded up."""

    @classmethod
    def empty(cls, blocks: int, p: int) -> PrefixRows:
        """Return memory for the prefixes of p columns of some blocks."""
        weights, errors, sizes, tails, radii = np.zeros((5, blocks * BLOCK_ROWS), np.float32)
        return cls(
            packed=np.zeros((blocks, quads_for(p), BLOCK_ROWS), np.int32),
            weights=weights,
            errors=errors,
            sizes=sizes,
            tails=tails,
            radii=radii,
        )


class PrefixCenters(NamedTuple):
    """The centers, as rows with a prefix meet them."""

    reference: F32
    """(columns,) the reference of all rows, times the scale."""
    terms: CenterTerms
    """The terms of all columns around the reference."""
    panel: CenterPanel
    """The prefixes, quantized."""
    tails: F32
    """(room,) length of the tail of each center, rounded up."""
    residuals: F32
    """(k, columns) e, all columns of the centers around the reference."""
    theta: np.float32
    """max |b - b'| / E over the centers, b being a prefix and E as in `panel`."""
    padded: int
    """How many centers there are, up to whole chunks of 32."""


class Prefixes(NamedTuple):
    """The prefixes of the rows of a shard, and what they are multiplied with."""

    axes: Axes
    """The axes that they are along."""
    order: I32
    """(slots,) number of the row of each prefix; -1 where there is none."""
    unit: Unit
    """What multiplies them."""
    rows: PrefixRows
    """The prefixes."""
    references: F32
    """(groups, columns) the references of the parts, times the scale."""
    scratch: Scratch
    """Memory for the prefixes of the centers."""


@bare_sum
def sum_in_float64(r: F32) -> float:
    """Return |r|^2 in float64, in any order; r: (columns,) float32  IN."""
    total = 0.0
    for column in range(r.shape[0]):
        total += np.float64(r[column]) * np.float64(r[column])
    return total


@bare
def put_prefixes(
    residuals: F32,
    prefixes: F32,
    bits: I32,
    first: int,
    order: I32,
    skew: float,
    error: float,
    rows: PrefixRows,
    q: Any,
    words: I32,
) -> None:
    """Quantize the prefixes of some rows, from slot `first` on.

    residuals: (t, d) float32  IN; prefixes: (t, columns) float32  IN, rotated; bits: the same
    order: (t,) int32  IN, numbers of rows, -1 where there is none
    skew, error: IN, as in `Axes`
    q: (columns,) int8, words: (columns / 4,) int32, the same memory  OUT
    """
    for i in range(len(order)):
        slot = first + i
        block, lane = slot // BLOCK_ROWS, slot % BLOCK_ROWS
        if order[i] < 0:
            continue
        radius = np.sqrt(sum_in_float64(residuals[i])) * (1 + 2.0**-20) + SMALL_R
        if not radius < FAR_AWAY:  # also where it is not a number
            rows.errors[slot] = rows.radii[slot] = np.float32(np.inf)
            continue
        step, inverse = steps_of(largest_of(bits[i]), LARGEST_BYTE)
        squares, off = to_bytes(prefixes[i], step, inverse, q)
        for quad in range(rows.packed.shape[1]):
            rows.packed[block, quad, lane] = words[quad]
        size = step * np.sqrt(squares) * ROOM
        rows.weights[slot] = np.float32(-2.0) * step
        rows.sizes[slot] = size
        rows.errors[slot] = (
            np.sqrt(off) * ROOM
            + np.float32(2.0**-21) * size
            + SMALL_R
            + np.float32((error + skew * (1 + skew)) * 1.01 * radius)
        )
        short = max(np.sqrt(sum_in_float64(prefixes[i])) - error * radius, 0.0)
        tail = np.sqrt(max(radius * radius - (1 - skew) * short * short, 0.0))
        rows.tails[slot] = np.float32(-2.0 * (1 + 2.0**-10) * tail - SMALL_R)
        rows.radii[slot] = np.float32(radius * (1 + 2.0**-20))


def put_rows(
    axes: Axes,
    rows: Rows,
    order: NDArray[np.int32],
    first: int,
    scale: np.float32,
    result: PrefixRows,
) -> None:
    """Rotate and quantize the rows of some slots, from slot `first` on.

    order: (t,)  IN, numbers of rows, -1 where there is none
    """
    d, p = axes.axes.shape
    columns = 64 * -(-p // 64)
    q = np.zeros(columns, np.int8)
    residuals = np.zeros((TILE_ROWS, d), np.float32)
    prefixes = np.zeros((TILE_ROWS, columns), np.float32)
    for start in range(0, len(order), TILE_ROWS):
        some = order[start : start + TILE_ROWS]
        tile, prefix = residuals[: len(some)], prefixes[: len(some)]
        compiled.gather(rows, np.maximum(some, 0), tile)
        tile *= scale
        tile -= axes.reference[:d]
        prefix[:, :p] = tile @ axes.axes
        put_prefixes(
            tile,
            prefix,
            prefix.view(np.int32),
            first + start,
            some,
            axes.skew,
            axes.error,
            result,
            q,
            q.view(np.int32),
        )


@bare
def find_places(order: I32, places: I32) -> None:
    """Write the slot of each row.

    order: (slots,) int32  IN, numbers of rows, -1 where there is none; places: (n,) int32  OUT
    """
    for slot in range(len(order)):
        if order[slot] >= 0:
            places[order[slot]] = slot


@bare
def move_prefixes(
    rows: PrefixRows, places: I32, order: I32, first: int, last: int, result: PrefixRows
) -> None:
    """Copy the prefixes of rows to their new slots, those from `first` to `last`.

    places: (n,) int32  IN, the slot of each row in `rows`
    order: (slots,) int32  IN, numbers of rows in `result`, -1 where there is none
    """
    for slot in range(first, last):
        if order[slot] < 0:
            continue
        place = places[order[slot]]
        block, lane = place // BLOCK_ROWS, place % BLOCK_ROWS
        for quad in range(rows.packed.shape[1]):
            word = rows.packed[block, quad, lane]
            result.packed[slot // BLOCK_ROWS, quad, slot % BLOCK_ROWS] = word
        result.weights[slot] = rows.weights[place]
        result.errors[slot] = rows.errors[place]
        result.sizes[slot] = rows.sizes[place]
        result.tails[slot] = rows.tails[place]
        result.radii[slot] = rows.radii[place]


def prepare_centers(
    axes: Axes, unit: Unit, target: Target, scratch: Scratch, short: Scratch
) -> PrefixCenters:
    """Return the centers as rows with a prefix meet them.

    scratch: memory for all columns, as `Scratch.of` returns it; short: for the prefix's columns
    """
    d, p = axes.axes.shape
    compute_terms(target, axes.reference, scratch)
    k, room = len(target.scaled), len(short.centers.steps)
    exact, reference = axes.axes.astype(np.float64), axes.reference[:d].astype(np.float64)
    prefixes = np.zeros((k, 64 * -(-p // 64)), np.float32)
    tails = np.zeros(room, np.float32)
    terms = short.terms
    for start in range(0, k, TILE_ROWS):
        some = slice(start, start + TILE_ROWS)
        e = target.scaled[some, :d] - reference
        b = e @ exact
        whole, inside = (e * e).sum(axis=1), (b * b).sum(axis=1)
        left = np.maximum(whole - (1 - axes.skew) * inside, 0.0) + 2.0**-36 * whole
        tails[start : start + len(e)] = np.sqrt(left) * (1 + 2.0**-20) + SMALL_E
        # 2^-12 |e| makes the least reach of a row cover what b was rounded by.
        terms.norms[some] = np.sqrt(inside) * ROOM + 2.0**-12 * np.sqrt(whole) + SMALL_E
        prefixes[some, :p] = b
    terms.largest[:] = np.abs(prefixes).max(axis=1)
    terms.constants[:], terms.slacks[:] = scratch.terms.constants, scratch.terms.slacks
    short.centers.numbers[:] = np.arange(k)
    nothing = np.zeros(prefixes.shape[1], np.float32)
    theta = quantize_centers(unit, target._replace(scaled=prefixes), nothing, k, short)
    residuals = zeros_in_lines(*target.scaled.shape)
    np.subtract(target.scaled, axes.reference, out=residuals)
    return PrefixCenters(
        reference=axes.reference,
        terms=CenterTerms(
            largest=scratch.terms.largest.copy(),
            norms=scratch.terms.norms.copy(),
            constants=scratch.terms.constants.copy(),
            slacks=scratch.terms.slacks.copy(),
        ),
        panel=short.centers,
        tails=tails,
        residuals=residuals,
        theta=theta,
        padded=pad_centers(k, short),
    )


@bare
def measure_radii(
    first_part: int,
    last_part: int,
    parts: Parts,
    rows: Rows,
    order: I32,
    scale: np.float32,
    references: F32,
    d: int,
    scratch: Scratch,
) -> None:
    """Write how far the rows of some parts are at most from the references of their parts.

    order: (slots,) int32  IN, numbers of rows; scale: float32  IN
    references: (groups, columns) float32  IN, times the scale
    """
    r = scratch.vector.values
    for p in range(first_part, last_part):
        group, first_block, last_block = parts.spans[p]
        last = last_block * BLOCK_ROWS
        most = np.float32(0.0)
        for slot in range(first_block * BLOCK_ROWS, last):
            if slot + AHEAD < last:
                fetch_row(rows, order[slot + AHEAD], d)
            if order[slot] >= 0:
                x = vectors.floats_at(address_of(rows, order[slot], d), d)
                subtract(x, scale, references[group], r)
                radius = np.sqrt(sum_of_squares(r)) * ROOM + SMALL_R
                # Written so that what is not a number counts as infinite.
                most = max(most, radius if radius < FAR_AWAY else np.float32(np.inf))
        parts.radii[p] = most


def find_axes(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the first principal axes (d, p) of rows around their mean (m, d), about.

    Two steps of orthogonal iteration are enough: any axes give the same labels.
    """
    d = rows.shape[1]
    spread = rows.T @ rows
    start = np.random.default_rng(0).standard_normal((d, min(d // 2, MOST_PREFIX)), np.float32)
    basis = np.linalg.qr(spread @ start)[0]
    basis = np.linalg.qr(spread @ basis)[0]
    turn = np.linalg.eigh(basis.T @ spread @ basis)[1]
    return np.ascontiguousarray((basis @ turn)[:, ::-1])


@bare
def multiply_floats_often(a: F32, b: F32, times: int) -> np.float32:
    """Compute many scores in float32, whose time is measured; return their sum."""
    total = np.float32(0.0)
    for i in range(times):
        total += dot(a, b[i % len(b)])
    return total


@cache
def floats_per_second() -> float:
    """Return how many products of float32 this processor sums per second, at best of some times."""
    a, b, times = np.zeros(512, np.float32), np.zeros((16, 512), np.float32), 400
    multiply_floats_often(a, b, 1)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        multiply_floats_often(a, b, times)
        seconds.append(time.perf_counter() - begin)
    return times * len(a) / min(seconds)


class Costs(NamedTuple):
    """What a row costs with a prefix and without, in products of bytes for each center."""

    float_cost: float
    """Cost of a product of float32 in products of bytes."""

    def with_prefix(self, p: int, d: int, open_share: float, k: int) -> float:
        """Return the cost for a prefix of p columns, where a share of the scores is not spared."""
        return p + FOLD + (open_share + LOADING / k) * (d * self.float_cost + LOOKUP)

    def without(self, d: int, undecided_share: float, k: int) -> float:
        """Return the cost of all columns, where one byte leaves a share of the rows undecided."""
        refining = REFINING if k * d < PAIRS_FROM else REFINING_PAIRS
        return (d + FOLD) * (1 + refining * undecided_share)


def choose_axes(
    rows: NDArray[np.float32],
    labels: NDArray[np.int32] | None,
    target: Target,
    largest_byte: float,
    costs: Costs,
    at_most: float,
) -> Axes | None:
    """Return the axes of the prefix that costs least, as counted on a sample; None: it spares less.

    rows: (m, d)  IN, the sample
    labels: (m,)  IN, their centers of before; None: the nearest ones
    at_most: the share of the cost without a prefix, below which one pays
    """
    m, d = rows.shape
    k = len(target.scaled)
    r = rows * target.scale
    near = np.abs(r).max(axis=1) < FAR_AWAY
    if near.sum() < m // 2:
        return None
    reference = r[near].mean(axis=0)
    r -= reference
    counted = np.flatnonzero(near)[:: max(near.sum() // COUNTED, 1)]
    # Axes leave shorter tails of the rows that they are found by, so others are counted on.
    near[counted] = len(counted) > m // 2
    axes = find_axes(r[near])
    if not np.isfinite(axes).all():
        return None
    before = None if labels is None else labels[counted]
    open_shares, undecided = _open_shares(r[counted], before, target, reference, axes, largest_byte)
    without = costs.without(d, undecided, k)
    cost, p = min((costs.with_prefix(p, d, share, k), p) for p, share in open_shares.items())
    if not cost < at_most * without:
        return None
    padded = np.zeros(target.scaled.shape[1], np.float32)
    padded[:d] = reference
    found = Axes.of(padded, np.ascontiguousarray(axes[:, :p]), without)
    return found if found.skew < LARGEST_SKEW else None


def _open_shares(
    r: NDArray[np.float32],
    labels: NDArray[np.int32] | None,
    target: Target,
    reference: NDArray[np.float32],
    axes: NDArray[np.float32],
    largest_byte: float,
) -> tuple[dict[int, float], float]:
    """Return which share of the scores a prefix does not spare, about, by its columns.

    Beside that, return which share of the rows one byte for all columns leaves undecided.

    r: (m, d)  IN, rows around the reference (d,); labels: (m,)  IN, as in `choose_axes`
    """
    e = target.scaled[:, : r.shape[1]] - reference
    constants = -2 * e @ reference if target.cosine else (e * e).sum(axis=1)
    scores = constants - 2 * (r @ e.T)
    own = scores.min(axis=1) if labels is None else scores[np.arange(len(r)), labels]
    a, b = r @ axes, e @ axes
    whole_r, whole_e = (r * r).sum(axis=1), (e * e).sum(axis=1)
    rounding = ROUNDING * (1 + float(LARGEST_BYTE) / largest_byte)
    reach = 2 * rounding * np.outer(np.sqrt(whole_r), np.sqrt(whole_e))
    rivals = (scores - reach <= (scores + reach).min(axis=1)[:, None]).sum(axis=1)
    lows, before, shares = np.tile(constants, (len(r), 1)), 0, {}
    for p in PREFIXES:
        if p > axes.shape[1]:
            break
        lows -= 2 * a[:, before:p] @ b[:, before:p].T
        inside_a, inside_b = (a[:, :p] ** 2).sum(axis=1), (b[:, :p] ** 2).sum(axis=1)
        tails_r = np.sqrt(np.maximum(whole_r - inside_a, 0))
        tails_e = np.sqrt(np.maximum(whole_e - inside_b, 0))
        reach = 2 * np.outer(tails_r, tails_e)
        reach += 2 * rounding * np.outer(np.sqrt(inside_a), np.sqrt(inside_b))
        shares[p] = float((lows - reach <= own[:, None]).mean())
        before = p
    return shares, float((rivals > 1).mean())
