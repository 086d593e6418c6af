"""Rows and centers as bytes around a reference, with how far off that is at most.

With r = x - g and e = c - g around a reference g, all scaled by a power of two, the score of a center
    |x - c|^2 - |x - g|^2  =  q - 2 r.e,   q = |e|^2
lies within  q - (2 w t) p  +- (a + R E),  where p is the exact product of the bytes of r and e, w and
t are their steps, and, each rounded up,
    R = 2 (|r - r'| + theta |r'|),  E = |e|,  theta = max |e - e'| / |e|
is what the rounding to r' and e' does (Cauchy-Schwarz), with 2^-10 of itself and 2^-13 |r'| more for
float32 and for the bits of a score that give way to the number of its center, and
    a = 1.01 (2^-15 + (d + 16) 2^-24) |q| + tiny
the same for q: (d + 16) 2^-24 bounds a float32 sum of d terms in any order, each rounded twice
(Higham, Accuracy and Stability, 3.1), and tiny whatever may flush to zero.

With a second byte each, r' and e' are right to 1/254 of that; the product of the two second bytes is
left out, which makes 2 theta |r - r'| of the first bytes more.

For 'cosine' the score is -2 s^2 x.c, s being the scale, but for a term that all centers share:
q - 2 r.e with q = -2 g.e - (|g|^2 - s^2). There q is a float64 sum over the rounded e, which makes
2^-22 |g| E more.
"""

from __future__ import annotations

import numpy as np

from ray_kmeans.kernels.int8.types import HINT_ROWS, bare, bare_sum
from ray_kmeans.kernels.llvm import avx512
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS

FINER = avx512.FINER
FAR_AWAY = np.float32(2.0**30)
"""A row this many spreads of the centers away could overflow; it is settled in float64."""
ROOM = np.float32(1.01)
"""Rounds up: covers a float32 sum up to d = 100,000."""
SMALL_E = np.float32(2.0**-30)
"""Least norm of a center around its reference, so that theta is defined."""
SMALL_R = np.float32(2.0**-50)
ONE = np.float32(1.0)
AHEAD = 8
"""Rows that are asked for before they are read."""


@bare
def address_of(rows, row, d):
    block = rows.hints[row // HINT_ROWS]
    while rows.firsts[block + 1] <= row:
        block += 1
    return rows.addresses[block] + (row - rows.firsts[block]) * d * 4


@bare
def fetch_row(rows, row, d):
    """Ask for a row that is to be read soon; rows that stand in no order would be waited for."""
    if row >= 0:
        place = address_of(rows, row, d)
        for line in range(0, 4 * d, 64):
            avx512.prefetch(place + line)


@bare
def subtract(x, scale, g, r):
    """Write r = scale x - g; beyond the columns of x it stays zero, as g is."""
    for column in range(x.shape[0]):
        r[column] = x[column] * scale - g[column]


@bare_sum
def sum_of_squares(r):
    total = np.float32(0.0)
    for column in range(r.shape[0]):
        total += r[column] * r[column]
    return total


@bare
def largest_of(bits):
    """Return the largest magnitude of floats given as int32: as such, magnitudes order alike."""
    largest = np.int32(0)
    for column in range(bits.shape[0]):
        largest = max(largest, bits[column] & np.int32(0x7FFFFFFF))
    return avx512.as_float(largest)


@bare
def steps_of(largest):
    """Return the step in which a largest magnitude is at most 127, and nearly its inverse."""
    if largest < SMALL_R:
        return np.float32(0.0), np.float32(0.0)
    return largest / np.float32(127.0), np.float32(126.9999) / largest


@bare
def finer_steps(step):
    """Return the step of second bytes, and nearly its inverse."""
    if step == np.float32(0.0):
        return np.float32(0.0), np.float32(0.0)
    return step * np.float32(1 / FINER), np.float32(FINER * 0.9999) / step


@bare_sum
def to_bytes(r, step, inverse, q):
    """Write r in whole steps; return |q|^2 and |r - step q|^2."""
    squares = np.float32(0.0)
    error = np.float32(0.0)
    for column in range(r.shape[0]):
        near = avx512.whole(r[column] * inverse)
        difference = r[column] - step * near
        error += difference * difference
        squares += near * near
        q[column] = np.int8(np.int32(near))
    return squares, error


@bare_sum
def to_two_bytes(r, step, inverse, q, second):
    """Write r in whole steps, and the rest in steps of step / 254; return |r - r'|^2 of each."""
    finer, finer_inverse = finer_steps(step)
    first_error = np.float32(0.0)
    error = np.float32(0.0)
    for column in range(r.shape[0]):
        near = avx512.whole(r[column] * inverse)
        left = r[column] - step * near
        first_error += left * left
        near_left = avx512.whole(left * finer_inverse)
        left -= finer * near_left
        error += left * left
        q[column] = np.int8(np.int32(near))
        second[column] = np.int8(np.int32(near_left))
    return first_error, error


@bare
def round_parts(first_part, last_part, parts, rows, order, d, scale, coarse, scratch):
    """Round the rows of some parts; a slot of row -1 is empty."""
    r, bits, q, words = (
        scratch.vector.values,
        scratch.vector.bits,
        scratch.vector.first_bytes,
        scratch.vector.first_words,
    )
    quads = coarse.packed.shape[1]
    for p in range(first_part, last_part):
        group, first_block, last_block = parts.spans[p]
        g = coarse.references[group]
        last = last_block * BLOCK_ROWS
        parts.radii[p] = np.float32(0.0)
        for slot in range(first_block * BLOCK_ROWS, last):
            coarse.weights[slot] = coarse.errors[slot] = coarse.sizes[slot] = np.float32(0.0)
            if slot + AHEAD < last:
                fetch_row(rows, order[slot + AHEAD], d)
            if order[slot] < 0:
                continue
            x = avx512.floats_at(address_of(rows, order[slot], d), d)
            subtract(x, scale, g, r)
            if not sum_of_squares(r) < FAR_AWAY * FAR_AWAY:  # also where it is not a number
                coarse.errors[slot] = parts.radii[p] = np.float32(np.inf)
                continue
            step, inverse = steps_of(largest_of(bits))
            whole, error = to_bytes(r, step, inverse, q)
            block, lane = slot // BLOCK_ROWS, slot % BLOCK_ROWS
            for quad in range(quads):
                coarse.packed[block, quad, lane] = words[quad]
            size = step * np.sqrt(whole) * ROOM
            coarse.weights[slot] = np.float32(-2.0) * step
            coarse.sizes[slot] = size
            # 2^-21 |r'| is more than r and step q were rounded by.
            coarse.errors[slot] = np.sqrt(error) * ROOM + np.float32(2.0**-21) * size + SMALL_R
            parts.radii[p] = max(parts.radii[p], size + coarse.errors[slot])


@bare
def round_finely(x, scale, g, scratch):
    """Round a row to two bytes a column; return -2 w, how far it is off, |r - r'| of one byte, |r|."""
    r = scratch.vector.values
    subtract(x, scale, g, r)
    size = np.sqrt(sum_of_squares(r)) * ROOM + SMALL_R
    step, inverse = steps_of(largest_of(scratch.vector.bits))
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
def product(g, e):
    total = 0.0
    for column in range(g.shape[0]):
        total += np.float64(g[column]) * np.float64(e[column])
    return total


@bare
def norms_around(target, g, scratch):
    """Write for each center its largest |e_l|, and E, q and a as above; return |g|^2 - s^2."""
    e = scratch.vector.values
    d = target.centers.shape[1]
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
def put_bytes(e, step, inverse, lines):
    """Write e in whole steps, 64 columns at a time; return |e - step q|^2 and the sum of q."""
    error = np.float32(0.0)
    total = np.int32(0)
    for chunk in range(lines.shape[0]):
        for column in range(64):
            value = e[64 * chunk + column]
            near = avx512.whole(value * inverse)
            difference = value - step * near
            error += difference * difference
            whole = np.int32(near)
            total += whole
            lines[chunk, column] = np.int8(whole)
    return error, total


@bare_sum
def put_second_bytes(e, step, lines, second_lines):
    """Write what e is off from step q in steps of step / 254; return as `put_bytes` does."""
    finer, inverse = finer_steps(step)
    error = np.float32(0.0)
    total = np.int32(0)
    for chunk in range(lines.shape[0]):
        for column in range(64):
            left = e[64 * chunk + column] - step * np.float32(lines[chunk, column])
            near = avx512.whole(left * inverse)
            left -= finer * near
            error += left * left
            whole = np.int32(near)
            total += whole
            second_lines[chunk, column] = np.int8(whole)
    return error, total


@bare
def share_off(error, norm):
    """Return |e - e'| / |e|, given the square of the one and E."""
    off = np.sqrt(error) * ROOM + np.float32(2.0**-21) * norm + np.float32(2.0**-52)
    return off / norm * np.float32(1 + 2.0**-20)


@bare
def round_centers(target, g, n_kept, scratch):
    """Round the kept centers around g; return theta."""
    theta = np.float32(0.0)
    for i in range(n_kept):
        j = scratch.panel.numbers[i]
        subtract(target.scaled[j], ONE, g, scratch.vector.values)
        scratch.panel.steps[i], inverse = steps_of(scratch.terms.largest[j])
        lines = scratch.panel.first_bytes[i // 16, :, i % 16]
        error, total = put_bytes(scratch.vector.values, scratch.panel.steps[i], inverse, lines)
        scratch.panel.first_offsets[i] = np.int32(-128) * total
        theta = max(theta, share_off(error, scratch.terms.norms[j]))
        scratch.panel.norms[i] = scratch.terms.norms[j]
        scratch.panel.lows[i] = scratch.terms.constants[j] - scratch.terms.slacks[j]
        scratch.panel.slacks[i] = np.float32(2.0) * scratch.terms.slacks[j]
    return theta


@bare
def round_centers_finely(target, g, n_kept, scratch):
    """Write the second bytes of the kept centers; return theta for both bytes."""
    theta = np.float32(0.0)
    for i in range(n_kept):
        subtract(target.scaled[scratch.panel.numbers[i]], ONE, g, scratch.vector.values)
        lines, second_lines = (
            scratch.panel.first_bytes[i // 16, :, i % 16],
            scratch.panel.second_bytes[i // 16, :, i % 16],
        )
        error, total = put_second_bytes(
            scratch.vector.values, scratch.panel.steps[i], lines, second_lines
        )
        scratch.panel.second_offsets[i] = np.int32(-128) * total
        theta = max(theta, share_off(error, scratch.panel.norms[i]))
    return theta
