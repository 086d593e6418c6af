"""Rows that come in a narrow type can stay in it: the same bits in less memory."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ray_kmeans import KMeansClustering, RunConfig, open_source
from ray_kmeans.algorithm.dtypes import (
    BFLOAT16,
    STORED,
    narrowed,
    widened,
)
from ray_kmeans.data.sharding import split
from ray_kmeans.data.worker_memory import Footprint
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.row_cache import (
    DISK,
    MEMORY,
    SOURCE,
    CacheOptions,
)
from ray_kmeans.errors import BudgetError, DataError
from ray_kmeans.workflows.worker_plan import plan_shards
from tests.support.files import in_blocks, put, put_array, put_table, rows_of

TYPES = ["float16", "int8", "uint8"]


def rows_in(kind, n=420, d=6):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(n, d)) + rng.integers(0, 4, (n, 1)) * 3
    return (np.abs(values) * 12).astype(kind)


@pytest.mark.parametrize("name", STORED)
def test_what_a_narrow_type_holds_comes_back_as_it_was(name):
    bits = np.arange(256, dtype=np.uint8) if name.endswith("int8") else np.arange(2**16)
    stored = bits.astype(np.uint16 if STORED[name] in (np.float16, np.uint16) else np.uint8)
    stored = stored.view(STORED[name])

    rows = widened(stored, name)

    assert rows.dtype == np.float32
    finite = np.isfinite(rows)
    np.testing.assert_array_equal(narrowed(rows, name)[finite], stored[finite])


@given(arrays(np.float32, 5, elements=st.floats(width=32, allow_nan=False)))
def test_bfloat16_is_the_upper_half_of_a_float32(values):
    expected = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)

    np.testing.assert_array_equal(widened(narrowed(values, BFLOAT16), BFLOAT16), expected)


FITS = {
    "full batch": {"use_mini_batch": False},
    "cosine": {"use_mini_batch": False, "distance_metric": "cosine"},
    "mini-batch": {"use_mini_batch": True},
    "k-means++": {"use_mini_batch": False, "initial_clusters": "kmeans_plus_plus"},
}


@pytest.mark.parametrize("what", FITS)
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("place", [MEMORY, DISK])
def test_a_fit_on_narrow_rows_has_the_bits_of_the_same_values_in_float32(
    place, kind, what, tmp_path
):
    X = rows_in(kind)
    size = 100 if FITS[what]["use_mini_batch"] else None
    models = []
    for name, rows, keep in (("wide", X.astype(np.float32), MEMORY), ("narrow", X, place)):
        source = in_blocks(rows, 50)
        blocks = source.describe().blocks
        memory = Footprint(7, size or 0, kept=False, item_bytes=X.itemsize).of(tuple(blocks))
        config = RunConfig(
            num_workers=0,
            cpus_per_worker=1,
            cache=keep,
            cache_dir=str(tmp_path),
            worker_memory_bytes=memory if name == "narrow" else None,
        )
        km = KMeansClustering(7, str(tmp_path / name), random_seed=3, config=config, **FITS[what])
        models.append(km.fit(source, batch_size=size, max_steps=10))

    wide, narrow = models
    assert wide.history() == narrow.history()
    np.testing.assert_array_equal(wide.clusters(), narrow.clusters())
    assert wide.score(x=X) == wide.score(x=X.astype(np.float32))


def pool_of(source, keep):
    return LocalPool(source, split(source.describe().blocks, 2), WorkerSetup(row_cache=keep))


@pytest.mark.parametrize("kind", [*TYPES, BFLOAT16])
def test_rows_in_memory_take_the_bytes_of_their_type(kind):
    wide = rows_in("float32")
    wide = widened(narrowed(np.floor(wide), kind), kind)
    source = in_blocks(wide, 50)
    pool = pool_of(source, CacheOptions(MEMORY, narrow=kind))
    pool.summarize()

    held = [worker._shard.rows._rows for worker in pool._workers]
    kept = sum(block.nbytes for blocks in held for block in blocks.values())

    assert kept == wide.size * np.dtype(STORED[kind]).itemsize
    plain = pool_of(source, CacheOptions(MEMORY))
    assert plain.summarize().digest == pool.summarize().digest
    np.testing.assert_array_equal(plain.rows_at(np.arange(420)), pool.rows_at(np.arange(420)))


def test_values_that_the_planned_type_does_not_hold_are_an_error_and_never_rounded():
    source = in_blocks(rows_in("float32"), 50)

    with pytest.raises(DataError, match="not int8, as was planned"):
        pool_of(source, CacheOptions(MEMORY, narrow="int8")).summarize()


def vectors(rows, kind):
    values = pa.array(rows.ravel()).cast(kind)
    return pa.table({"v": pa.FixedSizeListArray.from_arrays(values, rows.shape[1])})


@pytest.mark.parametrize("kind", TYPES)
def test_files_say_their_type_before_they_are_read(kind, root):
    X = rows_in(kind)
    put_table(root, "p/a.parquet", vectors(X, pa.from_numpy_dtype(X.dtype)))
    put_array(root, "n/a.npy", X)
    put_array(root, "m/a.npy", X)
    put_array(root, "m/b.npy", X.astype(np.float32))

    for place in (f"{root}/p", f"{root}/n"):
        source = open_source(place)
        assert source.describe().narrow == kind
        np.testing.assert_array_equal(rows_of(source), X.astype(np.float32))
    assert open_source(f"{root}/m").describe().narrow is None
    assert open_source(X).describe().narrow == kind
    assert open_source(X.astype(np.float64)).describe().narrow is None


def test_bfloat16_of_safetensors_says_its_type(root):
    import json

    bits = narrowed(rows_in("float32"), BFLOAT16)
    header = {"x": {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [0, bits.nbytes]}}
    head = json.dumps(header).encode()
    content = len(head).to_bytes(8, "little") + head + bits.tobytes()
    put(root, "x.safetensors", lambda file: file.write(content))

    source = open_source(f"{root}/x.safetensors")

    assert source.describe().narrow == BFLOAT16
    np.testing.assert_array_equal(rows_of(source), widened(bits, BFLOAT16))


@pytest.mark.parametrize(
    ("wanted", "room", "expected"),
    [
        ("auto", "float32", (MEMORY, None)),
        ("auto", "int8", (MEMORY, "int8")),
        ("auto", "a block", (DISK, "int8")),
        ("memory", "int8", (MEMORY, "int8")),
        ("memory", "a block", None),
        ("disk", "float32", (DISK, "int8")),
        ("source", "float32", (SOURCE, None)),
    ],
)
def test_rows_are_kept_in_the_first_place_that_has_room(wanted, room, expected, caplog):
    layout = open_source(np.zeros((50_000, 64), np.int8)).describe()
    shard = layout.blocks
    memory = {
        "float32": Footprint(7).of(shard),
        "int8": Footprint(7, kept=False, item_bytes=1).of(shard),
        "a block": Footprint(7, kept=False).of(shard),
    }[room]
    config = RunConfig(num_workers=0, cpus_per_worker=1, cache=wanted, worker_memory_bytes=memory)
    caplog.set_level(logging.WARNING, "ray_kmeans")

    if expected is None:
        with pytest.raises(BudgetError):
            plan_shards(layout, 7, config)
        return
    keep = plan_shards(layout, 7, config)[1].row_cache

    assert (keep.cache, keep.narrow) == expected
    first = wanted in ("disk", "source") or expected == (MEMORY, None)
    assert bool(caplog.text) == (not first)
