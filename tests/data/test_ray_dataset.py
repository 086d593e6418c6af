"""A Ray dataset is read block by block from the object store, and is what an array of it is."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.data import sharding
from ray_kmeans.data.datasets.ray import RayBlocks
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.stream import is_stream
from ray_kmeans.errors import ConfigError, DataError, NoDataError
from ray_kmeans.testing import SourceContract
from tests.support.files import in_blocks, rows_of

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

ROWS = np.random.default_rng(0).normal(size=(241, 3)).astype(np.float32)
CUTS = [0, 100, 101, 101, 130, 241]
PARTS = [ROWS[begin:end] for begin, end in pairwise(CUTS)]


def quiet():
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data


def tables(kind):
    first = 0
    for part in PARTS:
        names = [f"row {n}" for n in range(first, first + len(part))]
        first += len(part)
        yield pa.table({"name": names, "v": pa.array(list(part), kind)})


FORMS = {
    "tensors": lambda data: data.from_numpy(PARTS),
    "lists": lambda data: data.from_arrow(list(tables(pa.list_(pa.float32())))),
    "fixed lists": lambda data: data.from_arrow(list(tables(pa.list_(pa.float32(), 3)))),
    "pandas": lambda data: data.from_pandas(
        [pd.DataFrame(part, columns=list("abc")) for part in PARTS]
    ),
    "to be run": lambda data: data.from_numpy(PARTS).map_batches(lambda b: {"v": b["data"] * 2}),
}


class TestRayDataset(SourceContract):
    @pytest.fixture(params=FORMS)
    def source_and_rows(self, request):
        x = FORMS[request.param](quiet()).materialize()
        return in_blocks(x, 40), ROWS * 2 if request.param == "to be run" else ROWS


def test_other_columns_are_those_of_the_same_rows():
    source = in_blocks(FORMS["lists"](quiet()), 40)

    blocks = source.describe().blocks
    kept = pa.concat_tables(source.columns_of(block, ["name"]) for block in blocks)

    assert kept["name"].to_pylist() == [f"row {n}" for n in range(241)]
    with pytest.raises(DataError, match=r"columns \['no'\]"):
        source.columns_of(source.describe().blocks[0], ["no"])


def test_what_the_dataset_has_still_to_do_is_done_once():
    x = FORMS["to be run"](quiet())

    source = open_source(x)

    assert not source.only_here
    assert not is_stream(x)
    np.testing.assert_array_equal(rows_of(source), ROWS * 2)


def test_its_blocks_are_those_of_an_array_however_it_is_cut():
    sizes = [block.rows for block in in_blocks(ROWS, 40).describe().blocks]

    for x in (quiet().from_numpy(PARTS), quiet().from_numpy(ROWS)):
        assert [block.rows for block in in_blocks(x, 40).describe().blocks] == sizes


def test_a_fit_by_two_workers_equals_that_on_the_array_bit_for_bit(tmp_path):
    rows = np.random.default_rng(1).normal(size=(30_000, 5)).astype(np.float32)
    x = quiet().from_numpy(np.array_split(rows, 7))

    fits = []
    for name, data, num_workers in [("array", rows, 0), ("ray", x, 2)]:
        config = RunConfig(
            num_workers=num_workers,
            cpus_per_worker=0.5,
            worker_memory_bytes=2**30,
            progress=False,
        )
        km = KMeansClustering(
            8, str(tmp_path / name), random_seed=2, use_mini_batch=False, config=config
        )
        fits.append(km.fit(data, steps=5))

    np.testing.assert_array_equal(fits[0].clusters(), fits[1].clusters())
    assert fits[0].history() == fits[1].history()


def test_a_block_that_ray_cannot_give_is_an_error_that_says_so():
    import ray

    @ray.remote(num_cpus=0)
    def lost():
        raise ValueError("its node is gone")

    source = open_source(quiet().from_numpy(ROWS))
    without = replace(source.tables, refs=(lost.remote(),))

    with pytest.raises(DataError, match=r"a block of the Ray dataset is lost: .*Make the dataset"):
        rows_of(replace(source, tables=without))


@hypothesis.given(rows=st.lists(st.integers(1, 60), min_size=1, max_size=8), picks=st.data())
def test_any_blocks_are_their_rows_however_the_dataset_is_cut(rows, picks):
    import ray

    whole = pa.table({"n": np.arange(sum(rows))})
    ends = [0, *np.cumsum(rows).tolist()]
    refs = [ray.put(whole.slice(a, b - a)) for a, b in pairwise(ends)]
    blocks = sharding.cut("x", [17] * (len(whole) // 17) + [len(whole) % 17 or 1], features=1)
    blocks = [block for block in blocks if block.start + block.rows <= len(whole)]
    chosen = picks.draw(st.lists(st.sampled_from(blocks), max_size=5)) if blocks else []

    tables = RayBlocks(tuple(refs), tuple(rows), whole.schema)

    for block, table in tables.read(chosen, ["n"]):
        assert table["n"].to_pylist() == list(range(block.start, block.start + block.rows))


def test_columns_are_chosen_and_refused_as_those_of_a_table():
    x = FORMS["pandas"](quiet())

    source = open_source(x, columns=["c", "a"])

    [(_, rows)] = source.read(source.describe().blocks)
    np.testing.assert_array_equal(rows, ROWS[:, [2, 0]])
    with pytest.raises(ConfigError, match=r"columns=\['z'\] are not in the Ray dataset"):
        open_source(x, columns=["z"])


def test_a_tensor_is_the_vector_of_its_values():
    pictures = np.arange(24, dtype=np.float32).reshape(4, 2, 3)

    rows = rows_of(quiet().from_numpy(pictures))

    np.testing.assert_array_equal(rows, pictures.reshape(4, 6))


def test_vectors_of_different_lengths_are_named():
    x = quiet().from_arrow([pa.table({"v": [[1.0, 2.0]]}), pa.table({"v": [[3.0]]})])

    with pytest.raises(DataError, match="row 1 has 1 features where the first row of the data"):
        rows_of(x)


def test_a_dataset_without_a_row():
    with pytest.raises(NoDataError, match="x is a Ray dataset without a row"):
        open_source(quiet().from_arrow(pa.table({"a": pa.array([], pa.float32())})))
