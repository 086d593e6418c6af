"""Rows that one byte a column leaves undecided: two bytes decide most of them, float64 the rest.

Where two candidates are all there are, float64 is cheaper than two bytes for many centers. A row
that two bytes leave undecided is compared exactly with the centers whose interval begins below the
float64 score of its best candidate. docs/internals/kernels.md draws the way of a row, and
docs/internals/exactness.md proves the bounds. The arguments are those of the table in `types`.
"""

from __future__ import annotations

import numpy as np

from ray_kmeans.kernels import F32, I32, I64
from ray_kmeans.kernels.exact_order import is_nearer, score
from ray_kmeans.kernels.int8.nearest import (
    HIGHEST,
    KNOWN,
    UNDECIDED,
    certify,
    drop_left_out,
    find_lowest_finely,
    multiply_finely,
)
from ray_kmeans.kernels.int8.quantize import (
    AHEAD,
    FAR_AWAY,
    address_of,
    fetch_row,
    quantize_centers_finely,
    quantize_finely,
    quantize_part,
)
from ray_kmeans.kernels.int8.types import (
    N_CHANGED,
    N_DEFERRED,
    N_REFINED,
    Margin,
    PartCenters,
    Scratch,
    Sweep,
    Target,
    bare,
    bare_sum,
    start_of,
    zero,
)
from ray_kmeans.kernels.llvm import vectors
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS, CHUNK_CENTERS, Unit

PANEL_ROWS = vectors.PANEL_ROWS
"""Rows that are refined together."""
PAIRS_FROM = 2**16
"""Values of centers (n_kept * d) from which two float64 scores cost less than two-byte products."""
MANY = 16
"""Candidates that one row is compared with here, besides one in eight of the centers; a row with
more is deferred, as BLAS compares it with all centers in less time."""


@bare_sum
def upper_score(
    x: F32, c: F32, g: F32, scale: np.float32, cosine: bool, shift: float
) -> np.float32:
    """Return an upper bound of the score of row x (d,) to center c (d,) around reference g.

    It is computed in float64 and rounded up by (d + 16) 2^-50 of the sizes of its terms, which
    bounds their rounding in any order, and once more for float32.
    """
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
def upper_score_of(sweep: Sweep, slot: int, center: int, part: PartCenters) -> np.float32:
    """Return an upper bound of the score of the row in a slot to a center, by its number."""
    target = sweep.target
    x = vectors.floats_at(
        address_of(sweep.rows, sweep.slots.order[slot], target.centers.shape[1]),
        target.centers.shape[1],
    )
    c = target.centers[center]
    return upper_score(x, c, part.reference, target.scale, target.cosine, part.shift)


@bare
def set_label(slot: int, label: int, labels: I32, changed: I32, tally: I64) -> None:
    """Store the label of a slot, and list the slot if the label is new."""
    if label != labels[slot]:
        labels[slot] = label
        changed[tally[N_CHANGED]] = slot
        tally[N_CHANGED] += 1


@bare
def defer(slot: int, changed: I32, tally: I64) -> None:
    """Leave a row to the caller: deferred slots stand at the end of `changed`."""
    tally[N_DEFERRED] += 1
    changed[len(changed) - tally[N_DEFERRED]] = slot


@bare
def is_left_out(slot: int, center: int, target: Target) -> bool:
    """Tell whether a row must not get a center."""
    return len(target.left_out) > 0 and target.left_out[slot] == center


@bare
def slot_of(blocks: I32, at: int) -> int:
    """Return the slot of row `at` of a panel that was loaded from these blocks."""
    return BLOCK_ROWS * blocks[at // BLOCK_ROWS] + at % BLOCK_ROWS


@bare
def refine_pairs(
    sweep: Sweep, part: PartCenters, blocks: I32, n_undecided: int, n_refine: int, scratch: Scratch
) -> int:
    """Label the undecided rows of a panel that have two candidates, by float64; list the others.

    The float64 score of the best candidate may show that it has no rival after all.

    blocks: (up to 8,) int32  IN, the blocks that the panel was loaded from
    n_undecided: int  IN, how many rows `scratch.rows.undecided` lists
    n_refine: int  IN, how many slots `scratch.undecided` lists; returned as it is then
    """
    centers, numbers, panel = sweep.target.centers, scratch.centers.numbers, scratch.rows
    cosine, slots = sweep.target.cosine, sweep.slots
    d = centers.shape[1]
    for i in range(n_undecided):
        at = panel.undecided[i]
        slot = slot_of(blocks, at)
        if part.n_kept * d < PAIRS_FROM:
            scratch.undecided[n_refine] = slot
            n_refine += 1
            continue
        if i + AHEAD < n_undecided:
            fetch_row(sweep.rows, slots.order[slot_of(blocks, panel.undecided[i + AHEAD])], d)
        first, second = panel.best[0, at], min(panel.best[1, at], part.n_kept - 1)
        upper = upper_score_of(sweep, slot, numbers[first], part)
        known = panel.lowest[0, at] < KNOWN
        if known and min(panel.lowest[1, at], part.others) > upper:
            set_label(slot, numbers[first], slots.labels, sweep.changed, sweep.tally)
            continue
        rival = upper_score_of(sweep, slot, numbers[second], part)
        if not (known and min(panel.lowest[2, at], part.others) > min(upper, rival)):
            scratch.undecided[n_refine] = slot
            n_refine += 1
            continue
        # The two are in the order of their numbers, as a tie goes to the lowest.
        low, high = numbers[min(first, second)], numbers[max(first, second)]
        x = vectors.floats_at(address_of(sweep.rows, slots.order[slot], d), d)
        one, two = score(x, centers[low], cosine), score(x, centers[high], cosine)
        wins = is_nearer(x, centers[high], two, centers[low], one, cosine)
        set_label(slot, high if wins else low, slots.labels, sweep.changed, sweep.tally)
    return n_refine


@bare
def load_rows_finely(
    some: I32, sweep: Sweep, part: PartCenters, fine_theta: np.float32, scratch: Scratch
) -> None:
    """Quantize the rows of some slots to two bytes a column, and make them the panel of rows.

    some: (up to 256,) int32  IN, slots
    fine_theta: float32  IN, theta of the centers in two bytes
    """
    panel, vector = scratch.rows, scratch.vector
    d = sweep.target.centers.shape[1]
    for i in range(len(some)):
        if i + AHEAD < len(some):
            fetch_row(sweep.rows, sweep.slots.order[some[i + AHEAD]], d)
        x = vectors.floats_at(address_of(sweep.rows, sweep.slots.order[some[i]], d), d)
        weight, error, first_error, size = quantize_finely(
            x, sweep.target.scale, part.reference, scratch
        )
        # theta of one byte stands here for the product of second bytes, which is left out.
        reach = error + fine_theta * size + np.float32(1.01) * part.theta * first_error
        reach = np.float32(-2.0 * (1 + 2.0**-10)) * reach - np.float32(2.0**-13) * size
        panel.weights[i], panel.reaches[i], panel.radii[i] = weight, reach, size
        if not size < FAR_AWAY:  # also where it is not a number
            panel.weights[i], panel.reaches[i], panel.radii[i] = 0.0, -np.inf, np.inf
        block, lane = i // BLOCK_ROWS, i % BLOCK_ROWS
        for quad in range(panel.first_bytes.shape[1]):
            panel.first_bytes[block, quad, lane] = vector.first_words[quad]
            panel.second_bytes[block, quad, lane] = vector.second_words[quad]


@bare
def refine_undecided(
    unit: Unit, sweep: Sweep, part: PartCenters, n_refine: int, scratch: Scratch
) -> None:
    """Label the undecided rows of a part by two bytes, a panel of rows at a time.

    n_refine: int  IN, how many slots `scratch.undecided` lists
    """
    fine_theta = quantize_centers_finely(sweep.target, part.reference, part.n_kept, scratch)
    leaves_out = len(sweep.target.left_out) > 0
    sweep.tally[N_REFINED] += n_refine
    for start in range(0, n_refine, PANEL_ROWS):
        some = scratch.undecided[start : min(start + PANEL_ROWS, n_refine)]
        load_rows_finely(some, sweep, part, fine_theta, scratch)
        n_blocks = (len(some) + BLOCK_ROWS - 1) // BLOCK_ROWS
        find_lowest_finely(unit, n_blocks, part.padded, leaves_out, scratch)
        if leaves_out:
            drop_left_out(some, part.n_kept, sweep.target.left_out, scratch)
        certify(len(some), part, sweep.target, scratch)
        n_unresolved = store_refined(some, sweep, part, scratch)
        for begin in range(0, n_unresolved, BLOCK_ROWS):
            chosen = scratch.rows.unresolved[begin : min(begin + BLOCK_ROWS, n_unresolved)]
            compare_exactly(unit, some, chosen, sweep, part, scratch)


@bare
def store_refined(some: I32, sweep: Sweep, part: PartCenters, scratch: Scratch) -> int:
    """Store the labels that two bytes, or the best candidate's float64 score, decide.

    some: (up to 256,) int32  IN, the slots of the panel
    Returns how many rows are not decided, which `scratch.rows.unresolved` lists.
    """
    panel = scratch.rows
    n_unresolved = 0
    for i in range(len(some)):
        # Also the bound of a row that exact sums will decide: it stays active in the next sweep.
        sweep.slots.bounds[some[i]] = panel.bounds[i]
        if is_left_out(some[i], panel.labels[i], sweep.target):  # only where no score was a number
            defer(some[i], sweep.changed, sweep.tally)
            continue
        if panel.bounds[i] == UNDECIDED:
            upper = upper_score_of(sweep, some[i], panel.labels[i], part)
            panel.uppers[i] = min(panel.uppers[i], upper)
            second = min(panel.lowest[1, i], part.others)
            if not (panel.lowest[0, i] < KNOWN and second > panel.uppers[i]):
                panel.unresolved[n_unresolved] = i
                n_unresolved += 1
                continue
        set_label(some[i], panel.labels[i], sweep.slots.labels, sweep.changed, sweep.tally)
    return n_unresolved


@bare
def refine_among_all(
    unit: Unit,
    sweep: Sweep,
    reference: F32,
    shift: float,
    moves: np.float32,
    n_refine: int,
    scratch: Scratch,
) -> None:
    """Label undecided rows by two bytes and by float64, among all centers.

    The terms of all centers around the reference must stand in `scratch.terms`.

    reference: (columns,) float32  IN
    shift: float64  IN, as in `PartCenters`; moves: float32  IN, as in `Margin`
    n_refine: int  IN, how many slots `scratch.undecided` lists
    """
    k = len(sweep.target.centers)
    for j in range(k):
        scratch.centers.numbers[j] = j
    # No center is pruned here, so the moves of every one count, and no bound has to be cut off.
    margin = Margin(most=HIGHEST, moves=moves)
    part = quantize_part(unit, sweep.target, reference, k, HIGHEST, shift, margin, scratch)
    refine_undecided(unit, sweep, part, n_refine, scratch)


@bare
def compare_exactly(
    unit: Unit, some: I32, chosen: I32, sweep: Sweep, part: PartCenters, scratch: Scratch
) -> None:
    """Label up to 32 rows by exact comparison of their candidates.

    some: (up to 256,) int32  IN, the slots of the panel
    chosen: (up to 32,) int32  IN, which rows of the panel to compare
    """
    many = MANY + part.n_kept // 8
    load_exact_block(some, chosen, sweep, scratch)
    exact, centers = scratch.exact, scratch.centers
    line = scratch.rows.first_bytes.shape[1] * 4 * BLOCK_ROWS
    for chunk in range(0, part.padded, CHUNK_CENTERS):
        rows = start_of(exact.bytes)
        multiply_finely(unit, rows, rows + line, chunk, scratch)
        for j in range(min(CHUNK_CENTERS, part.n_kept - chunk)):
            bits = rows_below(j, chunk, scratch)
            bits &= (1 << len(chosen)) - 1  # a score that is not a number is below anything
            i = zero()
            while bits:
                is_rival = bits & 1 and not is_left_out(
                    some[chosen[i]], centers.numbers[chunk + j], sweep.target
                )
                # A row that is over the limit is not compared any more; below it is deferred.
                if is_rival and exact.counts[i] <= many:
                    compare_candidate(some, chosen, i, np.int32(chunk + j), sweep, scratch)
                bits >>= 1
                i += 1
    for i in range(len(chosen)):
        slot = some[chosen[i]]
        if exact.counts[i] > many:
            defer(slot, sweep.changed, sweep.tally)
        else:
            label = centers.numbers[scratch.rows.best[0, chosen[i]]]
            set_label(slot, label, sweep.slots.labels, sweep.changed, sweep.tally)


@bare
def rows_below(j: int, chunk: int, scratch: Scratch) -> int:
    """Return a bit for each row of the exact block whose interval begins below its upper bound.

    j: int  IN, the center, counted from the first one of its chunk
    chunk: int  IN, place of the first center of the chunk in the panel
    """
    factors, centers, c = start_of(scratch.exact.factors), scratch.centers, 4 * chunk
    return vectors.below_fine(
        start_of(scratch.products),
        j,
        start_of(centers.steps) + c,
        start_of(centers.lows) + c,
        start_of(centers.norms) + c,
        factors,
        factors + 4 * BLOCK_ROWS,
        factors + 8 * BLOCK_ROWS,
    )


@bare
def load_exact_block(some: I32, chosen: I32, sweep: Sweep, scratch: Scratch) -> None:
    """Put the chosen rows of a panel side by side, with the float64 scores of their best centers.

    some, chosen: as in `compare_exactly`
    """
    exact, panel, target = scratch.exact, scratch.rows, sweep.target
    # The chosen rows may be anywhere in their panel; products take 32 that stand together.
    exact.factors[2, :] = UNDECIDED  # no interval begins below it, in a place without a row
    exact.counts[:] = 0
    for i in range(len(chosen)):
        at = chosen[i]
        block, lane = at // BLOCK_ROWS, at % BLOCK_ROWS
        for quad in range(panel.first_bytes.shape[1]):
            exact.bytes[0, quad, i] = panel.first_bytes[block, quad, lane]
            exact.bytes[1, quad, i] = panel.second_bytes[block, quad, lane]
        exact.factors[0, i], exact.factors[1, i] = panel.weights[at], panel.reaches[at]
        exact.factors[2, i] = panel.uppers[at]
        x = vectors.floats_at(
            address_of(sweep.rows, sweep.slots.order[some[at]], target.centers.shape[1]),
            target.centers.shape[1],
        )
        center = target.centers[scratch.centers.numbers[panel.best[0, at]]]
        exact.scores[i, 0], exact.scores[i, 1] = score(x, center, target.cosine)


@bare
def compare_candidate(
    some: I32, chosen: I32, i: int, candidate: np.int32, sweep: Sweep, scratch: Scratch
) -> None:
    """Make a candidate the best center of a row if it is nearer; a tie goes to the lowest number.

    some, chosen: as in `compare_exactly`
    i: int  IN, the row: place in `chosen`
    candidate: int32  IN, place in the panel of centers
    """
    exact, numbers, target, at = scratch.exact, scratch.centers.numbers, sweep.target, chosen[i]
    best = scratch.rows.best[0, at]
    if candidate == best:
        return
    exact.counts[i] += 1
    x = vectors.floats_at(
        address_of(sweep.rows, sweep.slots.order[some[at]], target.centers.shape[1]),
        target.centers.shape[1],
    )
    rival, holder = target.centers[numbers[candidate]], target.centers[numbers[best]]
    # `is_nearer` is strict, so in a tie the center that is given second wins. That must be the one
    # with the lower number, which has the lower place, too: pruning keeps centers in order.
    found = score(x, rival, target.cosine)
    held = exact.scores[i, 0], exact.scores[i, 1]
    if candidate > best:
        wins = is_nearer(x, rival, found, holder, held, target.cosine)
    else:
        wins = not is_nearer(x, holder, held, rival, found, target.cosine)
    if wins:
        scratch.rows.best[0, at] = candidate
        exact.scores[i, 0], exact.scores[i, 1] = found
