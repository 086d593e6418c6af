"""Order centers by their distance to a row, over the reals."""

from __future__ import annotations

from fractions import Fraction


def exact_order(row, centers, metric):
    """Return all centers, the nearest first, by rationals."""
    row = [Fraction(x) for x in row.tolist()]
    scores = []
    for j, center in enumerate(centers.tolist()):
        pairs = [(x, Fraction(c)) for x, c in zip(row, center, strict=True)]
        cosine = metric == "cosine"
        scores.append((sum(-x * c if cosine else (x - c) ** 2 for x, c in pairs), j))
    return [j for _, j in sorted(scores)]
