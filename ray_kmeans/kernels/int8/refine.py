"""Rows that one byte for each value leaves open: two bytes decide most, float64 the rest.

Where two candidates are all there are, float64 is cheaper than two bytes for many centers. Of what two
bytes leave open, the score of the best candidate is worked out in float64, which decides most; the
others are settled by `exact` among the centers whose interval begins below it. A row with very many of
those is left to the caller.
"""

from __future__ import annotations

import numpy as np

from ray_kmeans.kernels.exact_order import is_nearer, score
from ray_kmeans.kernels.int8.nearest import (
    HIGHEST,
    KNOWN,
    OPEN,
    certify,
    fill_up,
    leave_out,
    multiply_finely,
    nearest_finely,
)
from ray_kmeans.kernels.int8.quantize import (
    AHEAD,
    FAR_AWAY,
    address_of,
    fetch_row,
    round_centers,
    round_centers_finely,
    round_finely,
)
from ray_kmeans.kernels.int8.types import bare, bare_sum
from ray_kmeans.kernels.llvm import avx512
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS, CHUNK_CENTERS

MOVED, HARD, OPENED, FINE, VISITED, LIVE = range(6)
"""What a pass counts: rows with a new label, rows left to the caller, rows that were open after one
byte and those that two bytes were taken for, rows that were looked at and those that had to be."""
SLAB = avx512.SLAB
PAIRS_FROM = 2**16
"""Values of centers from which two scores in float64 cost less than products of two bytes."""
MANY = 16
"""Candidates of one row that are settled here, and one in eight of the centers more."""


@bare_sum
def upper_score(x, c, g, scale, cosine, shift):
    """Return a number that the score of x to c, relative to g, does not exceed."""
    total = 0.0
    size = 0.0
    if cosine:
        for column in range(x.shape[0]):
            point = np.float64(x[column]) * scale
            e = np.float64(c[column]) * scale - np.float64(g[column])
            total -= 2.0 * point * e
            size += abs(point) * abs(e)
        total -= shift
        size += abs(shift)
    else:
        for column in range(x.shape[0]):
            point = np.float64(x[column]) * scale - np.float64(g[column])
            e = np.float64(c[column]) * scale - np.float64(g[column])
            total += e * (e - 2.0 * point)
            size += abs(e) * (abs(e) + abs(point))
    total += (x.shape[0] + 16) * 2.0**-50 * size
    return np.float32(total + abs(total) * 2.0**-22 + 2.0**-100)


@bare
def take(slot, label, labels, moved, tally):
    if label != labels[slot]:
        labels[slot] = label
        moved[tally[MOVED]] = slot
        tally[MOVED] += 1


@bare
def leave(slot, moved, tally):
    """Leave a row to the caller."""
    tally[HARD] += 1
    moved[len(moved) - tally[HARD]] = slot


@bare
def is_left_out(slot, center, target):
    return len(target.left_out) > 0 and target.left_out[slot] == center


@bare
def slot_of(blocks, at):
    return BLOCK_ROWS * blocks[at // BLOCK_ROWS] + at % BLOCK_ROWS


@bare
def settle_pairs(rows, slots, target, part, blocks, n_open, n_opened, moved, tally, scratch):
    """Label the open rows `chosen` of a slab that have two candidates; add the rest to `opened`.

    The score of the best in float64 may show that it has no rival after all. Returns how many are
    open now.
    """
    g, n_kept, others, shift = part
    centers, kept = target.centers, scratch.panel.numbers
    d = centers.shape[1]
    for i in range(n_open):
        slot = slot_of(blocks, scratch.rows.undecided[i])
        if n_kept * d < PAIRS_FROM:
            scratch.undecided[n_opened] = slot
            n_opened += 1
            continue
        if i + AHEAD < n_open:
            fetch_row(rows, slots.order[slot_of(blocks, scratch.rows.undecided[i + AHEAD])], d)
        at = scratch.rows.undecided[i]
        x = avx512.floats_at(address_of(rows, slots.order[slot], d), d)
        first, second = scratch.rows.best[0, at], min(scratch.rows.best[1, at], n_kept - 1)
        upper = upper_score(x, centers[kept[first]], g, target.scale, target.cosine, shift)
        known = scratch.rows.lowest[0, at] < KNOWN
        if known and min(scratch.rows.lowest[1, at], others) > upper:
            take(slot, kept[first], slots.labels, moved, tally)
            continue
        rival = upper_score(x, centers[kept[second]], g, target.scale, target.cosine, shift)
        if not (known and min(scratch.rows.lowest[2, at], others) > min(upper, rival)):
            scratch.undecided[n_opened] = slot
            n_opened += 1
            continue
        low, high = kept[min(first, second)], kept[max(first, second)]
        one, two = score(x, centers[low], target.cosine), score(x, centers[high], target.cosine)
        wins = is_nearer(x, centers[high], two, centers[low], one, target.cosine)
        take(slot, high if wins else low, slots.labels, moved, tally)
    return n_opened


@bare
def load_finely(some, rows, order, target, g, theta, fine_theta, scratch):
    """Round the rows of some slots to two bytes each, side by side."""
    d = target.centers.shape[1]
    for i in range(len(some)):
        if i + AHEAD < len(some):
            fetch_row(rows, order[some[i + AHEAD]], d)
        x = avx512.floats_at(address_of(rows, order[some[i]], d), d)
        scratch.rows.weights[i], error, first_error, size = round_finely(
            x, target.scale, g, scratch
        )
        # theta is that of one byte, for the product of second bytes that is left out.
        reach = error + fine_theta * size + np.float32(1.01) * theta * first_error
        reach = np.float32(-2.0 * (1 + 2.0**-10)) * reach - np.float32(2.0**-13) * size
        scratch.rows.reaches[i], scratch.rows.radii[i] = reach, size
        if not size < FAR_AWAY:  # also where it is not a number
            scratch.rows.weights[i], scratch.rows.reaches[i], scratch.rows.radii[i] = (
                0.0,
                -np.inf,
                np.inf,
            )
        block, lane = i // BLOCK_ROWS, i % BLOCK_ROWS
        for quad in range(scratch.rows.first_bytes.shape[1]):
            scratch.rows.first_bytes[block, quad, lane] = scratch.vector.first_words[quad]
            scratch.rows.second_bytes[block, quad, lane] = scratch.vector.second_words[quad]


@bare
def settle_open(
    unit, rows, slots, target, part, margin, theta, padded, n_opened, moved, tally, scratch
):
    """Label the open rows of a part, whose centers stand in the panel."""
    g, n_kept, others, shift = part
    panel = scratch.rows
    d = target.centers.shape[1]
    fine_theta = round_centers_finely(target, g, n_kept, scratch)
    leaves_out = len(target.left_out) > 0
    tally[FINE] += n_opened
    for start in range(0, n_opened, SLAB):
        some = scratch.undecided[start : min(start + SLAB, n_opened)]
        load_finely(some, rows, slots.order, target, g, theta, fine_theta, scratch)
        n_blocks = (len(some) + BLOCK_ROWS - 1) // BLOCK_ROWS
        nearest_finely(unit, n_blocks, padded, leaves_out, scratch)
        if leaves_out:
            leave_out(some, n_kept, target.left_out, scratch)
        certify(len(some), n_kept, others, target, margin, scratch)
        n_left = 0
        for i in range(len(some)):
            slots.bounds[some[i]] = panel.bounds[i]
            if is_left_out(some[i], panel.labels[i], target):  # only where no score was a number
                leave(some[i], moved, tally)
                continue
            if panel.bounds[i] == OPEN:
                x = avx512.floats_at(address_of(rows, slots.order[some[i]], d), d)
                c = target.centers[panel.labels[i]]
                upper = upper_score(x, c, g, target.scale, target.cosine, shift)
                panel.uppers[i] = min(panel.uppers[i], upper)
                second = min(panel.lowest[1, i], others)
                if not (panel.lowest[0, i] < KNOWN and second > panel.uppers[i]):
                    panel.unresolved[n_left] = i
                    n_left += 1
                    continue
            take(some[i], panel.labels[i], slots.labels, moved, tally)
        for begin in range(0, n_left, BLOCK_ROWS):
            chosen = panel.unresolved[begin : min(begin + BLOCK_ROWS, n_left)]
            settle(unit, rows, slots, some, chosen, target, n_kept, padded, moved, tally, scratch)


@bare
def settle_all(unit, rows, slots, target, reference, margin, n_opened, moved, tally, scratch):
    """Label open rows by two bytes and by float64, among all centers."""
    g, shift = reference
    k = len(target.centers)
    for j in range(k):
        scratch.panel.numbers[j] = j
    theta = round_centers(target, g, k, scratch)
    padded = fill_up(k, scratch)
    part = g, k, HIGHEST, shift
    settle_open(
        unit, rows, slots, target, part, margin, theta, padded, n_opened, moved, tally, scratch
    )


@bare
def settle(unit, rows, slots, some, chosen, target, n_kept, padded, moved, tally, scratch):
    """Label up to 32 rows `chosen` from some slots, by exact comparison of their candidates."""
    many = MANY + n_kept // 8
    copy_chosen(rows, slots.order, some, chosen, target, scratch)
    exact, d = scratch.exact, target.centers.shape[1]
    line = scratch.rows.first_bytes.shape[1] * 4 * BLOCK_ROWS
    for chunk in range(0, padded, CHUNK_CENTERS):
        copies = exact.bytes.ctypes.data
        multiply_finely(unit, copies, copies + line, chunk, scratch)
        for j in range(min(CHUNK_CENTERS, n_kept - chunk)):
            bits = rows_below(j, chunk, scratch)
            bits &= (1 << len(chosen)) - 1  # a score that is not a number is below anything
            i = 0
            while bits:
                slot = some[chosen[i]]
                center = scratch.panel.numbers[chunk + j]
                is_rival = bits & 1 and not is_left_out(slot, center, target)
                if is_rival and exact.counts[i] <= many:
                    x = avx512.floats_at(address_of(rows, slots.order[slot], d), d)
                    compare(x, i, chosen[i], np.int32(chunk + j), target, scratch)
                bits >>= 1
                i += 1
    for i in range(len(chosen)):
        slot = some[chosen[i]]
        if exact.counts[i] > many:
            leave(slot, moved, tally)
        else:
            label = scratch.panel.numbers[scratch.rows.best[0, chosen[i]]]
            take(slot, label, slots.labels, moved, tally)


@bare
def rows_below(j, chunk, scratch):
    """Return a bit for each chosen row whose score to a center does not begin above its upper bound.

    `j`: the center, counted from the first one of its chunk; `chunk`: the place of that one.
    """
    factors, panel, c = scratch.exact.factors.ctypes.data, scratch.panel, 4 * chunk
    return avx512.below_fine(
        scratch.products.ctypes.data,
        j,
        panel.steps.ctypes.data + c,
        panel.lows.ctypes.data + c,
        panel.norms.ctypes.data + c,
        factors,
        factors + 4 * BLOCK_ROWS,
        factors + 8 * BLOCK_ROWS,
    )


@bare
def copy_chosen(rows, order, some, chosen, target, scratch):
    """Put the chosen rows of a slab side by side, with the score of the best center of each."""
    scratch.exact.factors[2, :] = OPEN
    scratch.exact.counts[:] = 0
    for i in range(len(chosen)):
        at = chosen[i]
        for quad in range(scratch.rows.first_bytes.shape[1]):
            block, lane = at // BLOCK_ROWS, at % BLOCK_ROWS
            scratch.exact.bytes[0, quad, i] = scratch.rows.first_bytes[block, quad, lane]
            scratch.exact.bytes[1, quad, i] = scratch.rows.second_bytes[block, quad, lane]
        scratch.exact.factors[0, i], scratch.exact.factors[1, i] = (
            scratch.rows.weights[at],
            scratch.rows.reaches[at],
        )
        scratch.exact.factors[2, i] = scratch.rows.uppers[at]
        x = avx512.floats_at(
            address_of(rows, order[some[at]], target.centers.shape[1]), target.centers.shape[1]
        )
        center = target.centers[scratch.panel.numbers[scratch.rows.best[0, at]]]
        scratch.exact.scores[i, 0], scratch.exact.scores[i, 1] = score(x, center, target.cosine)


@bare
def compare(x, i, at, candidate, target, scratch):
    """Make the candidate the best center of row x where it is nearer; a tie goes to the lowest."""
    best = scratch.rows.best[0, at]
    if candidate == best:
        return
    scratch.exact.counts[i] += 1
    rival, holder = (
        target.centers[scratch.panel.numbers[candidate]],
        target.centers[scratch.panel.numbers[best]],
    )
    found = score(x, rival, target.cosine)
    held = scratch.exact.scores[i, 0], scratch.exact.scores[i, 1]
    if candidate > best:
        wins = is_nearer(x, rival, found, holder, held, target.cosine)
    else:
        wins = not is_nearer(x, holder, held, rival, found, target.cosine)
    if wins:
        scratch.rows.best[0, at] = candidate
        scratch.exact.scores[i, 0], scratch.exact.scores[i, 1] = found
