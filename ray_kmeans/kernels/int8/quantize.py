"""Quantize rows and centers to bytes around a reference, with bounds of what that changes.

With r = x - g and e = c - g around a reference g, all scaled by a power of two, the score of a
center
    |x - c|^2 - |x - g|^2  =  q - 2 r.e,   q = |e|^2
lies within  q - (2 w t) p  +- (a + R E),  where p is the exact product of the bytes of r and e,
and w and t are their steps. docs/internals/exactness.md derives R, E, theta and a. The arguments
are those of the table in `types`.
"""

from __future__ import annotations

import numpy as np

from ray_kmeans.kernels import F32, I8, I32
from ray_kmeans.kernels.int8.nearest import pad_centers
from ray_kmeans.kernels.int8.types import (
    HINT_ROWS,
    Margin,
    PartCenters,
    Parts,
    QuantizedRows,
    Rows,
    Scratch,
    Target,
    bare,
    bare_sum,
)
from ray_kmeans.kernels.llvm import vectors
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS, Unit

FINER = vectors.FINER
"""Steps of a second byte in one step of the first."""
FAR_AWAY = np.float32(2.0**30)
"""A row this many spreads of the centers away could overflow; it is compared in float64."""
ROOM = np.float32(1.01)
"""A factor that rounds a norm up: it covers the rounding of a float32 sum up to d = 100,000."""
SMALL_E = np.float32(2.0**-30)
"""Least norm of a center around its reference, so that theta is defined."""
SMALL_R = np.float32(2.0**-50)
"""Least error of a quantized row: more than whatever may underflow."""
ONE = np.float32(1.0)
"""The scale of what is scaled already."""
LARGEST_BYTE = np.float32(127.0)
"""Largest magnitude of a byte of a row."""
AHEAD = 8
"""How many rows ahead memory is asked for: rows that stand in no order would be waited for."""


@bare
def address_of(rows: Rows, row: int, d: int) -> int:
    """Return the address of row number `row`, of d columns. The hint is a block at or before it."""
    block = rows.hints[row // HINT_ROWS]
    while rows.firsts[block + 1] <= row:
        block += 1
    return rows.addresses[block] + (row - rows.firsts[block]) * d * 4


@bare
def fetch_row(rows: Rows, row: int, d: int) -> None:
    """Ask the processor for row number `row`, which is to be read soon; a row of -1 is none."""
    if row >= 0:
        place = address_of(rows, row, d)
        for line in range(0, 4 * d, 64):
            vectors.prefetch(place + line)


@bare
def subtract(x: F32, scale: np.float32, g: F32, r: F32) -> None:
    """Write r = scale x - g; beyond the columns of x it stays zero, as g is.

    x: (d,) float32  IN; scale: float32  IN; r: (columns,) float32  OUT
    """
    for column in range(x.shape[0]):
        r[column] = x[column] * scale - g[column]


@bare_sum
def sum_of_squares(r: F32) -> np.float32:
    """Return |r|^2 in float32, in any order; r: (columns,) float32  IN."""
    total = np.float32(0.0)
    for column in range(r.shape[0]):
        total += r[column] * r[column]
    return total


@bare
def largest_of(bits: I32) -> np.float32:
    """Return the largest magnitude of some float32, given by their bits (columns,) int32  IN.

    As whole numbers, the bits of magnitudes order as the magnitudes do, and their maximum is one
    instruction; NaN orders as the highest.
    """
    largest = np.int32(0)
    for column in range(bits.shape[0]):
        largest = max(largest, bits[column] & np.int32(0x7FFFFFFF))
    return vectors.as_float(largest)


@bare
def steps_of(largest: np.float32, most: np.float32) -> tuple[np.float32, np.float32]:
    """Return the step by which a largest magnitude is `most` steps, and nearly its inverse.

    The inverse is a little too small, so that no quotient is rounded to more than `most`.
    """
    if largest < SMALL_R:
        return np.float32(0.0), np.float32(0.0)
    return largest / most, most * np.float32(1 - 2.0**-20) / largest


@bare
def finer_steps(step: np.float32) -> tuple[np.float32, np.float32]:
    """Return the step of second bytes, given the step of first bytes, and nearly its inverse."""
    if step == np.float32(0.0):
        return np.float32(0.0), np.float32(0.0)
    return step * np.float32(1 / FINER), np.float32(FINER * 0.9999) / step


@bare_sum
def to_bytes(r: F32, step: np.float32, inverse: np.float32, q: I8) -> tuple[np.float32, np.float32]:
    """Write r in whole steps, rounded to nearest; return |q|^2 and |r - step q|^2.

    r: (columns,) float32  IN; q: (columns,) int8  OUT
    """
    squares = np.float32(0.0)
    error = np.float32(0.0)
    for column in range(r.shape[0]):
        near = vectors.whole(r[column] * inverse)
        difference = r[column] - step * near
        error += difference * difference
        squares += near * near
        q[column] = np.int8(np.int32(near))
    return squares, error


@bare_sum
def to_two_bytes(
    r: F32, step: np.float32, inverse: np.float32, q: I8, second: I8
) -> tuple[np.float32, np.float32]:
    """Write r in whole steps, and the rest in steps of step / 254.

    r: (columns,) float32  IN; q, second: (columns,) int8  OUT
    Returns |r - r'|^2 by the first bytes, and by both.
    """
    finer, finer_inverse = finer_steps(step)
    first_error = np.float32(0.0)
    error = np.float32(0.0)
    for column in range(r.shape[0]):
        near = vectors.whole(r[column] * inverse)
        left = r[column] - step * near
        first_error += left * left
        near_left = vectors.whole(left * finer_inverse)
        left -= finer * near_left
        error += left * left
        q[column] = np.int8(np.int32(near))
        second[column] = np.int8(np.int32(near_left))
    return first_error, error


@bare
def quantize_parts(
    first_part: int,
    last_part: int,
    parts: Parts,
    rows: Rows,
    order: I32,
    d: int,
    scale: np.float32,
    quantized: QuantizedRows,
    scratch: Scratch,
) -> None:
    """Quantize the rows of the parts from `first_part` to `last_part`; a slot of row -1 is empty.

    The step is the row's own: its largest magnitude is 127 steps, so a row near its reference keeps
    as many bits as one far away.

    order: (slots,) int32  IN, numbers of rows
    scale: float32  IN
    quantized: OUT, but for its references
    """
    r, bits, q, words = (
        scratch.vector.values,
        scratch.vector.bits,
        scratch.vector.first_bytes,
        scratch.vector.first_words,
    )
    quads = quantized.packed.shape[1]
    for p in range(first_part, last_part):
        group, first_block, last_block = parts.spans[p]
        g = quantized.references[group]
        last = last_block * BLOCK_ROWS
        parts.radii[p] = np.float32(0.0)
        for slot in range(first_block * BLOCK_ROWS, last):
            quantized.weights[slot] = quantized.errors[slot] = quantized.sizes[slot] = np.float32(
                0.0
            )
            # Rows of a group may be anywhere in memory, and reading them would be mostly waiting.
            if slot + AHEAD < last:
                fetch_row(rows, order[slot + AHEAD], d)
            if order[slot] < 0:
                continue
            x = vectors.floats_at(address_of(rows, order[slot], d), d)
            subtract(x, scale, g, r)
            if not sum_of_squares(r) < FAR_AWAY * FAR_AWAY:  # also where it is not a number
                quantized.errors[slot] = parts.radii[p] = np.float32(np.inf)
                continue
            step, inverse = steps_of(largest_of(bits), LARGEST_BYTE)
            whole, error = to_bytes(r, step, inverse, q)
            block, lane = slot // BLOCK_ROWS, slot % BLOCK_ROWS
            for quad in range(quads):
                quantized.packed[block, quad, lane] = words[quad]
            size = step * np.sqrt(whole) * ROOM
            quantized.weights[slot] = np.float32(-2.0) * step
            quantized.sizes[slot] = size
            # 2^-21 |r'| is more than r and step q were rounded by.
            quantized.errors[slot] = np.sqrt(error) * ROOM + np.float32(2.0**-21) * size + SMALL_R
            parts.radii[p] = max(parts.radii[p], size + quantized.errors[slot])


@bare
def quantize_finely(
    x: F32, scale: np.float32, g: F32, scratch: Scratch
) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Quantize a row to two bytes a column, in `scratch.vector`.

    x: (d,) float32  IN; scale: float32  IN
    Returns -2 w, and upper bounds of |r - r'| by both bytes, of the same by the first, and of |r|.
    """
    r = scratch.vector.values
    subtract(x, scale, g, r)
    size = np.sqrt(sum_of_squares(r)) * ROOM + SMALL_R
    step, inverse = steps_of(largest_of(scratch.vector.bits), LARGEST_BYTE)
    first_error, error = to_two_bytes(
        r, step, inverse, scratch.vector.first_bytes, scratch.vector.second_bytes
    )
    little = np.float32(2.0**-21) * size
    return (
        np.float32(-2.0) * step,
        np.sqrt(error) * ROOM + little,
        np.sqrt(first_error) * ROOM + little,
        size,
    )


@bare
def product(g: F32, e: F32) -> float:
    """Return g.e in float64, in any order; g, e: (columns,) float32  IN."""
    total = 0.0
    for column in range(g.shape[0]):
        total += np.float64(g[column]) * np.float64(e[column])
    return total


@bare
def compute_terms(target: Target, g: F32, scratch: Scratch) -> float:
    """Write the terms of all centers around g to `scratch.terms`; return |g|^2 - s^2."""
    e = scratch.vector.values
    d = target.centers.shape[1]
    # 2^-15 of q is for the 8 bits of a score that give way to a number, and (d + 16) 2^-24 for a
    # float32 sum in any order.
    kappa = ROOM * np.float32(2.0**-15 + (d + 16) * 2.0**-24)
    squares = product(g, g)
    shift = squares - np.float64(target.scale) * np.float64(target.scale)
    more = np.float32(2.0**-22 * np.sqrt(squares)) if target.cosine else np.float32(0.0)
    for j in range(len(target.scaled)):
        subtract(target.scaled[j], ONE, g, e)
        constant = sum_of_squares(e)
        scratch.terms.largest[j] = largest_of(scratch.vector.bits)
        scratch.terms.norms[j] = np.sqrt(constant) * ROOM + SMALL_E
        if target.cosine:
            constant = np.float32(-2.0 * product(g, e) - shift)
        scratch.terms.constants[j] = constant
        slack = kappa * abs(constant) + more * scratch.terms.norms[j]
        scratch.terms.slacks[j] = slack + np.float32(d * 2.0**-100)
    return shift


@bare_sum
def put_bytes(
    e: F32, step: np.float32, inverse: np.float32, lines: I8
) -> tuple[np.float32, np.int32]:
    """Write e in whole steps, 64 columns at a time; return |e - step q|^2 and the sum of q.

    e: (columns,) float32  IN; lines: (chunks, 64) int8  OUT, one line of each tile of the center
    """
    error = np.float32(0.0)
    total = np.int32(0)
    for chunk in range(lines.shape[0]):
        for column in range(64):
            value = e[64 * chunk + column]
            near = vectors.whole(value * inverse)
            difference = value - step * near
            error += difference * difference
            whole = np.int32(near)
            total += whole
            lines[chunk, column] = np.int8(whole)
    return error, total


@bare_sum
def put_second_bytes(
    e: F32, step: np.float32, lines: I8, second_lines: I8
) -> tuple[np.float32, np.int32]:
    """Write what the first bytes leave of e in steps of step / 254; return as `put_bytes` does.

    e: (columns,) float32  IN; lines: (chunks, 64) int8  IN, first bytes; second_lines: OUT
    """
    finer, inverse = finer_steps(step)
    error = np.float32(0.0)
    total = np.int32(0)
    for chunk in range(lines.shape[0]):
        for column in range(64):
            left = e[64 * chunk + column] - step * np.float32(lines[chunk, column])
            near = vectors.whole(left * inverse)
            left -= finer * near
            error += left * left
            whole = np.int32(near)
            total += whole
            second_lines[chunk, column] = np.int8(whole)
    return error, total


@bare
def relative_error(error: np.float32, norm: np.float32) -> np.float32:
    """Return an upper bound of |e - e'| / |e|, given |e - e'|^2 and E."""
    # 2^-21 E is more than e and step q were rounded by, 2^-52 more than whatever may underflow.
    off = np.sqrt(error) * ROOM + np.float32(2.0**-21) * norm + np.float32(2.0**-52)
    return off / norm * np.float32(1 + 2.0**-20)


@bare
def quantize_centers(
    unit: Unit, target: Target, g: F32, n_kept: int, scratch: Scratch
) -> np.float32:
    """Quantize the kept centers around g to one byte; return theta.

    `scratch.terms` must hold the terms around g, and `scratch.centers.numbers` the kept centers.
    """
    theta = np.float32(0.0)
    for i in range(n_kept):
        j = scratch.centers.numbers[i]
        subtract(target.scaled[j], ONE, g, scratch.vector.values)
        scratch.centers.steps[i], inverse = steps_of(scratch.terms.largest[j], unit.largest_byte)
        lines = scratch.centers.first_bytes[i // 16, :, i % 16]
        error, total = put_bytes(scratch.vector.values, scratch.centers.steps[i], inverse, lines)
        # VNNI multiplies rows as x + 128, and so has 128 times this sum too much.
        scratch.centers.first_offsets[i] = np.int32(-128) * total
        theta = max(theta, relative_error(error, scratch.terms.norms[j]))
        scratch.centers.norms[i] = scratch.terms.norms[j]
        scratch.centers.lows[i] = scratch.terms.constants[j] - scratch.terms.slacks[j]
        scratch.centers.slacks[i] = np.float32(2.0) * scratch.terms.slacks[j]
    return theta


@bare
def quantize_part(
    unit: Unit,
    target: Target,
    g: F32,
    n_kept: int,
    others: np.float32,
    shift: float,
    margin: Margin,
    scratch: Scratch,
) -> PartCenters:
    """Quantize the kept centers of a part, as `quantize_centers` does, and pad them.

    others, shift, margin: IN, as in `PartCenters`
    """
    theta = quantize_centers(unit, target, g, n_kept, scratch)
    return PartCenters(
        reference=g,
        n_kept=n_kept,
        padded=pad_centers(n_kept, scratch),
        others=others,
        shift=shift,
        theta=theta,
        margin=margin,
    )


@bare
def quantize_centers_finely(target: Target, g: F32, n_kept: int, scratch: Scratch) -> np.float32:
    """Write the second bytes of the kept centers, behind the first; return theta of both."""
    theta = np.float32(0.0)
    for i in range(n_kept):
        subtract(target.scaled[scratch.centers.numbers[i]], ONE, g, scratch.vector.values)
        lines, second_lines = (
            scratch.centers.first_bytes[i // 16, :, i % 16],
            scratch.centers.second_bytes[i // 16, :, i % 16],
        )
        error, total = put_second_bytes(
            scratch.vector.values, scratch.centers.steps[i], lines, second_lines
        )
        scratch.centers.second_offsets[i] = np.int32(-128) * total
        theta = max(theta, relative_error(error, scratch.centers.norms[i]))
    return theta
