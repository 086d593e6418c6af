"""TensorFlow's mini-batch equations in NumPy, step by step."""

from __future__ import annotations

import itertools

import numpy as np

from ray_kmeans import KMeansClustering, RunConfig

HERE = RunConfig(num_workers=0, progress=False)


EUCLIDEAN, COSINE = "squared_euclidean", "cosine"


PLACES = map("memory://test-minibatch-{}".format, itertools.count())


def model(initial, m=1, metric=EUCLIDEAN, place=None, **params):
    params = {"mini_batch_steps_per_iteration": m, "config": HERE, **params}
    place = place or next(PLACES)
    return KMeansClustering(len(initial), place, initial, distance_metric=metric, **params)


def units(rows):
    norms = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return rows / np.where(norms == 0, 1, norms)


class Seed:
    """The seed's equations (SEMANTICS B 3.2, 3.3) in float64, the sync at the end of a step."""

    def __init__(self, initial, m, metric=EUCLIDEAN):
        self.m, self.cosine = m, metric == COSINE
        self.master = self._seen(initial.astype(np.float64))
        self.updated = self.master.copy()
        self.counts = np.full(len(initial), int(m == 1))
        self.update_in_steps = m
        self.losses = []
        self.margin = np.inf
        """The least advantage of a nearest center over the second one, and for cosine the least
        norm of a mean."""

    def step(self, rows):
        rows, master = self._seen(rows.astype(np.float64)), self._seen(self.master)
        if self.cosine:
            distances = 1 - rows @ master.T
        else:
            distances = ((rows[:, None] - master) ** 2).sum(axis=2)
        self.losses.append(distances.min(axis=1).sum())
        nearest = np.sort(distances, axis=1)
        if distances.shape[1] > 1:
            self.margin = min(self.margin, (nearest[:, 1] - nearest[:, 0]).min())
        labels = distances.argmin(axis=1)
        for j in range(len(master)):
            s, k = rows[labels == j].sum(axis=0), (labels == j).sum()
            if k:
                self.updated[j] += (s - k * self.updated[j]) / (self.counts[j] + k)
                self.counts[j] += k
        if self.cosine:
            self.margin = min(self.margin, np.sqrt((self.updated**2).sum(axis=1)).min())
        self.update_in_steps -= 1
        if self.update_in_steps == 0:
            self._sync()

    def _sync(self):
        self.update_in_steps = self.m
        self.master = self.updated.copy()
        if self.m > 1:
            self.master = self._seen(self.master)
            self.counts[:] = 0

    def _seen(self, rows):
        return units(rows) if self.cosine else rows


def check(km, seed):
    """Compare all that the model tells of itself with the equations."""
    near = {"rtol": 1e-5, "atol": 1e-6}
    value = km.get_variable_value
    np.testing.assert_allclose(value("clusters"), seed.master, **near)
    np.testing.assert_allclose(km.clusters(), seed._seen(seed.master), **near)
    np.testing.assert_array_equal(value("total_counts"), seed.counts)
    np.testing.assert_array_equal(km.counts(), seed.counts)
    np.testing.assert_allclose([line.inertia for line in km.history()], seed.losses, **near)
    assert value("global_step") == len(seed.losses)
    if seed.m > 1:
        assert value("update_in_steps") == seed.update_in_steps
        updated, touched = value("clusters_updated"), seed.counts > 0
        np.testing.assert_allclose(updated[touched], seed.updated[touched], **near)
        np.testing.assert_allclose(updated[~touched], seed.master[~touched], **near)
    names = ["Variable", "clusters", "clusters_updated", "global_step", "initialized"]
    expected = [*names, "update_in_steps"] if seed.m > 1 else [*names[:2], *names[3:]]
    assert km.get_variable_names() == expected
