"""The two Triton programs: rows to bytes around a reference, and the lowest two scores of each row.

Sizes are numbers of the run, not of the compilation. Rows stand in blocks, each of one group, whose
reference they share; a slot of row -1 is empty. What is written and why is said in
`kernels.rounding`, whose constants and bounds these are.
"""

from __future__ import annotations

import triton
import triton.language as tl

ID_BITS = 8
"""Low bits of a score that give way to the number of its tile of centers, as in `vectors`."""
TILES_AT_ONCE = 2**ID_BITS

_FAR_AWAY = tl.constexpr(2.0**30)
_ROOM = tl.constexpr(1.01)
_SMALL_R = tl.constexpr(2.0**-50)
_LITTLE = tl.constexpr(2.0**-21)
_MASK = tl.constexpr(-TILES_AT_ONCE)
_TILES = tl.constexpr(TILES_AT_ONCE)


@triton.jit
def _residuals(x, base, columns, reference, scale, d, is_there):
    """Return scale x - g for a tile of rows and columns; zeros beyond the last column."""
    inside = columns < d
    mask = is_there[:, None] & inside[None, :]
    values = tl.load(x + base[:, None] + columns[None, :], mask=mask, other=0).to(tl.float32)
    g = tl.load(reference + columns, mask=inside, other=0.0)
    return tl.where(mask, values * scale - g[None, :], 0.0)


@triton.jit(do_not_specialize=["d", "width"])
def round_rows(
    x,  # (n, d)  IN, any type that float32 holds
    order,  # (slots,)  IN, numbers of rows
    block_groups,  # (blocks,)  IN
    references,  # (groups, d)  IN
    scale,  # IN
    packed,  # (slots, width)  OUT, int8
    steps,  # (slots,)  OUT
    sizes,  # (slots,)  OUT  |r'|
    errors,  # (slots,)  OUT  |r - r'|, infinite for a row that is too far away
    squares,  # (slots,)  OUT  |r|^2
    d,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    slots = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    rows = tl.load(order + slots).to(tl.int64)
    base = rows * d
    reference = references + tl.load(block_groups + tl.program_id(0)).to(tl.int64) * d
    square = tl.zeros((ROWS,), tl.float32)
    largest = tl.zeros((ROWS,), tl.float32)
    for first in range(0, width, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        r = _residuals(x, base, columns, reference, scale, d, rows >= 0)
        square += tl.sum(r * r, axis=1)
        largest = tl.maximum(largest, tl.max(tl.abs(r), axis=1))
    near = square < _FAR_AWAY * _FAR_AWAY  # not where it is not a number
    whole_steps = near & (largest >= _SMALL_R)
    step = tl.where(whole_steps, largest / 127.0, 0.0)
    inverse = tl.where(whole_steps, 126.9999 / tl.where(whole_steps, largest, 1.0), 0.0)
    whole = tl.zeros((ROWS,), tl.float32)
    error = tl.zeros((ROWS,), tl.float32)
    for first in range(0, width, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        r = _residuals(x, base, columns, reference, scale, d, rows >= 0)
        r = tl.where(near[:, None], r, 0.0)
        q = tl.floor(r * inverse[:, None] + 0.5)
        off = r - step[:, None] * q
        error += tl.sum(off * off, axis=1)
        whole += tl.sum(q * q, axis=1)
        tl.store(packed + slots[:, None] * width + columns[None, :], q.to(tl.int8))
    size = step * tl.sqrt(whole) * _ROOM
    off = tl.sqrt(error) * _ROOM + _LITTLE * size + _SMALL_R
    tl.store(steps + slots, step)
    tl.store(sizes + slots, size)
    tl.store(errors + slots, tl.where(near, off, float("inf")))
    tl.store(squares + slots, square)


@triton.jit
def _products(packed, rows, panel, centers, width, COLUMNS: tl.constexpr):
    """Return the products of a tile of rows and one of centers: whole numbers, so exact."""
    columns = tl.arange(0, COLUMNS)
    a = packed + rows[:, None] * width + columns[None, :]
    b = panel + centers[None, :] * width + columns[:, None]
    total = tl.dot(tl.load(a), tl.load(b), out_dtype=tl.int32)
    for first in range(COLUMNS, width, COLUMNS):
        total = tl.dot(tl.load(a + first), tl.load(b + first), total, out_dtype=tl.int32)
    return total


@triton.jit(do_not_specialize=["k", "width"])
def lowest_two(
    packed,  # (slots, width)  IN
    order,  # (slots,)  IN
    steps,  # (slots,)  IN
    sizes,  # (slots,)  IN
    errors,  # (slots,)  IN
    block_groups,  # (blocks,)  IN
    panels,  # (groups, tiles * CENTERS, width)  IN, the centers in bytes around each reference
    center_steps,  # (groups, tiles * CENTERS)  IN
    lows,  # (groups, tiles * CENTERS)  IN  q - a
    norms,  # (groups, tiles * CENTERS)  IN  E
    slacks,  # (groups, tiles * CENTERS)  IN  2 a
    thetas,  # (groups,)  IN
    labels,  # (n,)  OUT, of the lowest score
    certain,  # (n,)  OUT, whether no other center can be the nearest
    k,
    width,
    ROWS: tl.constexpr,
    CENTERS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    slots = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    group = tl.load(block_groups + tl.program_id(0)).to(tl.int64)
    tiles = tl.cdiv(k, CENTERS)
    begin = group * tiles * CENTERS
    weight = -2.0 * tl.load(steps + slots)
    size = tl.load(sizes + slots)
    # 2.002 is more than 2 (1 + 2^-10).
    reach = 2.002 * (tl.load(errors + slots) + tl.load(thetas + group) * size)
    reach += 0.0001220703125 * size  # 2^-13
    lanes = tl.arange(0, CENTERS)
    lowest = tl.full((ROWS,), 3e38, tl.float32)
    second = tl.full((ROWS,), 3e38, tl.float32)
    nearest = tl.zeros((ROWS,), tl.int32)
    for first in range(0, tiles, _TILES):
        # Each lane keeps its two lowest scores, so that nothing is compared across lanes but here.
        best = tl.full((ROWS, CENTERS), 3e38, tl.float32)
        rival = tl.full((ROWS, CENTERS), 3e38, tl.float32)
        for tile in range(first, min(first + _TILES, tiles)):
            centers = begin + tile * CENTERS + lanes
            product = _products(packed, slots, panels, centers, width, COLUMNS).to(tl.float32)
            low = tl.load(lows + centers)[None, :] - reach[:, None] * tl.load(norms + centers)[None]
            low += weight[:, None] * (tl.load(center_steps + centers)[None, :] * product)
            bits = (low.to(tl.int32, bitcast=True) & _MASK) | (tile - first)
            key = bits.to(tl.float32, bitcast=True)
            rival = tl.minimum(rival, tl.maximum(best, key))
            best = tl.minimum(best, key)
        low = tl.min(best, axis=1)
        lane = tl.min(tl.where(best == low[:, None], lanes[None, :], CENTERS), axis=1)
        others = tl.where(lanes[None, :] == lane[:, None], rival, best)
        tile = first + (low.to(tl.int32, bitcast=True) & (_TILES - 1))
        is_lower = low < lowest
        second = tl.minimum(second, tl.where(is_lower, lowest, low))
        second = tl.minimum(second, tl.min(others, axis=1))
        nearest = tl.where(is_lower, tile * CENTERS + lane, nearest)
        lowest = tl.minimum(lowest, low)
    nearest = tl.minimum(nearest, k - 1)  # it may be anything where a score is not a number
    upper = lowest + tl.load(slacks + begin + nearest)
    upper += 2.0 * reach * tl.load(norms + begin + nearest)
    rows = tl.load(order + slots)
    is_certain = (second > upper) & (reach < _FAR_AWAY * _FAR_AWAY)
    tl.store(labels + rows, nearest, mask=rows >= 0)
    tl.store(certain + rows, is_certain, mask=rows >= 0)
