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


@triton.jit
def _steps_of(largest, near):
    """Return the step in which a largest magnitude is 127, and nearly its inverse."""
    is_worth = near & (largest >= _SMALL_R)
    step = tl.where(is_worth, largest / 127.0, 0.0)
    return step, tl.where(is_worth, 126.9999 / tl.where(is_worth, largest, 1.0), 0.0)


@triton.jit(do_not_specialize=["d", "chunks"])
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
    chunks,  # of columns
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    width = chunks * COLUMNS  # so that the compiler knows what divides it
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
    step, inverse = _steps_of(largest, near)
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
def _products(first, rows, centers, chunks, COLUMNS: tl.constexpr, WHOLE: tl.constexpr):
    """Return the products of a tile of rows and one of centers: whole numbers, so exact.

    `first`: the first chunk of columns of the rows; `rows` and `centers`: where each begins.
    """
    total = tl.dot(first, tl.load(centers), out_dtype=tl.int32)
    if not WHOLE:  # else the loop over centers is the innermost one, which Triton pipelines
        for chunk in range(1, chunks):
            here = chunk * COLUMNS
            total = tl.dot(tl.load(rows + here), tl.load(centers + here), total, out_dtype=tl.int32)
    return total


@triton.jit
def _keys(product, weight, reach, lows, norms, steps, centers, tile):
    """Return where the scores begin, q - a - R E - 2 w t p, with the tile's number as last bits."""
    begin = tl.load(lows + centers)[None, :] - reach[:, None] * tl.load(norms + centers)[None, :]
    product = tl.load(steps + centers)[None, :] * product.to(tl.float32)
    low = begin + weight[:, None] * product
    bits = (low.to(tl.int32, bitcast=True) & _MASK) | tile
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _across_lanes(best, rival, lanes, CENTERS: tl.constexpr):
    """Return the lowest two keys of each row, given those of its lanes, and the center of one."""
    low = tl.min(best, axis=1)
    lane = tl.min(tl.where(best == low[:, None], lanes[None, :], CENTERS), axis=1)
    others = tl.where(lanes[None, :] == lane[:, None], rival, best)
    tile = low.to(tl.int32, bitcast=True) & (_TILES - 1)
    return low, tl.min(others, axis=1), tile * CENTERS + lane


@triton.jit(do_not_specialize=["k", "chunks"])
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
    chunks,  # of columns
    ROWS: tl.constexpr,
    CENTERS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WHOLE: tl.constexpr,  # whether one chunk has all columns
):
    width = chunks * COLUMNS  # so that the compiler knows what divides it
    slots = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    group = tl.load(block_groups + tl.program_id(0)).to(tl.int64)
    tiles = tl.cdiv(k, CENTERS)
    begin = group * tiles * CENTERS
    weight = -2.0 * tl.load(steps + slots)
    size = tl.load(sizes + slots)
    # R: 2.002 is more than 2 (1 + 2^-10), and the other one 2^-13.
    off = tl.load(errors + slots) + tl.load(thetas + group) * size
    reach = 2.002 * off + 0.0001220703125 * size
    columns = tl.arange(0, COLUMNS)
    row_bytes = packed + slots[:, None] * width + columns[None, :]
    first_chunk = tl.load(row_bytes)
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
            place = panels + centers[None, :] * width + columns[:, None]
            product = _products(first_chunk, row_bytes, place, chunks, COLUMNS, WHOLE)
            key = _keys(product, weight, reach, lows, norms, center_steps, centers, tile - first)
            rival = tl.minimum(rival, tl.maximum(best, key))
            best = tl.minimum(best, key)
        found, other, center = _across_lanes(best, rival, lanes, CENTERS)
        is_lower = found < lowest
        second = tl.minimum(tl.minimum(second, other), tl.where(is_lower, lowest, found))
        nearest = tl.where(is_lower, first * CENTERS + center, nearest)
        lowest = tl.minimum(lowest, found)
    nearest = tl.minimum(nearest, k - 1)  # it may be anything where a score is not a number
    best_center = begin + nearest
    upper = lowest + tl.load(slacks + best_center) + 2.0 * reach * tl.load(norms + best_center)
    is_certain = second > upper  # not where one of them is infinite, or not a number
    rows = tl.load(order + slots)
    tl.store(labels + rows, nearest, mask=rows >= 0)
    tl.store(certain + rows, is_certain, mask=rows >= 0)
