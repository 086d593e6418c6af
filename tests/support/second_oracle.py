"""Order centers by their distance to a row, over the reals."""

from __future__ import annotations

from tests.support import oracle


def exact_order(row, centers, metric):
    """Return all centers, the nearest first and the lowest index of a tie."""
    row, centers, _ = oracle.whole(row, centers)
    scores = -centers.dot(row) if metric == "cosine" else ((row - centers) ** 2).sum(axis=1)
    return sorted(range(len(scores)), key=lambda j: (scores[j], j))
