"""The loop that collects answers counts each shard once, and never waits for nothing."""

from __future__ import annotations

import time

import pytest

from ray_kmeans.engine.options import WorkerOptions
from ray_kmeans.on_ray import pool as ray_pool
from ray_kmeans.on_ray.calls import LagRule
from ray_kmeans.on_ray.death_counts import ShardLosses
from ray_kmeans.on_ray.pool import RayPool
from ray_kmeans.on_ray.worker_group import WorkerGroup

AT_ONCE = LagRule(factor=0.0, least_s=0.0)
"""By this rule all lag who have not answered when the first one has."""


class Answers:
    """Stands for Ray: a call answers with its group, in the order that a test sets."""

    def __init__(self, order):
        self.order = list(order)
        self.submitted = []

    def submit(self, worker, group):
        self.submitted.append((worker, group))
        return worker, group

    def wait(self, pending, num_returns, timeout):
        assert pending, "nothing is waited for"
        for call in self.order:
            if call in pending:
                self.order.remove(call)
                return [call], []
        return ([], list(pending)) if timeout is not None else ([pending[0]], pending[1:])

    def get(self, call):
        return call[1]


@pytest.fixture
def pool():
    """Two workers: 'slow' is home of shards 0 and 1, and 'quick' of shard 2, with room for one."""
    options = WorkerOptions(1, 1, most_rows=20)
    pool = object.__new__(RayPool)
    pool._group = WorkerGroup("squared_euclidean", options, lambda event: None)
    pool._group.workers = ["slow", "quick"]
    pool._emit, pool._is_loaded, pool._moving = (lambda event: None), False, {}
    pool._shards, pool._rows = [(), (), ()], [10, 10, 10]
    pool._home = {0: "slow", 1: "slow", 2: "quick"}
    pool._losses = ShardLosses()
    return pool


def test_what_helpers_have_no_room_for_is_done_by_who_lags(pool, monkeypatch):
    pool.lag_rule = AT_ONCE
    both, helped = ("slow", (0, 1)), ("quick", (0,))
    ray = Answers([("quick", (2,)), helped, both])
    monkeypatch.setattr(ray_pool, "ray", ray)

    def wait_for_help(pending, num_returns, timeout):
        if timeout is not None and helped not in ray.submitted:
            return [], list(pending)
        return Answers.wait(ray, pending, num_returns, timeout)

    ray.wait = wait_for_help

    answers = pool._gather(ray.submit)

    assert sorted(shard for group in answers for shard in group) == [0, 1, 2]
    assert ray.submitted[-1] == ("slow", (1,))  # the sum of both shards counts for none


def test_the_answer_of_who_lags_counts_for_the_whole_group_where_no_helper_was_sooner(
    pool, monkeypatch
):
    ray = Answers([("quick", (2,)), ("slow", (0, 1))])
    monkeypatch.setattr(ray_pool, "ray", ray)

    answers = pool._gather(ray.submit)

    assert set(answers) == {(0, 1), (2,)}
    assert pool.answered <= time.perf_counter()


def test_what_a_helper_did_in_vain_may_be_done_by_a_helper_again(pool, monkeypatch):
    pool._group.workers = ["slow", "stopped", "quick"]
    pool._group.options = WorkerOptions(1, 1)
    pool._home = {0: "slow", 1: "stopped", 2: "quick"}
    help_twice = [("quick", (0, 1)), ("slow", (1,))]
    ray = Answers([("quick", (2,)), ("slow", (0,)), *help_twice])
    monkeypatch.setattr(ray_pool, "ray", ray)
    pool.lag_rule = AT_ONCE
    pool._group.set_aside = lambda worker: None

    def wait_for_help(pending, num_returns, timeout):
        """Let workers answer late: the slow one after it was helped, the stopped one never."""
        if timeout is not None and help_twice[0] not in ray.submitted:
            return [], list(pending)
        assert timeout is not None or any(call in ray.order for call in pending), "it hangs"
        return Answers.wait(ray, pending, num_returns, timeout)

    ray.wait = wait_for_help

    answers = pool._gather(ray.submit)

    assert set(answers) == {(2,), (0,), (1,)}
