"""The slow, obvious figures of quality: distances row by row in float64, sums as rationals."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction


def distance(x, c, metric):
    """Return a distance in float64, added up in the order of the columns."""
    total = 0.0
    for one, other in zip(x.tolist(), c.tolist(), strict=True):
        total += -(one * other) if metric == "cosine" else (one - other) * (one - other)
    return max(1 + total, 0.0) if metric == "cosine" else total


def exact_score(x, c, metric):
    """Return the score over the reals by which the nearest center is found."""
    pairs = [(Fraction(a), Fraction(b)) for a, b in zip(x.tolist(), c.tolist(), strict=True)]
    if metric == "cosine":
        return -sum(a * b for a, b in pairs)
    return sum((a - b) ** 2 for a, b in pairs)


class Oracle:
    """All figures of rows (n, d) under centers (k, d), with a weight for each row."""

    def __init__(self, rows, centers, weights, metric):
        self.k = len(centers)
        self.metric = metric
        self.centers = centers
        self.weights = [Fraction(float(w)) for w in weights]
        counted = [i for i, w in enumerate(self.weights) if w]
        orders = {
            i: sorted(range(self.k), key=lambda j: (exact_score(rows[i], centers[j], metric), j))
            for i in counted
        }
        self.labels = {i: order[0] for i, order in orders.items()}
        self.near = {i: distance(rows[i], centers[orders[i][0]], metric) for i in counted}
        self.length = {
            i: math.sqrt(distance(rows[i], centers[orders[i][0]], "squared_euclidean"))
            for i in counted
        }
        self.silhouette = {}
        if self.k > 1:
            for i in counted:
                a, b = self.near[i], distance(rows[i], centers[orders[i][1]], metric)
                if metric != "cosine":
                    a, b = math.sqrt(a), math.sqrt(b)
                self.silhouette[i] = max(b - a, 0.0) / b if b else 0.0
        self.rows = rows
        self.total = sum(self.weights)

    def of(self, cluster):
        return [i for i, label in self.labels.items() if label == cluster]

    def size(self, cluster):
        return sum((self.weights[i] for i in self.of(cluster)), Fraction(0))

    def sum_of(self, values, rows):
        return sum((self.weights[i] * Fraction(values[i]) for i in rows), Fraction(0))

    def mean(self, values, cluster):
        size = self.size(cluster)
        return float(self.sum_of(values, self.of(cluster)) / size) if size else math.nan

    def share_near_border(self, percent):
        return float(
            sum(self.weights[i] for i, s in self.silhouette.items() if s <= percent / 100)
            / self.total
        )

    def histogram(self, bins):
        found = Counter()
        for i, s in self.silhouette.items():
            found[min(int(s * bins), bins - 1)] += self.weights[i]
        return [float(found[each]) for each in range(bins)]

    def nearest_other(self, cluster):
        own = self.centers[cluster]
        others = [j for j in range(self.k) if j != cluster]
        best = min(others, key=lambda j: (exact_score(own, self.centers[j], self.metric), j))
        return best, distance(own, self.centers[best], self.metric)

    def davies_bouldin(self):
        used = [j for j in range(self.k) if self.size(j)]
        spread = {j: self.mean(self.length, j) for j in used}
        if len(used) < 2:
            return None
        worst = []
        for i in used:
            gaps = {
                j: math.sqrt(distance(self.centers[i], self.centers[j], "squared_euclidean"))
                for j in used
                if j != i
            }
            worst.append(max((spread[i] + spread[j]) / gap for j, gap in gaps.items()))
        return math.fsum(worst) / len(used)

    def squares(self, rows):
        """Return the sum of squares about the mean of these rows, as a rational."""
        weight = sum(self.weights[i] for i in rows)
        total = Fraction(0)
        for column in range(self.rows.shape[1]):
            values = [Fraction(float(self.rows[i, column])) for i in rows]
            times = [self.weights[i] for i in rows]
            mean = sum((w * x for w, x in zip(times, values, strict=True)), Fraction(0)) / weight
            total += sum(w * (x - mean) ** 2 for w, x in zip(times, values, strict=True))
        return total

    def calinski_harabasz(self):
        used = [j for j in range(self.k) if self.size(j)]
        within = sum(self.squares(self.of(j)) for j in used)
        if len(used) < 2 or not within or self.total <= len(used):
            return None
        between = self.squares(list(self.labels)) - within
        return float(between / (len(used) - 1) / (within / (self.total - len(used))))
