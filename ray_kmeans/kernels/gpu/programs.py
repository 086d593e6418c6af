"""The Triton programs that score: the lowest two of each row, and the centers that may be lowest.

Sizes are numbers of the run, not of the compilation. Rows stand in blocks, each of one group, whose
reference they share; a slot of row -1 is empty. Constants and bounds are those of
`kernels.int8.quantize`, which docs/internals/exactness.md derives.
"""

from __future__ import annotations

import triton
import triton.language as tl

ID_BITS = 8
"""Low bits of a score that give way to the number of its tile of centers, as in `llvm.vectors`."""
TILES_AT_ONCE = 2**ID_BITS
"""Tiles of centers that the low bits can name."""

_MASK = tl.constexpr(-TILES_AT_ONCE)
"""Mask of the bits of a score that stay when its last bits name a tile."""
_TILES = tl.constexpr(TILES_AT_ONCE)
"""Number of tiles of centers that the last bits of a score can name, as programs take it."""


@triton.jit
def _load_reach(sizes, errors, slots, theta):
    """Return R, by which a score is off for each unit of a center's norm.

    2.002 is more than 2 (1 + 2^-10), and the other one 2^-13.
    """
    size = tl.load(sizes + slots)
    return 2.002 * (tl.load(errors + slots) + theta * size) + 0.0001220703125 * size


@triton.jit
def _load_block(steps, sizes, errors, block_groups, thetas, ROWS: tl.constexpr):
    """Return the slots of this program's rows, their group, -2 w, and R."""
    slots = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    group = tl.load(block_groups + tl.program_id(0)).to(tl.int64)
    reach = _load_reach(sizes, errors, slots, tl.load(thetas + group))
    return slots, group, -2.0 * tl.load(steps + slots), reach


@triton.jit
def _multiply(first, rows, centers, chunks, COLUMNS: tl.constexpr, WHOLE: tl.constexpr):
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
def _compute_keys(product, weight, reach, lows, norms, steps, centers, tile):
    """Return where the scores begin, q - a - R E - 2 w t p, with the tile's number as last bits."""
    begin = tl.load(lows + centers)[None, :] - reach[:, None] * tl.load(norms + centers)[None, :]
    product = tl.load(steps + centers)[None, :] * product.to(tl.float32)
    low = begin + weight[:, None] * product
    # This moves a score by 2^-15 of itself at most, up or down; the bounds allow for it.
    bits = (low.to(tl.int32, bitcast=True) & _MASK) | tile
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _merge_lanes(best, rival, lanes, CENTERS: tl.constexpr):
    """Return the lowest two keys of each row, given those of its lanes, and the center of one."""
    low = tl.min(best, axis=1)
    lane = tl.min(tl.where(best == low[:, None], lanes[None, :], CENTERS), axis=1)
    others = tl.where(lanes[None, :] == lane[:, None], rival, best)
    tile = low.to(tl.int32, bitcast=True) & (_TILES - 1)
    return low, tl.min(others, axis=1), tile * CENTERS + lane


@triton.jit(do_not_specialize=["tiles", "chunks"])
def find_lowest_two(
    packed,  # (slots, width)  IN
    order,  # (slots,)  IN
    steps,  # (slots,)  IN
    sizes,  # (slots,)  IN
    errors,  # (slots,)  IN
    block_groups,  # (blocks,)  IN
    n_kept,  # (blocks,)  IN, tiles of centers that may hold the nearest one
    panels,  # (groups, tiles * CENTERS, width)  IN, the centers in bytes around each reference
    center_steps,  # (groups, tiles * CENTERS)  IN
    lows,  # (groups, tiles * CENTERS)  IN  q - a
    norms,  # (groups, tiles * CENTERS)  IN  E
    numbers,  # (groups, tiles * CENTERS)  IN, numbers of the centers
    thetas,  # (groups,)  IN
    slacks,  # (groups, tiles * CENTERS)  IN  2 a
    labels,  # (n,)  OUT, of the lowest score
    uppers,  # (n,)  OUT, where the lowest score ends
    certified,  # (n,)  OUT, whether no other center can be the nearest
    tiles,
    chunks,  # of columns
    ROWS: tl.constexpr,
    CENTERS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WHOLE: tl.constexpr,  # whether one chunk has all columns
):
    """Find the two lowest scores of each row, and tell whether the label is certified."""
    slots, group, weight, reach = _load_block(steps, sizes, errors, block_groups, thetas, ROWS)
    width = chunks * COLUMNS  # so that the compiler knows what divides it
    begin = group * tiles * CENTERS
    columns = tl.arange(0, COLUMNS)
    row_bytes = packed + slots[:, None] * width + columns[None, :]
    first_chunk = tl.load(row_bytes)
    lanes = tl.arange(0, CENTERS)
    lowest = tl.full((ROWS,), 3e38, tl.float32)
    second = tl.full((ROWS,), 3e38, tl.float32)
    nearest = tl.zeros((ROWS,), tl.int32)
    last = tl.load(n_kept + tl.program_id(0))
    for first in range(0, last, _TILES):
        # Each lane keeps its two lowest scores, so that nothing is compared across lanes but here.
        best = tl.full((ROWS, CENTERS), 3e38, tl.float32)
        rival = tl.full((ROWS, CENTERS), 3e38, tl.float32)
        for tile in range(first, min(first + _TILES, last)):
            centers = begin + tile * CENTERS + lanes
            place = panels + centers[None, :] * width + columns[:, None]
            product = _multiply(first_chunk, row_bytes, place, chunks, COLUMNS, WHOLE)
            key = _compute_keys(
                product, weight, reach, lows, norms, center_steps, centers, tile - first
            )
            rival = tl.minimum(rival, tl.maximum(best, key))
            best = tl.minimum(best, key)
        found, other, center = _merge_lanes(best, rival, lanes, CENTERS)
        is_lower = found < lowest
        second = tl.minimum(tl.minimum(second, other), tl.where(is_lower, lowest, found))
        nearest = tl.where(is_lower, first * CENTERS + center, nearest)
        lowest = tl.minimum(lowest, found)
    nearest = tl.minimum(nearest, tiles * CENTERS - 1)  # anything where a score is not a number
    best_center = begin + nearest
    upper = lowest + tl.load(slacks + best_center) + 2.0 * reach * tl.load(norms + best_center)
    is_certified = second > upper  # not where one of them is infinite, or not a number
    rows = tl.load(order + slots)
    tl.store(labels + rows, tl.load(numbers + best_center), mask=rows >= 0)
    tl.store(uppers + rows, upper, mask=rows >= 0)
    tl.store(certified + rows, is_certified, mask=rows >= 0)


@triton.jit(do_not_specialize=["tiles", "chunks"])
def list_candidates(
    packed,  # (slots, width)  IN, and so on, as for `find_lowest_two`
    order,
    steps,
    sizes,
    errors,
    block_groups,
    n_kept,
    panels,
    center_steps,
    lows,
    norms,
    numbers,
    thetas,
    uppers,  # (n,)  IN
    found,  # (n, MOST)  OUT, the centers whose scores begin below, in the first places
    counts,  # (n,)  OUT, how many they are, also where they are more than there are places
    tiles,
    chunks,  # of columns
    ROWS: tl.constexpr,
    CENTERS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WHOLE: tl.constexpr,
    MOST: tl.constexpr,
):
    """List the centers of each row whose scores begin below its upper bound."""
    slots, group, weight, reach = _load_block(steps, sizes, errors, block_groups, thetas, ROWS)
    width = chunks * COLUMNS  # so that the compiler knows what divides it
    begin = group * tiles * CENTERS
    columns = tl.arange(0, COLUMNS)
    row_bytes = packed + slots[:, None] * width + columns[None, :]
    first_chunk = tl.load(row_bytes)
    lanes = tl.arange(0, CENTERS)
    rows = tl.load(order + slots).to(tl.int64)
    upper = tl.load(uppers + rows, mask=rows >= 0, other=-float("inf"))
    count = tl.zeros((ROWS,), tl.int32)
    for tile in range(tl.load(n_kept + tl.program_id(0))):
        centers = begin + tile * CENTERS + lanes
        place = panels + centers[None, :] * width + columns[:, None]
        product = _multiply(first_chunk, row_bytes, place, chunks, COLUMNS, WHOLE)
        tile_number = (_TILES - 1) & tile
        key = _compute_keys(product, weight, reach, lows, norms, center_steps, centers, tile_number)
        is_candidate = (key <= upper[:, None]).to(tl.int32)
        if tl.max(tl.max(is_candidate, axis=1), axis=0) > 0:
            at = count[:, None] + tl.cumsum(is_candidate, axis=1) - 1
            numbered = tl.broadcast_to(tl.load(numbers + centers)[None, :], (ROWS, CENTERS))
            tl.store(
                found + rows[:, None] * MOST + at, numbered, mask=(is_candidate > 0) & (at < MOST)
            )
            count += tl.sum(is_candidate, axis=1)
    tl.store(counts + rows, count, mask=rows >= 0)
