"""Workers that die, lag or come late change when a sum is known, and no bit of it."""

from __future__ import annotations

import os
import random
import signal
import time

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.batch_rows import Batches
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.sharding import split
from ray_kmeans.engine.options import WorkerOptions, Workload
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import ConfigError, WorkersLostError
from ray_kmeans.observe import events as ev
from ray_kmeans.on_ray import driver, worker_group
from ray_kmeans.on_ray.calls import LagRule
from ray_kmeans.on_ray.worker_group import place_shards
from tests.support.ray_runs import comes_true, nothing_stays, write_real_data

__all__ = ["nothing_stays"]

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return write_real_data(tmp_path_factory.mktemp("real") / "data")


class Team:
    """A pool on Ray beside the local one on the same data, and what it tells."""

    def __init__(self, uri, shards, **options):
        source = open_source(uri)
        self.events = []
        options = {"worker_start_timeout_s": 60, "worker_replace_timeout_s": 30, **options}
        self.pool = driver.open_pool(
            Workload(
                source, split(source.describe().blocks, shards), WorkerOptions(0.1, **options)
            ),
            "squared_euclidean",
            self.events.append,
        )
        self.local = LocalPool(source, split(source.describe().blocks, 1))
        summaries = [pool.summarize() for pool in (self.local, self.pool)]
        assert len({summary.digest for summary in summaries}) == 1
        self.centers = self.local.rows_at(np.arange(0, 4000, 200))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.pool.close()

    def pids(self):
        """Return the process of each shard."""
        return [pid for _, pid in self.pool.ask(ShardWorker.where)]

    def check(self):
        """Sweep by both pools; the sums must be equal. Moves the centers."""
        ours, theirs = self.pool.sweep(self.centers), self.local.sweep(self.centers)
        np.testing.assert_array_equal(ours.sums, theirs.sums)
        np.testing.assert_array_equal(ours.counts, theirs.counts)
        self.centers = self.centers + np.float32(0.01) * np.roll(self.centers, 1, axis=0)

    def kinds(self):
        return [type(event) for event in self.events]


def test_shards_go_to_the_host_with_the_fewest_rows_that_has_room():
    rows = [50, 40, 30, 20]

    assert place_shards(rows, {}, ["a", "b"], None) == {0: "a", 1: "b", 2: "b", 3: "a"}
    assert place_shards(rows, {0: "a", 1: "b"}, ["a", "b"], None) == {2: "b", 3: "a"}
    assert place_shards(rows, {0: "a", 1: "b"}, ["a", "b"], 60) == {3: "b"}
    assert place_shards(rows, {}, ["a"], 10) == {0: "a"}  # an empty host takes a shard of any size
    assert place_shards(rows, {}, [], None) == {}


def test_survivors_take_over_where_no_other_worker_comes_in_time(uri, nothing_stays):
    with Team(uri, 3, worker_replace_timeout_s=0.0) as team:
        team.check()
        before = team.pids()
        os.kill(before[1], signal.SIGKILL)

        team.check()
        after = team.pids()

        assert before[1] not in after
        assert set(after) <= {before[0], before[2]}
        assert team.kinds().count(ev.WorkerReplaced) == 1
        team.check()


@pytest.mark.long(kind="crew that grows")
def test_a_worker_that_comes_later_takes_its_share(uri, nothing_stays):
    with Team(uri, 4, num_workers=4, worker_replace_timeout_s=0.0) as team:
        victims = team.pids()[:2]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        team.check()
        assert len(set(team.pids())) == 2

        def all_are_back():
            team.check()
            return len(set(team.pids())) == 4

        assert comes_true(all_are_back)
        assert not set(victims) & set(team.pids())
        assert ev.WorkersJoined in team.kinds()


@pytest.mark.long(kind="crew that grows")
def test_a_pool_grows_to_the_most_workers_and_keeps_the_bits(uri, nothing_stays):
    with Team(uri, 5, num_workers=1, max_workers=5) as team:
        seen = set()

        def has_grown():
            team.check()
            seen.add(len(set(team.pids())))
            return 5 in seen

        assert comes_true(has_grown)
        assert min(seen) < 5


@pytest.mark.long(kind="crew that grows")
def test_it_starts_with_the_fewest_workers_where_no_more_come(uri, nothing_stays):
    source = open_source(uri)
    shards = split(source.describe().blocks, 3)
    events = []
    options = WorkerOptions(
        5, worker_start_timeout_s=8, min_workers=1
    )  # one has room on eight CPUs
    pool = driver.open_pool(Workload(source, shards, options), "squared_euclidean", events.append)
    try:
        assert pool.summarize().rows == 4000
        assert len(set(pool.ask(ShardWorker.where))) == 1
    finally:
        pool.close()


def test_no_host_holds_more_rows_than_it_may(uri, nothing_stays):
    with Team(
        uri, 2, worker_replace_timeout_s=0.0, worker_start_timeout_s=30, most_rows=2100
    ) as team:
        os.kill(team.pids()[0], signal.SIGKILL)
        team.check()  # the survivor is full, so another worker is awaited
        assert len(set(team.pids())) == 2


def test_where_there_is_no_room_at_all_it_says_so(uri):
    source = open_source(uri)
    shards = split(source.describe().blocks, 2)
    options = WorkerOptions(
        4, worker_start_timeout_s=20, worker_replace_timeout_s=0.0, most_rows=2100
    )
    pool = driver.open_pool(
        Workload(source, shards, options), "squared_euclidean", lambda event: None
    )
    try:
        pool.summarize()
        pids = [pid for _, pid in pool.ask(ShardWorker.where)]
        pool._group.options = WorkerOptions(
            99, worker_start_timeout_s=1, worker_replace_timeout_s=0.0, most_rows=2100
        )
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(WorkersLostError, match="1 workers are left and have no room for 2,"):
            pool.ask(ShardWorker.where)
    finally:
        pool.close()


def test_the_work_of_a_worker_that_lags_is_done_by_the_others(uri, nothing_stays):
    with Team(uri, 3) as team:
        team.pool.lag_rule = LagRule(least_s=0.3)
        team.check()
        slow = team.pids()[0]
        os.kill(slow, signal.SIGSTOP)
        try:
            begin = time.monotonic()
            team.check()
            assert time.monotonic() - begin < 20
            assert slow not in team.pids()
            assert team.kinds().count(ev.WorkersLag) == 1
            team.check()
        finally:
            os.kill(slow, signal.SIGCONT)

        def is_back():
            team.check()
            return slow in team.pids()

        assert comes_true(is_back)


def test_a_worker_that_stops_for_good_is_left_behind(uri):
    with Team(uri, 2) as team:
        team.pool.lag_rule = LagRule(least_s=0.3)
        stopped = team.pids()[1]
        os.kill(stopped, signal.SIGSTOP)
        team.check()
        os.kill(stopped, signal.SIGKILL)
        for _ in range(3):
            team.check()
        assert stopped not in team.pids()


@pytest.mark.long(kind="crew that grows")
@pytest.mark.parametrize("kill", [False, True])
def test_sums_that_are_added_up_in_slices_are_the_same(uri, kill, nothing_stays):
    with Team(uri, 4) as team:
        team.pool.slice_from = 0
        assert team.pool._slices_for(team.centers) == 4
        team.check()
        if kill:
            os.kill(team.pids()[2], signal.SIGKILL)
        team.check()
        batches = Batches(4000, 900, seed=1)
        ours, theirs = (
            pool.sweep_batches(team.centers, batches, 1, 3) for pool in (team.pool, team.local)
        )
        np.testing.assert_array_equal(ours.partials.sums, theirs.partials.sums)
        np.testing.assert_array_equal(ours.partials.counts, theirs.partials.counts)
        assert ours.losses == theirs.losses


def test_a_host_that_dies_while_slices_are_added_up_costs_time_only(uri):
    with Team(uri, 3) as team:
        team.pool.slice_from = 0
        team.check()
        gather, victim = team.pool._gather, team.pids()[0]

        def gather_then_kill(submit):
            answers = gather(submit)
            os.kill(victim, signal.SIGKILL)
            del team.pool._gather  # the next time as ever
            return answers

        team.pool._gather = gather_then_kill
        team.check()
        assert victim not in team.pids()


@pytest.mark.long
def test_kills_at_random_moments_change_no_bit(uri, nothing_stays):
    chance = random.Random(0)
    with Team(uri, 4, worker_replace_timeout_s=0.0) as team:
        for _ in range(25):
            if chance.random() < 0.4:
                os.kill(chance.choice(team.pids()), signal.SIGKILL)
            team.check()
        assert ev.WorkerReplaced in team.kinds()


@pytest.mark.long(kind="crew that grows")
def test_a_fit_that_may_grow_has_the_bits_of_one_that_may_not(uri, tmp_path):
    fits = [
        KMeansClustering(
            12,
            str(tmp_path / name),
            use_mini_batch=False,
            random_seed=3,
            config=RunConfig(progress=False, **config),
        ).fit(uri, steps=12)
        for name, config in {
            "local": {"num_workers": 0},
            "grows": {"num_workers": 1, "min_workers": 1, "max_workers": 4},
        }.items()
    ]

    assert fits[0].history() == fits[1].history()
    np.testing.assert_array_equal(fits[0].clusters(), fits[1].clusters())


class Broken:
    """Ends before it answers, as where the package cannot be imported."""

    def __init__(self, *_):
        raise ModuleNotFoundError("No module named 'numba'")

    def hello(self): ...


def test_workers_that_die_as_they_start_are_not_started_for_ever(uri, nothing_stays, monkeypatch):
    monkeypatch.setattr(worker_group, "KMeansWorker", Broken)

    with pytest.raises(
        WorkersLostError, match=r"3 workers in a row died .*'numba' Install .* 0\.1"
    ):
        Team(uri, 2)


def test_workers_of_another_version_are_refused(uri, nothing_stays, monkeypatch):
    monkeypatch.setattr(worker_group, "__version__", "7.0")

    with pytest.raises(ConfigError, match=r"have ray_kmeans \d\S* and this process has 7\.0"):
        Team(uri, 2)
