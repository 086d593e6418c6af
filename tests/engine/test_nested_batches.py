"""Nested mini-batches: each step is an iteration of Lloyd over a sample that grows to all rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_kmeans.algorithm import draws
from ray_kmeans.algorithm.nested_sample import first_sample, grown, is_in, key_of
from ray_kmeans.algorithm.state import FitState, Iteration, Sample, Stop
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.errors import ConfigError
from tests.support import oracle
from tests.support.short_fits import CutOff, Kept, bits, cutting_off_at, run
from tests.support.tf_minibatch import COSINE, EUCLIDEAN, model

RNG = np.random.default_rng(5)
X = RNG.integers(-40, 40, (600, 2)).astype(np.float32) + 200 * RNG.integers(0, 4, (600, 1))
X = X.astype(np.float32)
"""Rows of whole numbers, whose sums float64 holds."""
START = X[:5]
NESTED = {"nested_batches": True, "initial_clusters": START, "size": 20}


def inside(halvings, seed=0):
    """The numbers of the rows of a sample: those whose hash begins with this many zeros."""
    key = draws.words(seed, "nested", size=1)[0]
    hashes = draws.mix(np.arange(len(X), dtype=np.uint64), key).tolist()
    return [row for row, bits in enumerate(hashes) if bits < 2 ** (64 - halvings)]


def slow_fit(steps, seed=0):
    """Return (rows, inertia, centers, halvings) of each step, worked out over the reals."""
    centers, halvings, seen, lines = START.astype(np.float64), 4, [], []
    for _ in range(steps):
        rows = X[inside(halvings, seed)]
        labels = oracle.labels(rows, centers.astype(np.float32))
        inertia = ((rows.astype(np.float64) - centers[labels]) ** 2).sum()
        new = oracle.means(rows, labels, centers.astype(np.float32)).astype(np.float64)
        still = sum((new == centers).all(axis=1))
        lines.append((len(rows), inertia, new, halvings))
        seen, centers = [*seen, new.tobytes()], new
        if halvings and (2 * still >= len(new) or new.tobytes() in seen[:-1]):
            halvings, seen = (3 if halvings == 4 else 0), []
        elif not halvings and still == len(new):
            break
    return lines


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_step_is_an_iteration_of_lloyd_over_the_sample_and_the_end_is_that_of_full_batch(seed):
    expected = slow_fit(100, seed)

    state = run(Kept(), X, 5, random_seed=seed, **NESTED)

    assert [line.rows for line in state.history] == [rows for rows, *_ in expected]
    np.testing.assert_allclose([line.inertia for line in state.history], [e[1] for e in expected])
    np.testing.assert_array_equal(state.centers, expected[-1][2].astype(np.float32))
    assert state.stop is Stop.CONVERGED
    assert {e[3] for e in expected} == {4, 3, 0}
    full = run(Kept(), X, 5, initial_clusters=state.centers, use_mini_batch=False, size=None)
    assert full.centers.tobytes() == state.centers.tobytes()
    assert len(full.history) == 1
    assert full.history[0].inertia == state.history[-1].inertia


@settings(max_examples=25)
@given(
    shards=st.integers(1, 4),
    block=st.integers(9, 300),
    every=st.none() | st.integers(1, 3),
    cache=st.sampled_from(["memory", "disk", "source"]),
    cut=st.integers(1, 6),
    weighted=st.booleans(),
    metric=st.sampled_from([EUCLIDEAN, COSINE]),
    tolerance=st.sampled_from([None, 1e-2]),
)
def test_the_bits_are_the_same_for_any_workers_and_after_any_kill(
    shards, block, every, cache, cut, weighted, metric, tolerance
):
    weights = np.arange(len(X)) % 4 / 2 if weighted else None
    same = {**NESTED, "weights": weights, "distance_metric": metric, "tolerance": tolerance}
    whole = run(Kept(), X, 5, **same)
    store, way = Kept(), {"shards": shards, "block": block, "cache": cache, "every": every}
    with pytest.raises(CutOff):
        run(store, X, 5, **same, **way, emit=cutting_off_at(cut))

    again = run(store, X, 5, **same, **way)

    assert bits(again) == bits(whole) == bits(store.latest())
    assert {line.rows for line in whole.history} > {whole.history[-1].rows}


def test_a_larger_sample_holds_all_rows_of_a_smaller_one():
    numbers, key = np.arange(20_000), key_of(7)

    samples = [set(np.flatnonzero(is_in(numbers, halvings, key))) for halvings in (0, 1, 3, 6)]

    for larger, smaller, share in zip(samples, samples[1:], (2, 8, 64), strict=False):
        assert larger > smaller
        assert abs(len(smaller) - 20_000 / share) < 5 * np.sqrt(20_000 / share)


@pytest.mark.parametrize(
    ("rows", "size", "halvings"),
    [(800, 100, 3), (799, 100, 0), (1600, 100, 4), (10, 100, 0), (10**9, 8192, 16)],
)
def test_the_first_sample_has_about_the_rows_asked_for_and_is_an_eighth_or_all(
    rows, size, halvings
):
    assert first_sample(rows, size, 9) == Sample(halvings, 9)


@pytest.mark.parametrize(("halvings", "larger"), [(5, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("still", [0, 1, 2, 4])
def test_a_sample_grows_when_at_least_half_of_the_centers_did_not_move(still, halvings, larger):
    before = np.arange(4, dtype=np.float32)[:, None]
    after = before + np.float32([[0.5]]) * (np.arange(4) >= still)[:, None]
    line = Iteration(1, 9, 9.0, 0.5, 0, "a name")
    state = FitState(
        after.astype(np.float32),
        np.ones(4),
        iteration=1,
        history=(line,),
        sample=Sample(halvings, 0),
    )

    found = grown(state, before, StopRule()).sample

    assert found.halvings == (larger if still >= 2 else halvings)
    assert found.since == (1 if halvings and still >= 2 else 0)


def test_a_sample_without_a_row_grows():
    state = run(Kept(), X[:40], 5, **{**NESTED, "size": 1})

    assert state.stop is Stop.CONVERGED
    assert state.history[-1].rows == 40


def test_other_data_and_full_batch_begin_with_no_sample_and_more_steps_go_on_with_it():
    store = Kept()
    first = run(store, X, 5, 3, **NESTED)
    more = run(store, X, 5, 2, **NESTED)
    assert more.history[3].rows >= first.history[2].rows
    assert more.sample.halvings <= first.sample.halvings

    other = run(store, X + 1, 5, 1, **NESTED)
    assert other.history[-1].rows == len(inside(4))

    full = run(store, X + 1, 5, 1, initial_clusters=START, use_mini_batch=False, size=None)
    assert full.sample is None
    assert full.history[-1].rows == len(X)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"nested_batches": 1}, "nested_batches=1 must be True or False"),
        ({"use_mini_batch": False}, "use_mini_batch=False has no meaning.*Give True"),
        ({"m": 3}, "mini_batch_steps_per_iteration=3 has no meaning.*Give 1"),
        ({"reassignment_ratio": 0.5}, "reassignment_ratio=0.5 has no meaning.*Give 0"),
    ],
)
def test_what_nested_batches_cannot_do_is_refused(params, message):
    with pytest.raises(ConfigError, match=message):
        model(START, **{"nested_batches": True, **params}).fit(X)


def test_an_iterator_cannot_be_nested():
    with pytest.raises(ConfigError, match="nested_batches=True and an iterator"):
        model(START, nested_batches=True).fit(iter([X]))
