"""The seed's variables by the seed's names, with the values of the golden traces."""

from __future__ import annotations

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.errors import ConfigError, NotFittedError

HERE = RunConfig(num_workers=0, progress=False)
A = np.array([[0, 0], [2, 0], [10, 0], [12, 0]], np.float32)
START = np.array([[1, 1], [11, 1]], np.float32)
ALWAYS = ["clusters", "global_step", "initialized"]
NAMES = {
    "full batch": ({"use_mini_batch": False}, ALWAYS),
    "mini-batch": ({}, ["Variable", *ALWAYS]),
    "mini-batch, m = 3": (
        {"mini_batch_steps_per_iteration": 3},
        ["Variable", "clusters", "clusters_updated", *ALWAYS[1:], "update_in_steps"],
    ),
}


@pytest.fixture
def new(tmp_path):
    """Return a maker of models that start from the given centers."""

    def make(initial=START, name="m", **params):
        params = {"config": HERE, **params}
        return KMeansClustering(len(initial), f"memory:/{tmp_path}/{name}", initial, **params)

    return make


def step(km, batch):
    """Train one step on a batch, which may have fewer rows than there are clusters."""
    return km.fit(iter([batch]))


def values(km):
    return {name: km.get_variable_value(name).tolist() for name in km.get_variable_names()}


def close(value):
    return pytest.approx(np.array(value), abs=1e-6)


@pytest.mark.parametrize("mode", NAMES)
def test_the_names_are_the_seeds_sorted_for_each_way_to_train(new, mode):
    params, names = NAMES[mode]
    km = new(**params).fit(A, steps=1)

    assert km.get_variable_names() == names == sorted(names)
    assert type(km.get_variable_names()) is list


@pytest.mark.parametrize("mode", NAMES)
def test_every_name_has_a_value_of_the_seeds_kind(new, mode):
    km = new(**NAMES[mode][0]).fit(A, steps=1)

    kinds = {
        "clusters": (np.float32, (2, 2)),
        "clusters_updated": (np.float32, (2, 2)),
        "Variable": (np.int64, (2,)),
        "global_step": (np.int64, ()),
        "update_in_steps": (np.int64, ()),
        "initialized": (np.bool_, ()),
    }
    for name in km.get_variable_names():
        value = km.get_variable_value(name)
        assert (name, value.dtype, value.shape) == (name, *kinds[name])


@pytest.mark.parametrize("mode", NAMES)
def test_a_trailing_0_is_accepted(new, mode):
    km = new(**NAMES[mode][0]).fit(A, steps=1)

    for name in km.get_variable_names():
        np.testing.assert_array_equal(
            km.get_variable_value(f"{name}:0"), km.get_variable_value(name)
        )


@pytest.mark.parametrize("mode", ["mini-batch", "mini-batch, m = 3"])
def test_total_counts_is_another_name_of_the_counts(new, mode):
    km = new(**NAMES[mode][0]).fit(A, steps=1)

    for name in ("total_counts", "total_counts:0", "Variable:0"):
        np.testing.assert_array_equal(
            km.get_variable_value(name), km.get_variable_value("Variable")
        )
    assert "total_counts" not in km.get_variable_names()


@pytest.mark.parametrize("mode", NAMES)
@pytest.mark.parametrize("name", ["nope", "clusters:1", "Clusters", "", ":0", "clusters:0:0"])
def test_an_unknown_name_is_refused_with_the_valid_ones(new, mode, name):
    params, names = NAMES[mode]
    km = new(**params).fit(A, steps=1)

    with pytest.raises(ConfigError) as caught:
        km.get_variable_value(name)

    assert repr(name) in str(caught.value)
    for valid in names:
        assert repr(valid) in str(caught.value)


@pytest.mark.parametrize("name", ["Variable", "total_counts", "update_in_steps"])
def test_full_batch_has_no_counts_and_says_so(new, name):
    km = new(use_mini_batch=False).fit(A, steps=1)

    with pytest.raises(ConfigError, match=f"no variable '{name}'"):
        km.get_variable_value(name)


def test_before_the_first_fit_there_are_none(new):
    with pytest.raises(NotFittedError, match="Call fit first"):
        new().get_variable_names()
    with pytest.raises(NotFittedError, match="Call fit first"):
        new().get_variable_value("clusters")
    with pytest.raises(NotFittedError, match="Call fit first"):
        new().get_variable_value("nope")


def test_full_batch_holds_the_golden_trace(new):
    km = new(use_mini_batch=False).fit(A, steps=1)

    assert values(km) == {
        "clusters": [[1, 0], [11, 0]],
        "global_step": 1,
        "initialized": True,
    }


def test_running_means_hold_the_golden_trace(new):
    km = new()
    trace = [
        (A[0:3], [(1, 1 / 3), (10.5, 0.5)], [3, 2], 6.0),
        (A[2:4], [(1, 1 / 3), (10.75, 0.25)], [3, 4], 3.0),
        (A[0:1], [(0.75, 0.25), (10.75, 0.25)], [4, 4], 10 / 9),
    ]

    for number, (batch, centers, counts, loss) in enumerate(trace, start=1):
        step(km, batch)

        assert km.get_variable_value("clusters") == close(centers)
        assert km.get_variable_value("Variable").tolist() == counts
        assert km.get_variable_value("global_step") == number
        assert km.history()[-1].inertia == pytest.approx(loss)


def test_several_steps_per_iteration_hold_the_golden_trace_with_the_sync_at_their_end(new):
    km = new(mini_batch_steps_per_iteration=3)
    first, second, third = START, [(2 / 3, 0), (32 / 3, 0)], [(1, 0), (11, 0)]
    trace = [
        (A[0:3], first, [(1, 0), (10, 0)], [2, 1], 2, 6.0),
        (A[2:4], first, [(1, 0), (32 / 3, 0)], [2, 3], 1, 4.0),
        (A[0:1], second, second, [0, 0], 3, 2.0),
        (A, second, [(1, 0), (11, 0)], [2, 2], 2, 40 / 9),
        (A[0:2], second, [(1, 0), (11, 0)], [4, 2], 1, 20 / 9),
        (A[0:2], third, third, [0, 0], 3, 20 / 9),
        (A, third, third, [2, 2], 2, 4.0),
        (A, third, third, [4, 4], 1, 4.0),
    ]

    for number, (batch, master, updated, counts, left, loss) in enumerate(trace, start=1):
        step(km, batch)

        assert km.get_variable_value("clusters") == close(master)
        assert km.get_variable_value("clusters_updated") == close(updated)
        assert km.get_variable_value("total_counts").tolist() == counts
        assert km.get_variable_value("update_in_steps") == left
        assert km.get_variable_value("global_step") == number
        assert km.history()[-1].inertia == pytest.approx(loss)
        np.testing.assert_array_equal(km.clusters(), km.get_variable_value("clusters"))


def test_a_cluster_without_a_row_keeps_its_center_in_clusters_updated(new):
    km = new(mini_batch_steps_per_iteration=3).fit(iter([A[:1]]))

    assert km.get_variable_value("clusters_updated").tolist() == [[0, 0], [11, 1]]


COSINE = np.array([[2, 0], [0, 3], [1, 1], [-1, 0]], np.float32)
AXES = np.array([[5, 0], [0, 7]], np.float32)


def test_cosine_running_means_are_kept_as_they_are_and_clusters_shows_them_normalised(new):
    km = new(AXES, distance_metric="cosine")
    trace = [
        ([(0.902369, 0.235702), (-1 / 3, 2 / 3)], [3, 3], 1.292893),
        ([(0.882843, 0.282843), (-0.4, 0.6)], [5, 5], 0.827965),
        ([(0.874474, 0.303046), (-0.428571, 0.571429)], [7, 7], 0.771798),
        ([(0.869825, 0.314270), (-0.444444, 0.555556)], [9, 9], 0.755467),
    ]

    for centers, counts, loss in trace:
        km.partial_fit(COSINE)

        assert km.get_variable_value("clusters") == close(centers)
        assert km.get_variable_value("Variable").tolist() == counts
        assert km.history()[-1].inertia == pytest.approx(loss, abs=1e-6)
        norms = np.linalg.norm(centers, axis=1, keepdims=True)
        np.testing.assert_allclose(km.clusters(), centers / norms, atol=2e-6)


def test_cosine_with_several_steps_per_iteration_shows_unit_rows_and_means_not_normalised(new):
    km = new(AXES, distance_metric="cosine", mini_batch_steps_per_iteration=2)
    normalised = [(0.923880, 0.382683), (-0.707107, 0.707107)]
    means = [(0.853553, 0.353553), (-0.5, 0.5)]

    for number, (clusters, updated, counts) in enumerate(
        [
            (np.eye(2), means, [2, 2]),
            (normalised, normalised, [0, 0]),
            (normalised, means, [2, 2]),
            (normalised, normalised, [0, 0]),
        ]
    ):
        km.partial_fit(COSINE)

        assert km.get_variable_value("clusters") == close(clusters)
        assert km.get_variable_value("Variable").tolist() == counts
        if number % 2 == 0:
            assert km.get_variable_value("clusters_updated") == close(updated)


def test_cosine_full_batch_shows_unit_rows(new):
    km = new(AXES, distance_metric="cosine", use_mini_batch=False).fit(COSINE, steps=1)

    assert km.get_variable_value("clusters") == close(
        [(0.9238795, 0.3826834), (-(0.5**0.5), 0.5**0.5)]
    )
    np.testing.assert_array_equal(km.clusters(), km.get_variable_value("clusters"))


def test_the_counts_are_never_reset_by_a_later_fit(new):
    km = new().fit(A, steps=2).fit(A, steps=3)

    assert km.get_variable_value("Variable").sum() == 2 + 5 * 4
    assert km.get_variable_value("global_step") == 5


def test_the_variables_follow_the_way_of_the_last_fit(new):
    new(use_mini_batch=False).fit(A, steps=1)
    assert "Variable" not in new().get_variable_names()

    new().partial_fit(A)

    assert "Variable" in new().get_variable_names()
    assert new().get_variable_value("Variable").tolist() == [3, 3]


@pytest.mark.parametrize("mode", NAMES)
def test_another_object_reads_the_same_values(new, mode):
    km = new(**NAMES[mode][0]).fit(A, steps=2)

    assert values(new()) == values(km)


@pytest.mark.parametrize("mode", NAMES)
def test_what_is_returned_may_be_changed_without_harm(new, mode):
    km = new(**NAMES[mode][0]).fit(A, steps=2)
    before = values(km)

    for name in km.get_variable_names():
        km.get_variable_value(name)[...] = 0

    assert values(km) == before
