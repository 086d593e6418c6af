"""Compiled loops that find the m nearest centers of each row. They check nothing.

A score is known as an interval (docs/internals/exactness.md, section 1). A row keeps a list of the
centers that may be among its m nearest: those whose interval begins at or below the m-th least end
of all intervals seen. At the end only these are compared exactly. A row whose list overflows is
*undecided*: all centers that begin at or below its limit are compared exactly.

Arguments that several loops share:

    lows       (p, t)      float32  IN    where the intervals of p centers and t rows begin
    first      int                  IN    number of the first of these p centers
    rows       (t, d)      float32  IN    C order
    centers    (k, d)      float32  IN    C order
    cosine     bool                 IN    whether the score is -x.c, and not |x - c|^2
    limits     (t,)        float32  INOUT upper bound of the m-th least true score of a row
    found      (t, m)      int32    OUT   the m nearest centers, nearest first
    scores     (m, 2)      float64        scores of a row's best centers, and how far off each is
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ray_kmeans.kernels import F32, F64, I32
from ray_kmeans.kernels.compiled import FAR_AWAY
from ray_kmeans.kernels.exact_order import is_nearer, score
from ray_kmeans.kernels.nearest_centers import LIST_BYTES
from ray_kmeans.process.jit import njit

SPARE = 64
"""Room in a list beside twice the m centers that are wanted."""
FEWEST = 8
"""Least number of centers that are put into a list before it is shortened again."""
PLACE_BYTES = 12
"""Bytes of a center in a list: its number, and where its interval begins and ends."""
UNDECIDED = -1
"""Length of the list of a row that is undecided."""
MOST_IN_GROUP = 16
"""Largest number of centers of which only the least begin is looked at, unless a row may want one
of them."""
GROUPS = 4
"""Groups of centers for each center that is wanted, if there are enough centers."""


class Lists(NamedTuple):
    """The centers that may be among the m nearest of each row of a tile."""

    used: I32
    """(t,) Length of each list, or UNDECIDED."""
    marks: I32
    """(t,) Length at which each list is shortened next."""
    numbers: I32
    """(t, c) Centers of each list, in ascending order."""
    begins: F32
    """(t, c) Where the interval of each of these centers begins."""
    ends: F32
    """(t, c) Where it ends."""
    order: F32
    """(c,) Memory to put ends in order, or the begins of a panel."""
    minima: F32
    """(groups * t,) Memory for the least begin of each group of a panel's centers."""
    group: int
    """Number of centers in a group."""

    @classmethod
    def of(cls, rows: int, k: int, m: int, panel: int) -> Lists:
        """Return empty lists for up to `rows` rows, or as many as LIST_BYTES have room for.

        `panel`: largest number of centers that are collected at once.
        """
        length = min(k, 2 * m + SPARE)
        rows = max(min(rows, LIST_BYTES // (PLACE_BYTES * length)), 1)
        used, marks = np.empty((2, rows), np.int32)
        begins, ends = np.empty((2, rows, length), np.float32)
        numbers = np.empty((rows, length), np.int32)
        order = np.empty(max(length, panel), np.float32)
        group = max(min(panel // (GROUPS * m), MOST_IN_GROUP), 1)
        minima = np.empty(-(-panel // group) * rows, np.float32)
        return cls(used, marks, numbers, begins, ends, order, minima, group)


@njit(nogil=True)
def begin(residuals: F32, bounds: tuple[F32, F32], m: int, lists: Lists, limits: F32) -> None:
    """Empty the lists; a row that float32 cannot score is undecided from the start.

    So no other score is infinite or not a number. Bounds and residuals: IN, as in `collect`.
    """
    n, width = residuals.shape
    is_finite = np.isfinite(bounds[0]).all() and np.isfinite(bounds[1]).all()
    for i in range(n):
        limits[i] = np.inf
        lists.marks[i] = min(m + max(m, FEWEST), lists.numbers.shape[1])
        is_near = is_finite and residuals[i, width - 1] < FAR_AWAY
        lists.used[i] = 0 if is_near else UNDECIDED


@njit(nogil=True)
def collect(
    lows: F32,
    first: int,
    m: int,
    bounds: tuple[F32, F32],
    residuals: F32,
    lists: Lists,
    limits: F32,
) -> None:
    """Put some centers into the lists of the rows that may have them among their m nearest.

    bounds: two of (k,) float32  IN, a and b: the bound of a score is a + b |r|
    residuals: (t, d + 2) float32  IN, of `compiled.center_rows`
    """
    panel, n = lows.shape
    minima = _least_of_groups(lows, lists)
    if first == 0 and len(minima) >= m:
        _set_limits(minima, m, bounds, residuals, lists, limits)
    for number in range(len(minima)):
        centers = range(number * lists.group, min((number + 1) * lists.group, panel))
        for i in range(n):
            if minima[number, i] > limits[i] or lists.used[i] == UNDECIDED:
                continue
            for j in centers:
                if lows[j, i] <= limits[i] and lists.used[i] != UNDECIDED:
                    _append(lows[j, i], first + j, m, bounds, residuals, i, lists, limits)


@njit(nogil=True)
def _least_of_groups(lows: F32, lists: Lists) -> F32:
    """Return the least begin of each group of centers for each row, (groups, t)."""
    # Rows run along the vector lanes.
    panel, n = lows.shape
    groups = -(-panel // lists.group)
    minima = lists.minima[: groups * n].reshape(groups, n)
    for number in range(groups):
        begin = number * lists.group
        minima[number] = lows[begin]
        for j in range(begin + 1, min(begin + lists.group, panel)):
            for i in range(n):
                low, least = lows[j, i], minima[number, i]
                minima[number, i] = low if low < least else least
    return minima


@njit(nogil=True)
def _set_limits(
    minima: F32, m: int, bounds: tuple[F32, F32], residuals: F32, lists: Lists, limits: F32
) -> None:
    """Set the limit of each row to the m-th least begin of all groups, and the widest interval.

    The centers that begin there are m, and none of their true scores is above that.
    """
    groups, n = minima.shape
    widest_a, widest_b = bounds[0].max(), bounds[1].max()
    for i in range(n):
        if lists.used[i] != UNDECIDED:
            lists.order[:groups] = minima[:, i]
            norm = residuals[i, residuals.shape[1] - 1]
            end = _select(lists.order[:groups], m - 1)
            limits[i] = end + np.float32(2.0) * (widest_a + widest_b * norm)


@njit(nogil=True)
def _append(
    low: np.float32,
    center: int,
    m: int,
    bounds: tuple[F32, F32],
    residuals: F32,
    i: int,
    lists: Lists,
    limits: F32,
) -> None:
    """Append a center to the list of row i, which is shortened first if it is full."""
    if lists.used[i] == lists.marks[i]:
        shorten(m, i, lists, limits)
        mark = lists.used[i] + max(m, FEWEST)  # to shorten it for each center would take long
        if mark > lists.numbers.shape[1]:
            lists.used[i] = UNDECIDED
            return
        lists.marks[i] = mark
        if low > limits[i]:
            return
    norm = residuals[i, residuals.shape[1] - 1]
    end = low + np.float32(2.0) * (bounds[0][center] + bounds[1][center] * norm)
    place = lists.used[i]
    lists.numbers[i, place] = center
    lists.begins[i, place] = low
    lists.ends[i, place] = end
    lists.used[i] = place + 1


@njit(nogil=True)
def shorten(m: int, i: int, lists: Lists, limits: F32) -> None:
    """Lower the limit of row i to the m-th least end in its list; drop what begins above it.

    The centers of the m least ends begin below these ends, so they stay.
    """
    used = lists.used[i]
    if used < m:
        return
    lists.order[:used] = lists.ends[i, :used]
    limits[i] = min(limits[i], _select(lists.order[:used], m - 1))
    kept = 0
    for place in range(used):
        if lists.begins[i, place] <= limits[i]:
            lists.numbers[i, kept] = lists.numbers[i, place]
            lists.begins[i, kept] = lists.begins[i, place]
            lists.ends[i, kept] = lists.ends[i, place]
            kept += 1
    lists.used[i] = kept


@njit(nogil=True)
def _select(values: F32, rank: int) -> np.float32:
    """Return the value that has this rank, from 0 on, in ascending order (Hoare's FIND, 1961).

    values: (c,) float32  INOUT; their order changes
    """
    left, right = 0, len(values) - 1
    while left < right:
        pivot = values[(left + right) // 2]
        i, j = left, right
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            right = j
        elif rank >= i:
            left = i
        else:
            break
    return values[rank]


@njit(nogil=True, _nrt=True)
def rank_lists(
    rows: F32, centers: F32, cosine: bool, lists: Lists, limits: F32, found: I32
) -> None:
    """Write the m nearest centers of each row whose list holds them, by exact comparison."""
    m = found.shape[1]
    scores = np.empty((m, 2))
    for i in range(len(rows)):
        if lists.used[i] == UNDECIDED:
            continue
        shorten(m, i, lists, limits)
        used = lists.used[i]
        # In about their order, so that hardly any center is moved again.
        numbers = lists.numbers[i, :used][np.argsort(lists.begins[i, :used])]
        for place in range(used):
            insert(rows[i], centers, numbers[place], cosine, place, found[i], scores)


@njit(nogil=True)
def rank_all(
    rows: F32,
    centers: F32,
    cosine: bool,
    lows: F32,
    first: int,
    limits: F32,
    found: I32,
    scores: F64,
    filled: I32,
) -> None:
    """Compare undecided rows exactly with those of some centers that begin at or below the limit.

    found: INOUT; scores: (t, m, 2) float64  INOUT
    filled: (t,) int32  INOUT, number of centers that each row has been compared with
    """
    panel, n = lows.shape
    m = found.shape[1]
    for i in range(n):
        if cosine and not np.any(rows[i]):
            # There may be many, all centers tie, and working it out takes long.
            for place in range(m):
                found[i, place] = place
            continue
        for j in range(panel):
            if not lows[j, i] > limits[i]:  # written so that a NaN is a candidate
                insert(rows[i], centers, first + j, cosine, filled[i], found[i], scores[i])
                filled[i] += 1


@njit(nogil=True)
def insert(
    row: F32, centers: F32, candidate: int, cosine: bool, filled: int, best: I32, scores: F64
) -> None:
    """Insert a center among the nearest of a row, if it is nearer than one of them.

    filled: int  IN, number of centers that were inserted before
    best: (m,) int32  INOUT, nearest first; scores: INOUT
    """
    m = len(best)
    mine = score(row, centers[candidate], cosine)
    place = min(filled, m)
    while place > 0:
        other = best[place - 1]
        theirs = (scores[place - 1, 0], scores[place - 1, 1])
        if candidate < other:  # a tie goes to the lowest index
            ahead = not is_nearer(row, centers[other], theirs, centers[candidate], mine, cosine)
        else:
            ahead = is_nearer(row, centers[candidate], mine, centers[other], theirs, cosine)
        if not ahead:
            break
        if place < m:
            best[place] = other
            scores[place, 0], scores[place, 1] = theirs
        place -= 1
    if place < m:
        best[place] = candidate
        scores[place, 0], scores[place, 1] = mine
