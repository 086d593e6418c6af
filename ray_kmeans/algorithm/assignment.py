"""Optimal assignment: pairs of rows and columns of a matrix with the least sum of costs.

Shortest augmenting paths with potentials: Kuhn, The Hungarian method for the assignment problem,
Naval Research Logistics Quarterly 2 (1955); Jonker, Volgenant, Computing 38 (1987). Compiled by
numba; every operation is the IEEE one that stands here, so all machines find the same pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ray_kmeans.algorithm.compiled import compiled


@compiled
def squared_distances(old: Any, new: Any, costs: Any) -> None:
    """Write the squared distance of each of some rows to each of others, added column by column.

    `old` (a, d) float64 IN, `new` (d, b) float64 IN, of which each row is a column of the data,
    `costs` (a, b) float64 OUT.
    """
    costs[:] = 0.0
    for i in range(old.shape[0]):
        for column in range(old.shape[1]):
            here = old[i, column]
            for j in range(new.shape[1]):
                step = new[column, j] - here
                costs[i, j] += step * step


@compiled
def assign(costs: Any, partners: Any) -> None:
    """Give each row of a matrix a column of its own, so that the sum of their costs is least.

    `costs` (a, b) float64 IN, finite, a <= b; `partners` (a,) int64 OUT, the column of each row. Of
    several best assignments it finds the same one on every machine. Time O(a^2 b), memory O(b).
    """
    rows, columns = costs.shape
    of_row, of_column = np.zeros(rows + 1), np.zeros(columns + 1)
    owner = np.full(columns + 1, rows, np.int64)  # of each column; `rows` stands for nobody
    before = np.zeros(columns + 1, np.int64)
    for row in range(rows):
        owner[columns] = row  # the path begins at a column that does not exist
        least, is_used = np.full(columns + 1, np.inf), np.zeros(columns + 1, np.bool_)
        here: Any = columns
        while owner[here] != rows:
            is_used[here] = True
            current, delta, following = owner[here], np.inf, 0
            for column in range(columns):
                if is_used[column]:
                    continue
                reduced = costs[current, column] - of_row[current] - of_column[column]
                if reduced < least[column]:
                    least[column], before[column] = reduced, here
                if least[column] < delta:
                    delta, following = least[column], column
            for column in range(columns + 1):
                if is_used[column]:
                    of_row[owner[column]] += delta
                    of_column[column] -= delta
                else:
                    least[column] -= delta
            here = following
        while here != columns:
            owner[here] = owner[before[here]]
            here = before[here]
    for column in range(columns):
        if owner[column] != rows:
            partners[owner[column]] = column
