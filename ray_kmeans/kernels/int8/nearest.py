"""The lowest scores of up to 256 rows among quantized centers, and the certificate of each label.

The arguments are those of the table in `types`; docs/internals/exactness.md proves the bounds.
"""

from __future__ import annotations

import numpy as np

from ray_kmeans.kernels import F32, I8, I32
from ray_kmeans.kernels.int8.types import (
    PartCenters,
    QuantizedRows,
    Scratch,
    Target,
    bare,
    start_of,
    zero,
)
from ray_kmeans.kernels.llvm import int8_products, vectors
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS, CHUNK_CENTERS, Unit

PANEL_CENTERS = 2**vectors.ID_BITS
"""Centers of a panel: as many as the last bits of a score can name."""
NUMBERS = np.arange(PANEL_CENTERS, dtype=np.int32)
"""The numbers of the centers inside a panel, as compiled code loads them."""
PANEL_ROWS = vectors.PANEL_ROWS
"""Rows that are scored together."""
SUMS_BYTES = vectors.SUMS_BYTES
"""Bytes from one chunk of products to the next."""
FIRST_CACHE = 2**14
"""Bytes of quantized rows that meet all centers before the next rows do. They take a part of the
first-level cache, for a chunk of centers and three chunks of products need room beside them."""
HIGHEST = np.float32(3e38)
"""A score above that of any center, also of one that is not there."""
NEVER = np.float32(2.0**100)
"""Where the score of a padding center begins: above that of any real one, and below `HIGHEST`."""
KNOWN = np.float32(2.0**99)
"""The lowest score of a row begins below this, if it is that of a real center."""
UNDECIDED = np.float32(-np.inf)
"""The bound of a row whose nearest center is not certain."""


@bare
def reach_of(error: np.float32, size: np.float32, theta: np.float32) -> np.float32:
    """Return -R, what the interval of a row grows by downwards for each unit of E."""
    # 2^-10 of R is for float32, 2^-13 |r'| for the 8 bits of a score that give way to a number.
    reach = np.float32(-2.0 * (1 + 2.0**-10)) * (error + theta * size)
    return reach - np.float32(2.0**-13) * size


@bare
def load_row_panel(
    blocks: I32, quantized: QuantizedRows, theta: np.float32, scratch: Scratch
) -> None:
    """Copy the factors of the rows of some blocks into the panel of rows.

    blocks: (up to 8,) int32  IN, numbers of blocks
    theta: float32  IN, max |e - e'| / |e| over the kept centers
    """
    panel = scratch.rows
    for i in range(len(blocks)):
        shift = BLOCK_ROWS * (blocks[i] - i)
        for at in range(BLOCK_ROWS * i, BLOCK_ROWS * i + BLOCK_ROWS):
            size, error = quantized.sizes[shift + at], quantized.errors[shift + at]
            panel.weights[at] = quantized.weights[shift + at]
            panel.radii[at] = error + size
            panel.reaches[at] = reach_of(error, size, theta)


@bare
def find_lowest(
    unit: Unit, packed: I32, blocks: I32, padded: int, three: bool, scratch: Scratch
) -> None:
    """Find the two or three lowest scores of each row of some blocks, and the centers of two.

    Products are folded into the lowest scores two products later: their sums have left the
    processor's store buffer by then, and matrix and vector units work at the same time. So three
    buffers of products go round: `other` is written, `ahead` is on its way, `ready` is folded.

    packed: (blocks, quads, 32) int32  IN, as in `QuantizedRows`
    blocks: (up to 8,) int32  IN, numbers of blocks
    three: bool  IN, whether the third-lowest scores are of use
    """
    line = packed.shape[1] * 4 * BLOCK_ROWS
    at_once = max(1, min(len(blocks), FIRST_CACHE // line))
    centers = scratch.centers
    sums = start_of(scratch.products)
    ahead, ready, other = sums, sums + SUMS_BYTES, sums + 2 * SUMS_BYTES
    for first in range(0, padded, PANEL_CENTERS):
        scratch.rows.panel_lowest[:] = HIGHEST
        last = min(first + PANEL_CENTERS, padded)
        here = there = (zero(), zero(), first)
        left = len(blocks) * (last - first) // CHUNK_CENTERS
        # Two steps more than there are products, which only fold what the last two left.
        for step in range(left + 2):
            if step < left:
                panel, offsets = panel_at(centers.first_bytes, centers.first_offsets, here[2])
                rows = start_of(packed) + blocks[here[1]] * line
                int8_products.multiply(unit, rows, packed.shape[1], panel, offsets, other)
                here = next_place(here, at_once, len(blocks), first, last)
            if step >= 2:
                fold_chunk(three, there[2], first, there[1], ready, scratch)
                there = next_place(there, at_once, len(blocks), first, last)
            if step < left:
                # Not before the fold above: while that runs, the unit is still multiplying.
                int8_products.store(unit, other)
            ready, ahead, other = ahead, other, ready
        merge_panel(first, scratch)


@bare
def next_place(
    place: tuple[int, int, int], at_once: int, n_blocks: int, first: int, last: int
) -> tuple[int, int, int]:
    """Return the next pair of a block and a chunk: `at_once` blocks meet all chunks, then the next.

    place: (int, int, int)  IN, the first of these blocks, the block, the first center of the chunk
    first, last: int  IN, where the panel of centers begins and ends
    """
    begin, block, chunk = place
    block += 1
    if block == min(begin + at_once, n_blocks):
        block, chunk = begin, chunk + CHUNK_CENTERS
        if chunk == last:
            begin, chunk = begin + at_once, first
            block = begin
    return begin, block, chunk


@bare
def panel_at(tiles: I8, offsets: I32, chunk: int) -> tuple[int, int]:
    """Return the addresses that `int8_products.multiply` takes for one chunk of centers.

    tiles: (room / 16, chunks, 16, 64) int8  IN; offsets: (room,) int32  IN
    chunk: int  IN, place of its first center, a multiple of 32
    """
    return start_of(tiles) + chunk * tiles.shape[1] * 64, start_of(offsets) + 4 * chunk


@bare
def addresses_of(
    chunk: int, first: int, block: int, scratch: Scratch
) -> tuple[int, int, int, int, int, int, int]:
    """Return the addresses that `vectors.fold_two` takes for one chunk of centers and one block.

    chunk: int  IN, place of its first center; first: int  IN, that of its panel
    block: int  IN, which block of the panel of rows
    """
    c, at = 4 * chunk, 4 * BLOCK_ROWS * block
    centers, rows = scratch.centers, scratch.rows
    return (
        start_of(centers.steps) + c,
        start_of(centers.lows) + c,
        start_of(centers.norms) + c,
        start_of(NUMBERS) + 4 * (chunk - first),
        start_of(rows.weights) + at,
        start_of(rows.reaches) + at,
        start_of(rows.panel_lowest) + at,
    )


@bare
def fold_chunk(
    three: bool, chunk: int, first: int, block: int, sums: int, scratch: Scratch
) -> None:
    """Fold the one-byte products of a chunk and a block into the lowest scores of the block.

    chunk, first, block: as in `addresses_of`
    sums: int  IN, address of the products
    """
    addresses = addresses_of(chunk, first, block, scratch)
    if three:
        vectors.fold_three(sums, CHUNK_CENTERS, *addresses)
    else:
        vectors.fold_two(sums, CHUNK_CENTERS, *addresses)


@bare
def fold_chunk_finely(
    three: bool, chunk: int, first: int, block: int, sums: int, scratch: Scratch
) -> None:
    """Fold the two-byte products of a chunk and a block, as `fold_chunk` does those of one byte."""
    addresses = addresses_of(chunk, first, block, scratch)
    if three:
        vectors.fold_three_finely(sums, CHUNK_CENTERS, *addresses)
    else:
        vectors.fold_two_finely(sums, CHUNK_CENTERS, *addresses)


@bare
def find_lowest_finely(
    unit: Unit, n_blocks: int, padded: int, three: bool, scratch: Scratch
) -> None:
    """Find the lowest scores, as `find_lowest` does, of rows that are quantized to two bytes.

    n_blocks: int  IN, how many blocks the panel of rows has
    """
    line = scratch.rows.first_bytes.shape[1] * 4 * BLOCK_ROWS
    for first in range(0, padded, PANEL_CENTERS):
        scratch.rows.panel_lowest[:] = HIGHEST
        for chunk in range(first, min(first + PANEL_CENTERS, padded), CHUNK_CENTERS):
            for i in range(n_blocks):
                rows = start_of(scratch.rows.first_bytes) + i * line
                second_rows = start_of(scratch.rows.second_bytes) + i * line
                multiply_finely(unit, rows, second_rows, chunk, scratch)
                fold_chunk_finely(three, chunk, first, i, start_of(scratch.products), scratch)
        merge_panel(first, scratch)


@bare
def multiply_finely(unit: Unit, rows: int, second_rows: int, chunk: int, scratch: Scratch) -> None:
    """Write the products of 32 rows and a chunk of centers in two bytes to `scratch.products`.

    These are first by first bytes, and then first by second and second by first bytes, which are to
    be added. Second by second bytes are left out: the bound allows for them.

    rows, second_rows: int  IN, addresses of (quads, 32) int32, the bytes of the rows
    chunk: int  IN, place of the first center
    """
    quads = scratch.rows.first_bytes.shape[1]
    centers, offsets = panel_at(scratch.centers.first_bytes, scratch.centers.first_offsets, chunk)
    seconds, second_offsets = panel_at(
        scratch.centers.second_bytes, scratch.centers.second_offsets, chunk
    )
    out = start_of(scratch.products)
    int8_products.multiply(unit, rows, quads, centers, offsets, out)
    int8_products.store(unit, out)
    int8_products.multiply_exactly(unit, rows, quads, seconds, second_offsets, out + SUMS_BYTES)
    int8_products.store(unit, out + SUMS_BYTES)
    int8_products.multiply(unit, second_rows, quads, centers, offsets, out + 2 * SUMS_BYTES)
    int8_products.store(unit, out + 2 * SUMS_BYTES)


@bare
def merge_panel(first: int, scratch: Scratch) -> None:
    """Merge the lowest scores among a panel of centers into those among the panels before.

    first: int  IN, place of the first center of the panel
    """
    panel = scratch.rows
    for rank in range(3):
        keys = panel.panel_lowest[rank]
        if first == 0:
            begin_lowest(keys, keys.view(np.int32), panel.lowest[rank], panel.best[rank])
        else:
            insert_keys(first, keys, keys.view(np.int32), panel.lowest, panel.best)


@bare
def begin_lowest(keys: F32, bits: I32, lowest: F32, best: I32) -> None:
    """Take the keys of the first panel of centers over as the lowest scores.

    keys: (256,) float32  IN, scores whose last bits name a center; bits: (256,) int32  IN, the same
    lowest: (256,) float32  OUT; best: (256,) int32  OUT, places of centers
    """
    for i in range(PANEL_ROWS):
        lowest[i] = keys[i]
        best[i] = bits[i] & np.int32(PANEL_CENTERS - 1)


@bare
def insert_keys(first: int, keys: F32, bits: I32, lowest: F32, best: I32) -> None:
    """Insert a key of each row into its three lowest scores, which are in order.

    first: int  IN, place of the first center of the panel that the keys are of
    keys, bits: as in `begin_lowest`
    lowest: (3, 256) float32  INOUT; best: (3, 256) int32  INOUT, of which line 2 is not maintained
    """
    # Selections and no branch, so that LLVM makes vectors of the loop.
    for i in range(PANEL_ROWS):
        key, number = keys[i], np.int32(first + (bits[i] & np.int32(PANEL_CENTERS - 1)))
        a, b, c = lowest[0, i], lowest[1, i], lowest[2, i]
        middle = a if key < a else key
        follower = best[0, i] if key < a else number
        last = b if middle < b else middle
        best[0, i] = number if key < a else best[0, i]
        best[1, i] = follower if middle < b else best[1, i]
        lowest[0, i] = key if key < a else a
        lowest[1, i] = middle if middle < b else b
        lowest[2, i] = last if last < c else c


@bare
def pad_centers(n_kept: int, scratch: Scratch) -> int:
    """Add centers that never win, up to a whole chunk of 32; return how many centers there are."""
    centers = scratch.centers
    padded = (n_kept + CHUNK_CENTERS - 1) // CHUNK_CENTERS * CHUNK_CENTERS
    for i in range(n_kept, padded):
        # A step of 0 makes whatever bytes stand there count for nothing.
        centers.lows[i] = NEVER
        centers.norms[i] = centers.steps[i] = centers.slacks[i] = np.float32(0.0)
    return padded


@bare
def drop_left_out(some: I32, n_kept: int, left_out: I32, scratch: Scratch) -> None:
    """Drop the score of one center of each row, if it is among the row's two lowest.

    The third-lowest score moves up, so a row that was folded with three still has two.

    some: (up to 256,) int32  IN, the slots of the panel of rows
    left_out: (slots,) int32  IN, the center of each slot to drop
    """
    numbers, panel = scratch.centers.numbers, scratch.rows
    for i in range(len(some)):
        center = left_out[some[i]]
        # Where no score was a number, a place may be that of a padding center.
        is_lowest = numbers[min(panel.best[0, i], n_kept - 1)] == center
        is_next = numbers[min(panel.best[1, i], n_kept - 1)] == center
        if is_lowest:
            panel.best[0, i], panel.lowest[0, i] = panel.best[1, i], panel.lowest[1, i]
        if is_lowest or is_next:
            panel.lowest[1, i] = panel.lowest[2, i]


@bare
def certify(n: int, part: PartCenters, target: Target, scratch: Scratch) -> None:
    """Write the label of each row of the panel, an upper bound of its score, and its bound.

    A bound says how far centers may come, in all, before the label can change. It is counted from
    the beginning, so what they have come up to now is added to what is left.

    n: int  IN, how many rows the panel has
    """
    panel = scratch.rows
    load_uppers(n, part.n_kept, scratch)
    compute_bounds(n, part.margin.most, part.others, scratch)
    for i in range(n):
        label = scratch.centers.numbers[panel.best[0, i]]
        bound = panel.bounds[i] - target.safe_gap + (target.moves[label] + part.margin.moves)
        bound -= abs(bound) * np.float32(2.0**-20)
        # Moves may be infinite, and would make a bound of a row that has none.
        panel.bounds[i] = bound if panel.bounds[i] > UNDECIDED else UNDECIDED
        panel.labels[i] = label


@bare
def load_uppers(n: int, n_kept: int, scratch: Scratch) -> None:
    """Write the length of the interval of each row's lowest score, 2 (a + R E), as its upper bound.

    n: int  IN, how many rows the panel has
    """
    panel, centers = scratch.rows, scratch.centers
    # 2.002 for 2 covers the rounding of this loop. `reaches` holds -R, hence the minus.
    for i in range(n):
        # Where no score was a number, the place may be that of a padding center.
        center = min(panel.best[0, i], np.int32(n_kept - 1))
        panel.best[0, i] = center
        reach = np.float32(2.002) * panel.reaches[i]
        panel.uppers[i] = centers.slacks[center] - reach * centers.norms[center]


@bare
def bound_of(
    lowest: np.float32, upper: np.float32, gap: np.float32, radius: np.float32, most: np.float32
) -> np.float32:
    """Return how far centers may come before a row's label can change, or UNDECIDED.

    The nearest center is at most D away, D^2 = upper + |r|^2, and the others are farther by
    gap / (D + sqrt(D^2 + gap)): a difference of square roots without cancellation. As long as its
    own center and any other one have come no farther than that, together, the label stays. There is
    no branch, so that the loop around it stays one of vectors.

    lowest: float32  IN, where the interval of the lowest score begins
    upper: float32  IN, where it ends
    gap: float32  IN, from there to where the next interval begins
    radius: float32  IN, an upper bound of |r|
    most: float32  IN, the most that is returned
    """
    # 1.001, 0.998 and 2^-50 outweigh the rounding of the few operations that they stand in.
    sure = (lowest < KNOWN) & (gap > np.float32(0.0))
    more = gap if sure else np.float32(1.0)
    squared = upper + radius * radius * np.float32(1.001)
    squared = squared if squared > np.float32(0.0) else np.float32(0.0)
    away = np.sqrt(squared) * np.float32(1.001) + np.float32(2.0**-50)
    slack = np.float32(0.998) * more / (away + np.sqrt(away * away + more))
    slack = slack if slack < most else most
    return slack if sure else UNDECIDED


@bare
def compute_bounds(n: int, most: np.float32, others: np.float32, scratch: Scratch) -> None:
    """Write where the interval of each row's lowest score ends, and how far centers may come.

    Nothing is looked up by an index that was loaded, so that the loop is one of vectors.

    n: int  IN, how many rows the panel has
    most: float32  IN, as in `Margin`; others: float32  IN, as in `PartCenters`
    """
    panel = scratch.rows
    lowest, seconds = panel.lowest[0], panel.lowest[1]
    for i in range(n):
        upper = lowest[i] + panel.uppers[i]
        upper = upper if lowest[i] < KNOWN else np.float32(np.inf)
        gap = (seconds[i] if seconds[i] < others else others) - upper
        panel.uppers[i] = upper
        panel.bounds[i] = bound_of(lowest[i], upper, gap, panel.radii[i], most)
