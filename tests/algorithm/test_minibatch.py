"""Mini-batch training makes the seed's equations, step by step, on the batches of `Batches`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ray_kmeans.algorithm.batch_rows import Batches
from tests.support import oracle
from tests.support.tf_minibatch import COSINE, EUCLIDEAN, Seed, check, model, units

A = np.array([[0, 0], [2, 0], [10, 0], [12, 0]], np.float32)
START = np.array([[1, 1], [11, 1]], np.float32)
DIRECTIONS = np.array([[2, 0], [0, 3], [1, 1], [-1, 0]], np.float32)
AXES = np.array([[5, 0], [0, 7]], np.float32)


@st.composite
def schedules(draw):
    """Two data sets, initial centers, m, and fits: which data, how many steps, rows of a batch."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    d, k = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    sizes = draw(st.tuples(st.integers(k, 50), st.integers(k, 50)))
    data = [(rng.normal(size=(n, d)) * 3).astype(np.float32) for n in sizes]
    initial = (rng.normal(size=(k, d)) * 2).astype(np.float32)
    fit = st.tuples(st.integers(0, 1), st.integers(1, 7), st.sampled_from([1, 3, 10, 17, 60]))
    fits = draw(st.lists(fit, min_size=1, max_size=5))
    return data, initial, draw(st.integers(1, 4)), fits


@pytest.mark.parametrize("metric", [EUCLIDEAN, COSINE])
@settings(max_examples=15)
@given(schedule=schedules(), random_seed=st.integers(-5, 5))
def test_any_schedule_of_fits_makes_the_seeds_equations(metric, schedule, random_seed):
    data, initial, m, fits = schedule
    km = model(initial, m, metric, random_seed=random_seed)
    seed = Seed(initial, m, metric)
    before, since = None, 0
    for which, steps, size in fits:
        n = len(data[which])
        batches = Batches(n, min(size, n), random_seed)
        if (which, batches.size) != before:  # epochs begin with the data and how they are cut
            before, since = (which, batches.size), len(seed.losses)
        for _ in range(steps):
            seed.step(data[which][batches.numbers(len(seed.losses) - since)])
        assume(seed.margin > 1e-4)  # below, float32 centers may decide otherwise

        km.fit(data[which], steps=steps, batch_size=size)

        check(km, seed)
        assert [line.rows for line in km.history()[-steps:]] == [
            batches.rows_in(len(seed.losses) - steps - since + number) for number in range(steps)
        ]


@settings(max_examples=15)
@given(
    X=st.integers(0, 10**6).map(lambda s: np.random.default_rng(s).integers(-8, 9, (40, 2))),
    k=st.integers(1, 6),
    m=st.sampled_from([2, 4, 5]),
)
def test_the_steps_of_an_epoch_as_one_iteration_are_a_step_of_full_batch(X, k, m):
    X = X.astype(np.float32)

    km = model(X[:k], m).fit(X, steps=m, batch_size=40 // m)

    labels = oracle.labels(X, X[:k])
    assert sum(line.inertia for line in km.history()) == oracle.inertia(X, X[:k], labels)
    np.testing.assert_array_equal(km.clusters(), oracle.means(X, labels, X[:k]))
    full = model(X[:k], use_mini_batch=False).fit(X, steps=1)
    np.testing.assert_array_equal(km.clusters(), full.clusters())


def test_a_tie_goes_to_the_lowest_index():
    X = np.array([[0.0], [2.0], [5.0], [-5.0]], np.float32)
    initial = np.array([[3.0], [1.0], [1.0], [-1.0]], np.float32)

    km = model(initial).fit(X, steps=1)

    assert km.counts().tolist() == [3, 2, 1, 2]  # the initial center is one
    assert km.clusters().ravel().tolist() == [np.float32(10 / 3), 0.5, 1.0, -3.0]


@pytest.mark.parametrize("value", [1.0, 0.999, -3.0])
@pytest.mark.parametrize(("m", "size"), [(2, 64), (3, 64), (8, 64), (100, 64), (100, 16)])
def test_an_iteration_may_see_the_data_many_times(value, m, size):
    X = np.full((64, 2), value, np.float32)

    km = model(np.array([[0.5, 0.25]]), m).fit(X, steps=m, batch_size=size)

    np.testing.assert_array_equal(km.clusters(), X[:1])


def test_a_step_says_how_far_it_moved_the_centers_and_how_many_have_no_row():
    far = np.array([[1, 1], [11, 1], [1000, 1000]], np.float32)

    km = model(far, 2).fit(A, steps=4, batch_size=4)

    assert [line.shift for line in km.history()] == [0, 1, 0, 0]
    assert [line.empty for line in km.history()] == [0, 1, 0, 1]
    assert len({line.digest for line in km.history()[1:]}) == 1
    km = model(far).fit(A, steps=2)
    assert [line.empty for line in km.history()] == [1, 1]
    assert [line.shift for line in km.history()] == pytest.approx([2 / 3, 1 / 3 - 1 / 5])


ONE_STEP = [  # batch, loss, centers, counts: SEMANTICS B 3.5
    (A[0:3], 6.0, [(1, 1 / 3), (10.5, 0.5)], [3, 2]),
    (A[2:4], 3.0, [(1, 1 / 3), (10.75, 0.25)], [3, 4]),
    (A[0:1], 1.111111, [(0.75, 0.25), (10.75, 0.25)], [4, 4]),
]


def test_the_golden_trace_of_one_step_per_iteration():
    km = model(START)
    for batch, loss, centers, counts in ONE_STEP:
        km.fit(iter([batch]))

        assert km.history()[-1].inertia == pytest.approx(loss, rel=1e-6)
        np.testing.assert_allclose(km.clusters(), centers, rtol=1e-6)
        assert km.get_variable_value("Variable").tolist() == counts

    once = model(START).fit(iter([batch for batch, *_ in ONE_STEP]))
    assert once.history() == km.history()
    np.testing.assert_array_equal(once.clusters(), km.clusters())


FIRST = [(2 / 3, 0), (32 / 3, 0)]
SECOND = [(1, 0), (11, 0)]
THREE_STEPS = [  # batch, loss, master, updated, counts, update_in_steps: B 3.5, synced at the end
    (A[0:3], 6.0, START, [(1, 0), (10, 0)], [2, 1], 2),
    (A[2:4], 4.0, START, [(1, 0), (32 / 3, 0)], [2, 3], 1),
    (A[0:1], 2.0, FIRST, FIRST, [0, 0], 3),
    (A, 4.444444, FIRST, SECOND, [2, 2], 2),
    (A[0:2], 2.222222, FIRST, SECOND, [4, 2], 1),
    (A[0:2], 2.222222, SECOND, SECOND, [0, 0], 3),
    (A, 4.0, SECOND, SECOND, [2, 2], 2),
    (A, 4.0, SECOND, SECOND, [4, 4], 1),
]


def test_the_golden_trace_of_three_steps_per_iteration():
    km = model(START, 3)
    for batch, loss, master, updated, counts, left in THREE_STEPS:
        km.fit(iter([batch]))

        assert km.history()[-1].inertia == pytest.approx(loss, rel=1e-6)
        np.testing.assert_allclose(km.clusters(), master, rtol=1e-6)
        np.testing.assert_allclose(km.get_variable_value("clusters_updated"), updated, rtol=1e-6)
        assert km.get_variable_value("total_counts").tolist() == counts
        assert km.get_variable_value("update_in_steps") == left

    once = model(START, 3).fit(iter([batch for batch, *_ in THREE_STEPS]))
    assert once.history() == km.history()
    np.testing.assert_array_equal(once.clusters(), km.clusters())


def test_the_golden_trace_of_full_batch():
    km = model(START, use_mini_batch=False)

    km.fit(A, steps=1)
    assert (km.clusters().tolist(), km.history()[-1].inertia) == ([[1, 0], [11, 0]], 8.0)
    km.fit(A)
    assert [line.inertia for line in km.history()] == [8.0, 4.0]


def test_the_golden_trace_of_cosine_and_full_batch():
    km = model(AXES, metric=COSINE, use_mini_batch=False).fit(DIRECTIONS)

    losses = [line.inertia for line in km.history()]
    np.testing.assert_allclose(losses, [1.2928932, 0.7380273], rtol=1e-6)
    expected = [(0.9238795, 0.3826834), (-0.7071067, 0.7071067)]
    np.testing.assert_allclose(km.clusters(), expected, rtol=1e-6)
    scores = [(0.0761205, 1.7071067), (0.6173166, 0.2928933), (0.0761206, 1)]
    np.testing.assert_allclose(
        km.transform(DIRECTIONS), [*scores, (1.9238795, 0.2928933)], rtol=1e-5
    )
    assert list(km.predict_cluster_idx(DIRECTIONS)) == [0, 1, 0, 1]


COSINE_STEPS = [  # loss, running means, counts: B 3.5
    (1.292893, [(0.902369, 0.235702), (-1 / 3, 2 / 3)], [3, 3]),
    (0.827965, [(0.882843, 0.282843), (-0.4, 0.6)], [5, 5]),
    (0.771798, [(0.874474, 0.303046), (-0.428571, 0.571429)], [7, 7]),
    (0.755467, [(0.869825, 0.314270), (-0.444444, 0.555556)], [9, 9]),
]


def test_the_golden_trace_of_cosine_and_one_step_per_iteration():
    km = model(AXES, metric=COSINE)
    for loss, means, counts in COSINE_STEPS:
        km.fit(DIRECTIONS, steps=1)

        assert km.history()[-1].inertia == pytest.approx(loss, rel=2e-6)
        np.testing.assert_allclose(km.get_variable_value("clusters"), means, rtol=3e-6)
        np.testing.assert_allclose(km.clusters(), units(np.array(means)), rtol=3e-6)
        assert km.counts().tolist() == counts

    once = model(AXES, metric=COSINE).fit(DIRECTIONS, steps=4)
    assert once.history() == km.history()


def test_the_golden_trace_of_cosine_and_two_steps_per_iteration():
    km = model(AXES, 2, COSINE)
    master, updated = [(1, 0), (0, 1)], [(0.853553, 0.353553), (-0.5, 0.5)]
    synced = [(0.923880, 0.382683), (-0.707107, 0.707107)]
    for loss, centers, counts in [
        (1.292893, master, [2, 2]),
        (1.292893, synced, [0, 0]),
        (0.738027, synced, [2, 2]),
        (0.738027, synced, [0, 0]),
    ]:
        km.fit(DIRECTIONS, steps=1)

        assert km.history()[-1].inertia == pytest.approx(loss, rel=1e-6)
        np.testing.assert_allclose(km.clusters(), centers, rtol=2e-6)
        assert km.counts().tolist() == counts
        if any(counts):
            means = km.get_variable_value("clusters_updated")
            np.testing.assert_allclose(means, updated, rtol=2e-6)


@pytest.mark.parametrize("m", [1, 2])
def test_a_mean_without_a_direction_leaves_its_center_where_it_was(m):
    initial = np.array([[0, 1]], np.float32)
    X = np.array([[1, 0], [-1, 0], [0, -1]], np.float32)
    if m > 1:
        X = X[:2]  # the initial center does not count

    km = model(initial, m, COSINE).fit(X, steps=m)

    assert km.clusters().tolist() == initial.tolist()
    assert km.counts().tolist() == ([0] if m > 1 else [4])


def test_a_zero_row_has_distance_1_and_counts_for_the_first_cluster():
    X = np.array([[1, 0], [0, 2], [0, 0]], np.float32)

    with pytest.warns(UserWarning, match="1 of 3 rows are zero"):
        km = model(AXES, metric=COSINE).fit(X, steps=1)

    assert km.history()[0].inertia == 1
    assert km.counts().tolist() == [3, 2]
    expected = [(2 / 3, 0), (0, 1)]
    np.testing.assert_allclose(km.get_variable_value("clusters"), expected, rtol=1e-6)
