"""A tree of clusters equals the obvious one, for any number of workers and after any kill."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig, errors, open_session, open_source
from ray_kmeans.algorithm import tree
from ray_kmeans.algorithm.metric import project
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.sharding import cut, split
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.row_cache import CacheOptions
from ray_kmeans.engine.shared_pool import SharedPool
from ray_kmeans.engine.tree_fit import run_plan
from ray_kmeans.observe import events as ev
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit as fitting
from tests.support import tree_oracle

HERE = RunConfig(num_workers=0, progress=False)
RANDOM = np.random.default_rng(8)
# Whole multiples of 2**-10, so that a mean is the same however its sum is rounded.
X = (
    np.rint((RANDOM.normal(size=(2_400, 3)) + 4 * RANDOM.integers(0, 7, (2_400, 1))) * 1024) / 1024
).astype(np.float32)


@pytest.fixture
def saved_at_once(monkeypatch):
    """Let each group of nodes be saved, however quickly it was split."""
    monkeypatch.setattr("ray_kmeans.engine.tree_fit.WORTH_SAVING_S", 0.0)


class Killed(Exception):
    """Ends a fit from the outside."""


def grown(place, clusters=60, **more):
    how = {"levels": 2, "use_mini_batch": False, "random_seed": 4, "config": HERE} | more
    return KMeansClustering(clusters, str(place), **how)


@pytest.mark.parametrize("quota", ["loss", "rows"])
@pytest.mark.parametrize(
    ("levels", "metric", "weighted"),
    [
        ((6, 10), "squared_euclidean", False),
        ((3, 4, 5), "squared_euclidean", True),
        ((6, 10), "cosine", True),
    ],
)
def test_a_tree_is_the_obvious_one(tmp_path, levels, metric, weighted, quota):
    weights = np.arange(len(X)) % 3 if weighted else np.ones(len(X), np.int64)
    given = weights.astype(np.float64) if weighted else None
    km = grown(tmp_path / "m", levels=levels, distance_metric=metric, leaf_quota=quota)
    km.fit(X, steps=4, sample_weight=given)
    flat = KMeansClustering(
        levels[0], str(tmp_path / "top"), random_seed=4, distance_metric=metric,
        use_mini_batch=False, config=HERE,
    ).fit(X, steps=4, sample_weight=given)  # fmt: skip

    x = project(X, km._state().metric)
    centers, labels = flat.clusters(), None
    for depth, size in enumerate(tree.level_sizes(60, levels)[1:], start=1):
        assert np.array_equal(km.tree().centers[depth - 1], centers)
        if labels is None:
            labels = tree_oracle.labels_of(x, centers, metric)
        below, parents, counts = tree_oracle.split(
            x, centers, None, labels, size, 4, metric, weights, 4, depth, quota
        )
        assert np.array_equal(km.tree().parents[depth - 1], parents)
        near = np.empty(len(x), np.int32)
        for node in np.unique(labels):
            own, children = labels == node, np.flatnonzero(parents == node)
            near[own] = children[tree_oracle.labels_of(x[own], below[children], metric)]
        centers, labels = below, near
    if metric == "cosine":  # a norm is rounded otherwise
        np.testing.assert_allclose(km.clusters(), centers, atol=1e-6)
    else:
        assert np.array_equal(km.clusters(), centers)
    assert km.counts().tolist() == counts


def fitted_by(shards, cache, place, narrow=None):
    """Fit a tree by this many shards, whose rows are in a cache."""
    km = grown(place)
    plan = fitting.plan_fit(km._params, HERE, StopRule(5, None, None), None)
    source, blocks = ArraySource.of(X), cut("x", [len(X)], features=3, block_rows=100)
    setup = WorkerSetup(threads=2, row_cache=CacheOptions(cache, narrow=narrow))
    pool = SharedPool(LocalPool(source, split(blocks, shards), setup))
    store = ModelDir.at(str(place), {}, 5)
    with store.take_lease("a test") as held:
        return run_plan(plan, pool, held, lambda event: None)


def test_any_shards_and_any_cache_give_the_same_bits(tmp_path):
    wanted = fitted_by(1, "memory", tmp_path / "one")
    for shards, cache in [(2, "memory"), (7, "memory"), (3, "disk"), (24, "source")]:
        found = fitted_by(shards, cache, tmp_path / f"{shards} {cache}")
        assert np.array_equal(found.centers, wanted.centers), (shards, cache)
        assert np.array_equal(found.counts, wanted.counts)
        assert found.history == wanted.history
        assert all(map(np.array_equal, found.tree.parents, wanted.tree.parents))


def test_rows_in_the_order_of_their_clusters_fit_the_bound_of_copies(tmp_path):
    """A shard may hold rows of one node alone: these are fetched, and not copied all at once."""
    order = np.argsort(X.sum(axis=1), kind="stable")
    sorted_rows = X[order]
    first = grown(tmp_path / "a").fit(sorted_rows, steps=3)
    config = RunConfig(num_workers=0, cache="source", progress=False)
    again = grown(tmp_path / "b", config=config).fit(sorted_rows, steps=3)
    assert np.array_equal(first.clusters(), again.clusters())


@pytest.mark.usefixtures("saved_at_once")
def test_a_killed_fit_goes_on_to_the_same_tree(tmp_path):
    whole, events = grown(tmp_path / "whole", levels=(4, 3, 5), refine_steps=2), []
    whole._listeners.append(events.append)
    whole.fit(X, steps=4)
    kinds = [type(event).__name__ for event in events]
    assert kinds.count("NodesSplit") > 9
    numbers = [*range(1, len(events), 5), kinds.index("NodesSplit") + 2, len(events) - 2]
    for number in numbers:
        km, seen = grown(tmp_path / f"{number}", levels=(4, 3, 5), refine_steps=2), []

        def kill(event, seen=seen, number=number):
            seen.append(event)
            if len(seen) == number:
                raise Killed

        km._listeners.append(kill)
        with pytest.raises(Killed):
            km.fit(X, steps=4)
        km._listeners.clear()
        km.fit(X, steps=4)
        if number < len(events) - 1:  # a fit that had ended makes its last steps once more
            assert np.array_equal(km.clusters(), whole.clusters()), (number, seen[-1])
            assert km.history() == whole.history()
        assert all(map(np.array_equal, km.tree().parents, whole.tree().parents))
        assert not list((tmp_path / f"{number}/restarts").rglob("*"))


@pytest.mark.usefixtures("saved_at_once")
def test_a_kill_costs_the_nodes_that_were_under_way(tmp_path):
    km, splits = grown(tmp_path / "m"), []

    def kill(event):
        splits.extend([event] if isinstance(event, ev.NodesSplit) else [])
        if len(splits) == 2:
            raise Killed

    km._listeners.append(kill)
    with pytest.raises(Killed):
        km.fit(X, steps=4)
    saved = sorted((tmp_path / "m/restarts").glob("*/level-1-*/checkpoints/*.json"))
    times = {path: path.stat().st_mtime_ns for path in saved}
    km._listeners[:] = [
        lambda event: (
            times.update({path: path.stat().st_mtime_ns for path in saved})
            if isinstance(event, ev.NodesSplit) and event.done < event.count
            else None
        )
    ]
    before = dict(times)
    km.fit(X, steps=4)
    assert len(saved) == 2
    assert times == before
    assert np.array_equal(km.clusters(), grown(tmp_path / "whole").fit(X, steps=4).clusters())


def test_steps_over_all_clusters_are_those_of_a_flat_fit_from_the_leaves(tmp_path):
    leaves = grown(tmp_path / "leaves").fit(X, steps=4)
    refined = grown(tmp_path / "refined", refine_steps=3).fit(X, steps=4)
    flat = KMeansClustering(
        60, str(tmp_path / "flat"), leaves.clusters(), use_mini_batch=False, config=HERE
    ).fit(X, steps=3)
    assert np.array_equal(refined.clusters(), flat.clusters())
    assert [line.inertia for line in refined.history()[1:]] == [
        line.inertia for line in flat.history()
    ]
    assert np.array_equal(refined.tree().centers[0], leaves.tree().centers[0])


def test_the_same_call_again_makes_the_steps_over_all_clusters_only(tmp_path):
    km = grown(tmp_path / "m").fit(X, steps=4)
    before = km.clusters()
    assert np.array_equal(km.fit(X, steps=4).clusters(), before)
    again = grown(tmp_path / "m", refine_steps=2).fit(X, steps=4)
    assert len(again.history()) == 3
    assert again.tree() is not None


def test_restarts_are_of_the_top_level(tmp_path):
    km = grown(tmp_path / "m", levels=(6, 10), n_init=3).fit(X, steps=4)
    top = KMeansClustering(
        6, str(tmp_path / "top"), random_seed=4, n_init=3, use_mini_batch=False, config=HERE
    ).fit(X, steps=4)
    assert np.array_equal(km.tree().centers[0], top.clusters())
    assert not list((tmp_path / "m/restarts").rglob("*.json"))


def test_a_session_and_a_labelled_output_take_a_tree(tmp_path):
    alone = grown(tmp_path / "alone").fit(X, steps=4)
    with open_session(X, config=HERE) as session:
        km = session.fit(grown(tmp_path / "m"), steps=4)
    assert np.array_equal(km.clusters(), alone.clusters())
    labelled = grown(tmp_path / "labelled")
    labelled.fit_and_label(X, str(tmp_path / "out"), steps=4)
    assert np.array_equal(labelled.clusters(), alone.clusters())


def test_numbers_of_another_model_move_the_parents_along(tmp_path):
    old = grown(tmp_path / "old").fit(X, steps=4)
    shuffled = np.random.default_rng(1).permutation(60)
    like = KMeansClustering(
        60, str(tmp_path / "like"), old.clusters()[shuffled], use_mini_batch=False, config=HERE
    ).fit(X, steps=1)
    new = grown(tmp_path / "new", renumber_like=like).fit(X, steps=4)
    rows = [row.tobytes() for row in old.clusters()]
    parents = dict(zip(rows, old.tree().parents[-1].tolist(), strict=True))
    moved = [parents[row.tobytes()] for row in new.clusters()]
    assert moved == new.tree().parents[-1].tolist()
    assert not np.array_equal(new.clusters(), old.clusters())


def test_equal_rows_and_as_many_clusters_as_rows_make_a_tree(tmp_path):
    few = np.repeat(X[:10], 6, axis=0)
    km = grown(tmp_path / "m", clusters=30).fit(few, steps=5)
    assert km.clusters().shape == (30, 3)
    every = grown(tmp_path / "every", clusters=40).fit(X[:40], steps=5)
    assert sorted(map(tuple, every.clusters().tolist())) == sorted(map(tuple, X[:40].tolist()))


def test_quotas_are_proportional_and_within_their_bounds():
    random = np.random.default_rng(3)
    for _ in range(300):
        most = random.integers(0, 9, 7).tolist()
        weights = [int(w) if m else 0 for w, m in zip(random.integers(0, 50, 7), most, strict=True)]
        least, all_ = sum(limit > 0 for limit in most), sum(most)
        if not all_:
            continue
        wanted = int(random.integers(least, all_ + 1))
        found = tree.quotas(wanted, weights, most).tolist()
        assert sum(found) == wanted
        assert all(min(limit, 1) <= n <= limit for n, limit in zip(found, most, strict=True))
        if sum(weights):  # whoever has more than another one, beyond a child, is not owed less
            share = [wanted * weight / sum(weights) for weight in weights]
            for n in range(7):
                for m in range(7):
                    if found[n] > 1 and found[m] < most[m]:
                        assert share[m] - found[m] <= share[n] - found[n] + 1 + 1e-9


def test_groups_hold_each_node_once_and_no_more_than_their_share():
    random = np.random.default_rng(3)
    for _ in range(50):
        rows, children = random.integers(0, 100, (2, 40)).tolist()
        groups = list(tree.groups_of(rows, children))
        assert [node for group in groups for node in group] == list(range(40))
        for group in groups:
            for each in (rows, children):
                some = sum(each[node] for node in group)
                assert len(group) == 1 or some <= sum(each) / tree.GROUPS


@pytest.mark.parametrize("levels", [2, 3, (10, 100), (4, 5, 50)])
def test_levels_grow_to_all_clusters(levels):
    sizes = tree.level_sizes(1000, levels)
    assert sizes[-1] == 1000
    assert all(a < b for a, b in pairwise(sizes))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"levels": 1}, "Two levels or more"),
        ({"levels": 7}, "each larger than the one above"),
        ({"levels": (6, 9)}, "makes 54 clusters"),
        ({"levels": (60, 1)}, "each larger"),
        ({"levels": "2"}, "levels='2'"),
        ({"levels": 2.0}, "must be a number of levels"),
        ({"levels": (6, 0)}, "at least 1"),
        ({"use_mini_batch": True}, "use_mini_batch=False"),
        ({"initial_clusters": X[:60]}, "centers of its own"),
        ({"empty_clusters": "farthest"}, "keep theirs"),
        ({"levels": None, "refine_steps": 1}, "without levels"),
        ({"refine_steps": -1}, "0 or more"),
        ({"leaf_quota": "both"}, "leaf_quota='both'"),
    ],
)
def test_what_makes_no_tree_is_refused(tmp_path, more, text):
    with pytest.raises(errors.ConfigError, match=text):
        grown(tmp_path / "m", **more).fit(X)
    assert not (tmp_path / "m").exists()


def test_a_budget_of_time_ends_no_tree(tmp_path):
    with pytest.raises(errors.ConfigError, match="leave no clusters"):
        grown(tmp_path / "m").fit(X, max_seconds=9)


def test_batches_are_joined_for_a_tree(tmp_path):
    joined = grown(tmp_path / "m").fit(iter([X[:900], X[900:]]), steps=3)
    assert np.array_equal(joined.clusters(), grown(tmp_path / "x").fit(X, steps=3).clusters())


def test_the_plan_of_a_tree_counts_what_is_fitted_at_once():
    source = open_source(np.zeros((20_000, 64), np.float32))
    lines = grown("m", clusters=10_000, levels=(100, 100)).explain(source).splitlines()
    assert (
        lines[1]
        == "tree     levels of 100 and 10,000 centers, of which up to 625 are fitted at once"
    )
    flat = KMeansClustering(10_000, use_mini_batch=False, config=HERE).explain(source)
    assert "sends 156.2 KiB of centers" in lines[-1]
    assert "sends 2.4 MiB of centers" in flat
