from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import groupby

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ray_kmeans import kernels
from ray_kmeans.algorithm.metric import Metric, project
from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.data.fingerprint import contents_of
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.sharding import (
    BLOCK_ROWS,
    Block,
    Layout,
    cut,
    split,
)
from ray_kmeans.data.worker_memory import WORKER_BASE_BYTES, Footprint
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.shard import runs_of
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import BudgetError
from ray_kmeans.kernels.moving_sums import join_blocks

SQUARED_EUCLIDEAN, COSINE = Metric

group_rows = st.lists(st.integers(0, 3 * BLOCK_ROWS), max_size=30)


@given(group_rows, st.integers(0, 10**9), st.integers(0, 10**6), st.integers(700, BLOCK_ROWS))
def test_a_file_is_cut_into_every_row_once_in_order(sizes, first, index, block_rows):
    blocks = cut("f", sizes, 8, first, index, block_rows)

    rows = [block.rows for block in blocks]
    before = np.cumsum([0, *rows[:-1]]) if rows else []
    groups = np.cumsum([0, *sizes])
    assert sum(rows) == sum(sizes)
    assert all(0 < n <= block_rows for n in rows)
    assert [block.index for block in blocks] == list(range(index, index + len(blocks)))
    assert [block.first for block in blocks] == [first + n for n in before]
    assert [block.start for block in blocks] == list(before)
    for block in blocks:
        assert block.start == groups[block.group] + block.skip
        assert block.start + block.rows <= groups[block.group + 1]
        assert (block.file, block.features) == ("f", 8)


def test_a_group_is_cut_into_as_few_blocks_as_can_be():
    blocks = cut("f", [BLOCK_ROWS, BLOCK_ROWS + 1, 5], 8)

    assert [block.rows for block in blocks] == [BLOCK_ROWS, BLOCK_ROWS, 1, 5]


@given(group_rows, st.integers(1, 9))
def test_runs_for_readers_are_those_of_the_obvious_way(sizes, readers):
    blocks = cut("f", sizes, 8)

    def obvious():
        groups = [list(group) for _, group in groupby(blocks, key=lambda block: block.group)]
        runs = [[]]
        for group in groups:
            if sum(block.rows for block in runs[-1]) >= sum(b.rows for b in blocks) / readers:
                runs.append([])
            runs[-1] += group
        return runs

    assert [run for _, run in runs_of(blocks, readers)] == obvious()


@pytest.mark.parametrize("files", [1, 15_000])
def test_many_row_groups_are_planned_in_steps_that_grow_as_they_do(files):
    """Counted, not timed: a plan that is quadratic takes thousands of times as many."""
    sizes = [10] * (30_000 // files)
    steps = 0

    class Counted(Block):
        @property
        def place(self):
            return ""

        def __getattribute__(self, name):
            nonlocal steps
            steps += name == "rows"
            return super().__getattribute__(name)

    blocks = [
        Counted(**vars(block))
        for number in range(files)
        for block in cut(f"{number}", sizes, 4, number * len(sizes) * 10, number * len(sizes))
    ]

    shards = split(blocks, 4)
    runs = [run for shard in shards for _, run in runs_of(shard, 4)]
    contents_of(None, Layout(tuple(blocks), 4))

    assert [block.index for run in runs for block in run] == list(range(30_000))
    assert steps < 10 * 30_000


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 20))
def test_small_blocks_are_put_side_by_side_in_their_order(sizes, at_once):
    ends = np.cumsum(sizes)
    rows = np.arange(2.0 * ends[-1], dtype=np.float32).reshape(-1, 2)
    blocks = np.split(rows, ends[:-1])

    parts = list(join_blocks(blocks, at_once))

    np.testing.assert_array_equal(np.concatenate(parts), rows)
    assert all(len(part) <= max(at_once, max(sizes)) for part in parts)


def test_a_layout_counts_its_rows():
    assert Layout(tuple(cut("f", [20_000, 5], 8)), 8).rows == 20_005


@given(group_rows, st.integers(0, 30_000))
def test_the_head_of_a_layout_has_the_first_rows(sizes, rows):
    layout = Layout(tuple(cut("f", sizes, 8)), 8)

    head = layout.head(rows)

    assert (head.rows, head.features) == (min(rows, layout.rows), 8)
    assert all(block.rows > 0 for block in head.blocks)
    for kept, whole in zip(head.blocks, layout.blocks, strict=False):
        assert replace(kept, rows=whole.rows) == whole


@given(st.lists(st.integers(1, BLOCK_ROWS), min_size=1, max_size=40), st.integers(1, 50))
def test_shards_are_the_blocks_in_order_and_about_equal(sizes, n_shards):
    blocks = cut("f", sizes, 8)

    shards = split(blocks, n_shards)

    assert len(shards) == min(n_shards, len(blocks))
    assert all(shards)
    assert [block for shard in shards for block in shard] == blocks
    fair = sum(sizes) / len(shards)
    for shard in shards:
        assert abs(sum(block.rows for block in shard) - fair) <= max(sizes)


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=40),
    st.integers(1, 12),
    st.integers(1, 9),
    st.data(),
)
def test_blocks_that_belong_together_stay_in_one_shard(sizes, n_shards, together, data):
    every = cut("f", sizes, 8)
    there = data.draw(st.lists(st.sampled_from(every), min_size=1, unique=True))
    blocks = [block for block in every if block in there]

    shards = split(blocks, n_shards, together)

    assert [block for shard in shards for block in shard] == blocks
    pieces = [{block.index // together for block in shard} for shard in shards]
    assert sum(map(len, pieces)) == len(set.union(*pieces))
    assert len(shards) == min(n_shards, len(set.union(*pieces)))


@given(st.integers(1, 60), st.integers(1, 60))
def test_shards_of_equal_blocks_differ_by_at_most_one_block(n_blocks, n_shards):
    shards = split(cut("f", [7] * n_blocks, 8), n_shards)

    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@given(st.lists(st.integers(1, 100), min_size=2, max_size=20))
def test_two_shards_are_as_equal_as_can_be(sizes):
    first, second = split(cut("f", sizes, 8), 2)

    difference = abs(sum(block.rows for block in first) - sum(block.rows for block in second))
    cuts = range(1, len(sizes))
    assert difference == min(abs(sum(sizes[:at]) - sum(sizes[at:])) for at in cuts)


def test_one_shard_has_everything():
    blocks = cut("f", [3, 4, 5], 8)

    assert split(blocks, 1) == (tuple(blocks),)


def shard_of(rows=30_000, features=32):
    return tuple(cut("f", [rows], features))


@pytest.mark.parametrize("more", [{"rows": 200_000}, {"features": 33}, {"num_clusters": 51}])
def test_a_worker_needs_more_for_more_of_anything(more):
    def needed(num_clusters=50, **data):
        return Footprint(num_clusters).of(shard_of(**data))

    row = 32 * 4 + 4 + 12  # values, label, seeding
    assert needed(**more) > needed() > WORKER_BASE_BYTES + 30_000 * row


@pytest.mark.parametrize("metric", [SQUARED_EUCLIDEAN, COSINE])
def test_a_worker_that_seeds_holds_twelve_more_bytes_a_row_until_the_end(metric):
    x = np.random.default_rng(0).random((30_000, 4), np.float32)
    source = open_source(x)
    blocks = source.describe().blocks
    worker = ShardWorker(WorkerSetup(metric))
    worker.load(source, blocks)
    seeds = project(x[:20], metric)
    per_row = 12 * len(x)

    def seed():
        worker.weigh(seeds)
        worker.weigh(seeds[:3])

    seed()  # compiles
    worker.end_seeding()
    tracemalloc.start()
    try:
        seed()
        seeding, _ = tracemalloc.get_traced_memory()
        worker.end_seeding()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert per_row <= seeding < per_row + 20_000
    assert after < 20_000


def test_row_groups_that_are_read_whole_are_planned_whole():
    shard = tuple(cut("f", [3 * BLOCK_ROWS, 10], 32)) + tuple(cut("g", [BLOCK_ROWS], 32))

    more = Footprint(50, threads=2, by_group=True).of(shard) - Footprint(50, threads=2).of(shard)

    assert more == 3 * 2 * 2 * BLOCK_ROWS * 4 * 32


def test_rows_on_their_way_to_a_gpu_stand_in_two_stages_of_some_size():
    def staged(rows, size):
        shard = shard_of(rows=rows)
        return Footprint(50, staged_bytes=size).of(shard) - Footprint(50).of(shard)

    row = 4 * 32
    assert staged(30_000, 10**6) == 2 * (10**6 + BLOCK_ROWS * row)
    assert staged(1000, 10**6) == 2 * 1000 * row
    assert staged(1000, 0) == 0


def test_a_worker_needs_more_for_larger_blocks():
    small = tuple(cut("f", [1000] * 16, 32))
    large = (replace(small[0], rows=16_000),)

    assert Footprint(50).of(large) > Footprint(50).of(small)


@pytest.mark.parametrize("metric", [SQUARED_EUCLIDEAN, COSINE])
@pytest.mark.parametrize(("features", "n_clusters"), [(2, 3000), (64, 500), (300, 40), (300, 3000)])
def test_a_sweep_takes_no_more_than_was_promised(features, n_clusters, metric):
    [block] = shard = tuple(cut("x", [64], features))  # the rows are not what takes the memory
    rng = np.random.default_rng(0)
    centers = project(rng.normal(size=(n_clusters, features)), metric)
    kernel = kernels.load("cpu")

    def sweep():
        rows = project(rng.random((block.rows, features), np.float32), metric)
        seen = Partials.zero(n_clusters, features)
        labels = np.empty(len(rows), np.int32)
        kernel.assign(rows, kernel.prepare(centers, metric), labels)
        kernel.accumulate(rows, labels, np.ones(features), seen.sums)
        return seen + seen

    sweep()  # compiles
    tracemalloc.start()
    try:
        sweep()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    promised = Footprint(n_clusters).of(shard) - WORKER_BASE_BYTES
    assert promised / 8 < peak <= promised


def test_what_fits_is_allowed():
    shards = split(shard_of(), 3)
    needed = Footprint(50).most(shards)

    Footprint(50).check(shards, needed)


def test_what_does_not_fit_is_refused_with_both_numbers_and_the_knob():
    shards = split(shard_of(), 3)
    needed = Footprint(50).most(shards)

    with pytest.raises(BudgetError) as caught:
        Footprint(50).check(shards, needed - 1)

    assert (caught.value.needed_bytes, caught.value.allowed_bytes) == (needed, needed - 1)
    for part in (f"{needed:,}", f"{needed - 1:,}", "32 float32", "50 centers", "num_workers"):
        assert part in str(caught.value)


def test_the_worker_with_the_most_rows_decides():
    small, large = tuple(cut("f", [10], 8)), tuple(cut("f", [10_000], 8))
    allowed = Footprint(5).of(small)

    for shards in ((small, large), (large, small)):
        with pytest.raises(BudgetError, match=r"10,000 rows x 8"):
            Footprint(5).check(shards, allowed)
