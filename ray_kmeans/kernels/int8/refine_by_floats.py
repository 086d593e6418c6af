"""Rows that one byte leaves undecided, where few centers are kept: float32 decides nearly all.

A row is fetched for two bytes as well as for float32, and beside that the products with a few
centers cost next to nothing. The arguments are those of the table in `types`;
docs/internals/exactness.md, section 5, proves the bounds.
"""

from __future__ import annotations

import numpy as np

from ray_kmeans.kernels import F32
from ray_kmeans.kernels.int8.nearest import HIGHEST, UNDECIDED, bound_of
from ray_kmeans.kernels.int8.quantize import (
    AHEAD,
    ONE,
    ROOM,
    SMALL_R,
    address_of,
    fetch_row,
    subtract,
    sum_of_squares,
)
from ray_kmeans.kernels.int8.refine import set_label
from ray_kmeans.kernels.int8.types import PartCenters, Scratch, Sweep, bare, bare_sum, zero
from ray_kmeans.kernels.llvm import vectors


@bare
def refine_by_floats(sweep: Sweep, part: PartCenters, n_undecided: int, scratch: Scratch) -> int:
    """Label the undecided rows of a part that float32 decides; list the others again.

    n_undecided: int  IN, how many slots `scratch.undecided` lists; returned as it is then
    """
    target, slots = sweep.target, sweep.slots
    d = target.centers.shape[1]
    gamma = ROOM * np.float32((d + 16) * 2.0**-24)
    slack, norm = load_residuals(sweep, part, scratch)
    n_left = zero()
    for i in range(n_undecided):
        slot = scratch.undecided[i]
        if i + AHEAD < n_undecided:
            fetch_row(sweep.rows, slots.order[scratch.undecided[i + AHEAD]], d)
        x = vectors.floats_at(address_of(sweep.rows, slots.order[slot], d), d)
        subtract(x, target.scale, part.reference, scratch.vector.values)
        squares = sum_of_squares(scratch.vector.values)
        best, lowest, second = find_two_lowest(part.n_kept, scratch)
        bound = bound_by_floats(
            squares, lowest, second, part.others, slack, gamma, norm, part.margin.most
        )
        if bound == UNDECIDED:
            scratch.undecided[n_left] = slot
            n_left += 1
            continue
        label = scratch.centers.numbers[best]
        bound += (target.moves[label] + part.margin.moves) - target.safe_gap
        slots.bounds[slot] = bound - abs(bound) * np.float32(2.0**-20)
        set_label(slot, label, slots.labels, sweep.changed, sweep.tally)
    return n_left


@bare
def bound_by_floats(
    squares: np.float32,
    lowest: np.float32,
    second: np.float32,
    others: np.float32,
    slack: np.float32,
    gamma: np.float32,
    norm: np.float32,
    most: np.float32,
) -> np.float32:
    """Return the bound of a row whose scores are known in float32, or UNDECIDED.

    squares: float32  IN, |r|^2 of the row
    lowest, second: float32  IN, its two lowest scores
    others: float32  IN, lower end of its scores to all centers that were left out
    slack, norm: float32  IN, the largest a and E of the centers
    gamma: float32  IN, (d + 16) 2^-24, rounded up
    most: float32  IN, the largest bound
    """
    radius = np.sqrt(squares) * ROOM + SMALL_R
    off = slack + np.float32(2.002) * gamma * radius * norm
    upper = lowest + off
    end = second - off
    end = others if others < end else end  # an end that is not a number stays
    # More than these sums were rounded by.
    gap = (end - upper) - (abs(end) + abs(upper)) * np.float32(2.0**-22)
    return bound_of(lowest, upper, gap, radius, most)


@bare
def lengthen(
    slack: np.float32, norm: np.float32, j: int, scratch: Scratch
) -> tuple[np.float32, np.float32]:
    """Return the larger ones of A and a, and of E and |e|, of one center more."""
    slack_of, norm_of = scratch.terms.slacks[j], scratch.terms.norms[j]
    slack = max(slack, slack_of if slack_of < HIGHEST else HIGHEST)
    return slack, max(norm, norm_of if norm_of < HIGHEST else HIGHEST)


@bare
def load_residuals(
    sweep: Sweep, part: PartCenters, scratch: Scratch
) -> tuple[np.float32, np.float32]:
    """Write e of the kept centers to `scratch.residuals`; return their largest a and E."""
    largest_slack = np.float32(0.0)
    largest_norm = np.float32(0.0)
    for i in range(part.n_kept):
        j = scratch.centers.numbers[i]
        subtract(sweep.target.scaled[j], ONE, part.reference, scratch.residuals[i])
        largest_slack, largest_norm = lengthen(largest_slack, largest_norm, j, scratch)
    return largest_slack, largest_norm


@bare
def find_two_lowest(n_kept: int, scratch: Scratch) -> tuple[int, np.float32, np.float32]:
    """Return the place of the center with the lowest score q - 2 r.e, this score and the next.

    The row is r in `scratch.vector.values`; a score that is not a number makes both equal.
    """
    best = zero()
    lowest = second = HIGHEST
    is_number = True
    for i in range(n_kept):
        score = scratch.terms.constants[scratch.centers.numbers[i]]
        score -= np.float32(2.0) * dot(scratch.vector.values, scratch.residuals[i])
        is_number &= score == score
        if score < lowest:
            best, lowest, second = i, score, lowest
        elif score < second:
            second = score
    return best, lowest, second if is_number else lowest


@bare_sum
def dot(a: F32, b: F32) -> np.float32:
    """Return a.b in float32, in any order; a, b: (columns,) float32  IN."""
    total = np.float32(0.0)
    for column in range(a.shape[0]):
        total += a[column] * b[column]
    return total
