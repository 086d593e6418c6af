"""Which of two centers is nearer to a row, over the reals: floating-point filters, then exact sums.

Nearer means a lower score: |x-c|^2, or -x.c for 'cosine'. docs/internals/exactness.md explains why
neither stage is ever wrong. Rows x and centers a, b and c are (d,) float32 IN.
"""

from __future__ import annotations

import numpy as np

from ray_kmeans.kernels import F32, F64
from ray_kmeans.process.jit import njit

MAX_PARTS = 640
"""Floats of an expansion at most. They do not overlap and are within 2**-298 .. 2**290, the range
of the terms: at worst there is one for every bit."""


@njit(nogil=True, fastmath={"reassoc", "contract"})
def squared_distance(x: F32, c: F32) -> float:
    """Return |x - c|^2 in float64, off by at most (d + 4) * 2**-53 of itself in any order."""
    total = 0.0
    for column in range(x.shape[0]):
        difference = np.float64(x[column]) - np.float64(c[column])
        total += difference * difference
    return total


@njit(nogil=True, fastmath={"reassoc", "contract"})
def product_and_size(x: F32, c: F32) -> tuple[float, float]:
    """Return x.c in float64, off by at most (d + 4) * 2**-53 of the second, sum |x_l c_l|."""
    total = 0.0
    size = 0.0
    for column in range(x.shape[0]):
        product = np.float64(x[column]) * np.float64(c[column])
        total += product
        size += abs(product)
    return total, size


@njit(nogil=True)
def score(x: F32, c: F32, cosine: bool) -> tuple[float, float]:
    """Return the score in float64 and by how much at most it is off, also after one more addition.

    What is added up may cancel for 'cosine', so the error is a share of the sizes, not of the sum.
    """
    if cosine:
        product, size = product_and_size(x, c)
        found = -product
    else:
        found = squared_distance(x, c)
        size = found
    return found, (x.shape[0] + 8) * 2.0**-53 * size


@njit(nogil=True)
def _grow(parts: F64, used: int, term: float) -> int:
    """Add a term to an expansion, exactly; return how many floats it has then.

    parts: (MAX_PARTS,) float64  INOUT, floats that do not overlap, the smallest first
    used: int  IN, how many there are
    """
    kept = 0
    for i in range(used):
        # Knuth's two-sum: `total + error` is `term + part` without rounding, in whichever order of
        # size the two come. It rests on each rounding, so no fastmath may touch this loop.
        part = parts[i]
        total = term + part
        shadow = total - term
        error = (term - (total - shadow)) + (part - shadow)
        if error != 0.0:  # zeros are left out, so that the last float alone tells the sign
            parts[kept] = error
            kept += 1
        term = total
    if term != 0.0:  # the largest part may cancel while smaller ones are left
        parts[kept] = term
        kept += 1
    return kept


@njit(nogil=True, _nrt=True)
def difference_of_scores(x: F32, a: F32, b: F32, cosine: bool) -> float:
    """Return a number with the sign of |x-a|^2 - |x-b|^2, or of x.b - x.a, over the reals."""
    parts = np.empty(MAX_PARTS)
    used = 0
    for column in range(x.shape[0]):
        xc = np.float64(x[column])
        ac = np.float64(a[column])
        bc = np.float64(b[column])
        if ac == bc:
            continue
        # A product of two float32, doubled or not, has 48 bits: float64 holds it without rounding.
        if not cosine:
            used = _grow(parts, used, ac * ac)
            used = _grow(parts, used, -(bc * bc))
            xc *= 2.0
        used = _grow(parts, used, -(xc * ac))
        used = _grow(parts, used, xc * bc)
    # No two of these floats overlap, so the last one, the largest, outweighs all others together.
    return parts[used - 1] if used else 0.0


@njit(nogil=True)
def is_nearer(
    x: F32, a: F32, score_a: tuple[float, float], b: F32, score_b: tuple[float, float], cosine: bool
) -> bool:
    """Tell whether x is strictly nearer to a than to b, given the result of `score` for both."""
    found_a, error_a = score_a
    found_b, error_b = score_b
    # The rounding of these sums is within the errors, which `score` gives with room for it.
    if found_a + error_a < found_b - error_b:
        return True
    if found_a - error_a > found_b + error_b:
        return False
    return difference_of_scores(x, a, b, cosine) < 0.0
