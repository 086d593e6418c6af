"""The centers of starved mini-batch clusters move to rows, if that is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_kmeans.algorithm import draws
from ray_kmeans.algorithm.batch_rows import Batches
from ray_kmeans.algorithm.reassignment import Reassignment
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.engine import batch_sweeps
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.errors import ConfigError
from ray_kmeans.observe.fit_table import fit_table
from tests.support.short_fits import CutOff, FarPool, Kept, bits, cutting_off_at, run
from tests.support.tf_minibatch import COSINE, EUCLIDEAN, Seed, model, units

RNG = np.random.default_rng(5)
X = (RNG.normal(size=(230, 3)) + 8 * (RNG.integers(0, 12, 230) // 8)[:, None]).astype(np.float32)
FAR = np.concatenate([X[:2], np.full((3, 3), [90, -80, 70]) + np.arange(3)[:, None]])
FAR = FAR.astype(np.float32)
"""Centers of which the last three are near to no row."""
HOW = {"reassignment_ratio": 0.2, "initial_clusters": FAR, "size": 60}


def drawn(batch, seed, step, size):
    """The rows of a batch with the highest hash, in the order of the data: worked out slowly."""
    key = draws.words(seed, "reassign", step, size=1)[0]
    hashes = {row: int(draws.mix(np.uint64([row]), key)[0]) >> 12 for row in batch.tolist()}
    return sorted(sorted(hashes, key=lambda row: (-hashes[row], row))[:size])


@pytest.mark.parametrize("metric", [EUCLIDEAN, COSINE])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5])
def test_steps_are_tensorflows_and_then_starved_clusters_get_rows(metric, ratio):
    km = model(FAR, metric=metric, reassignment_ratio=ratio, random_seed=3)
    seed, batches, moved = Seed(FAR, 1, metric), Batches(len(X), 60, 3), []
    for step in range(1, 9):
        batch = batches.numbers(step - 1)
        seed.step(X[batch])
        starved = [j for j in range(5) if seed.counts[j] < ratio * seed.counts.max()]
        if starved:
            lowest = min(seed.counts[j] for j in range(5) if j not in starved)
            for j, row in zip(starved, drawn(batch, 3, step, len(starved)), strict=True):
                center = units(X[[row]].astype(float))[0] if metric == COSINE else X[row]
                seed.master[j] = seed.updated[j] = center
                seed.counts[j] = lowest
        moved.append(len(starved))

    km.fit(X, steps=8, batch_size=60)

    np.testing.assert_allclose(km.clusters(), seed._seen(seed.master), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(km.counts(), seed.counts)
    assert [line.relocated for line in km.history()] == moved
    assert (sum(moved) > 0) == (ratio > 0)


WAYS = {
    "shards": st.integers(1, 4),
    "block": st.integers(5, 90),
    "every": st.none() | st.integers(1, 3),
    "pool": st.sampled_from([FarPool, LocalPool]),
    "cache": st.sampled_from(["memory", "disk", "source"]),
}


@settings(max_examples=25)
@given(
    **WAYS,
    cut=st.integers(1, 9),
    weighted=st.booleans(),
    metric=st.sampled_from([EUCLIDEAN, COSINE]),
)
def test_the_bits_are_the_same_for_any_workers_and_after_any_kill(
    shards, block, every, pool, cache, cut, weighted, metric
):
    weights = np.arange(len(X)) % 4 / 2 if weighted else None
    same = {**HOW, "weights": weights, "distance_metric": metric, "steps": 9}
    whole = run(Kept(), X, 5, **same)
    shards = 1 if pool is FarPool else shards
    store, way = Kept(), {"shards": shards, "block": block, "cache": cache, "pool": pool}
    with pytest.raises(CutOff):
        run(store, X, 5, **same, **way, every=every, emit=cutting_off_at(cut))

    again = run(store, X, 5, **same, **way, every=every)

    assert bits(again) == bits(whole) == bits(store.latest())
    assert sum(line.relocated for line in whole.history) > 0


def test_a_far_worker_ends_a_call_where_clusters_are_starved_and_only_there(monkeypatch):
    monkeypatch.setattr(batch_sweeps, "STEPPING_S", 60.0)
    calls = []

    class Counting(FarPool):
        def step_batches(self, state, *rest):
            moved = super().step_batches(state, *rest)
            calls.append(moved[0].iteration)
            return moved

    state = run(Kept(), X, 5, 20, pool=Counting, **HOW)

    assert calls == [*(line.iteration for line in state.history if line.relocated), 20]


def test_batches_of_a_stream_give_rows_of_their_own():
    km = model(FAR, reassignment_ratio=0.2)

    km.fit(iter([X[:100], X[100:]]))

    first, *_ = km.history()
    assert first.relocated == 3
    value = model(FAR, reassignment_ratio=0.2).fit(iter([X[:100]])).clusters()
    assert {row.tobytes() for row in value[2:]} <= {row.tobytes() for row in X[:100]}


def test_the_table_of_a_fit_has_a_column_of_relocated_centers_where_there_are_any():
    moved, kept = (model(FAR, reassignment_ratio=ratio).fit(X, steps=2) for ratio in (0.2, 0))

    head, first, *_ = fit_table(moved.history(), None, mini_batch=True).splitlines()

    assert head.split()[-1] == "relocated"
    assert first.split()[-1] == "3"
    assert "relocated" not in fit_table(kept.history(), None, mini_batch=True)


@pytest.mark.parametrize(
    ("counts", "rows", "expected"),
    [
        ([100, 19, 21, 20], 50, [1]),
        ([100, 1, 2, 3], 4, [1, 2]),  # half of the rows of a batch at most, the lowest first
        ([100, 3, 2, 3], 4, [1, 2]),
        ([7, 7, 7, 7], 50, []),
    ],
)
def test_a_cluster_is_starved_below_a_share_of_the_largest_count(counts, rows, expected):
    state = FitState(np.zeros((4, 1), np.float32), np.array(counts), iteration=10)

    assert Reassignment(0.2).starved(state, rows).tolist() == expected


def test_small_batches_look_for_starved_clusters_after_ten_rows_for_each():
    looks = [
        step
        for step in range(1, 41)
        if len(
            Reassignment(0.5).starved(
                FitState(np.zeros((4, 1), np.float32), np.array([9, 1, 1, 1]), iteration=step), 3
            )
        )
    ]

    assert looks == [14, 28]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"reassignment_ratio": 1.5}, "reassignment_ratio=1.5 must be a number from 0 to 1"),
        ({"reassignment_ratio": True}, "reassignment_ratio=True must be a number"),
        ({"reassignment_ratio": "a"}, "reassignment_ratio='a' must be a number"),
        ({"reassignment_ratio": 0.1, "use_mini_batch": False}, "full batch.*use_mini_batch=True"),
        ({"reassignment_ratio": 0.1, "m": 2}, "mini_batch_steps_per_iteration=2.*Give 1"),
    ],
)
def test_a_ratio_without_a_meaning_is_refused(params, message):
    with pytest.raises(ConfigError, match=message):
        model(FAR, **params).fit(X)
