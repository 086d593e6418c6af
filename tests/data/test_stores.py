"""The same rows and the same fit, bit for bit, wherever the files and the model are."""

from __future__ import annotations

import io
import uuid

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import ConfigError, DataError, NoDataError
from ray_kmeans.io.remote import Remote
from tests.support.files import as_npy
from tests.support.stores import Store, http_files

X = np.random.default_rng(7).normal(size=(20_000, 6)).astype(np.float32)
STORES = ["local", "memory", "s3", "gcs", "azure"]


def as_parquet(rows):
    content = io.BytesIO()
    vectors = pa.array(list(rows), pa.list_(pa.float32(), rows.shape[1]))
    table = pa.table({"v": vectors, "id": [f"row {n}" for n in range(len(rows))]})
    pq.write_table(table, content, row_group_size=3_000)
    return content.getvalue()


FILES = {"parquet": as_parquet, "npy": as_npy}


def a_place_of(request, name, tmp_path):
    """Return a place of its own on a store."""
    if name == "local":
        return Store(str(tmp_path), {})
    if name == "memory":
        return Store(f"memory://{uuid.uuid4().hex}", {})
    store = request.getfixturevalue(name)
    return Store(f"{store.root}/{uuid.uuid4().hex}", store.options, store.endpoint)


@pytest.fixture(params=STORES)
def store(request, tmp_path):
    return a_place_of(request, request.param, tmp_path)


@pytest.fixture(params=[*STORES, "http"])
def readable(request, tmp_path):
    """Give two files of each format on a store, and the URLs of those of one format."""
    if request.param != "http":
        place = a_place_of(request, request.param, tmp_path)
        for format_, write in FILES.items():
            for number, part in enumerate((X[:12_000], X[12_000:])):
                place.put(f"{format_}/{number}.{format_}", write(part))
        yield place, lambda format_: f"{place.root}/{format_}"
        return
    for format_, write in FILES.items():
        for number, part in enumerate((X[:12_000], X[12_000:])):
            (tmp_path / f"{number}.{format_}").write_bytes(write(part))
    with http_files(tmp_path) as place:
        yield place, lambda format_: [f"{place.root}/{n}.{format_}" for n in (0, 1)]


def fit(x, model_dir, options):
    config = RunConfig(num_workers=0, storage_options=options, save_checkpoints_steps=2)
    km = KMeansClustering(5, model_dir, use_mini_batch=False, config=config)
    return km.fit(x, max_steps=6)


@pytest.mark.parametrize("format_", FILES)
def test_files_on_a_store_are_read_like_those_here(readable, format_, tmp_path_factory):
    place, urls = readable
    here = tmp_path_factory.mktemp("here")
    for number, part in enumerate((X[:12_000], X[12_000:])):
        (here / f"{number}.{format_}").write_bytes(FILES[format_](part))

    source = open_source(urls(format_), storage_options=place.options)
    layout, local = source.describe(), open_source(here).describe()

    assert [(b.first, b.rows, b.start, b.skip) for b in layout.blocks] == [
        (b.first, b.rows, b.start, b.skip) for b in local.blocks
    ]
    rows = np.vstack([rows for _, rows in source.read(layout.blocks)])
    assert rows.tobytes() == X.tobytes()


def test_a_fit_on_a_store_is_the_fit_here(store, tmp_path_factory):
    url = store.put("x.parquet", as_parquet(X))
    here = fit(X, str(tmp_path_factory.mktemp("here")), {})

    there = fit(url, f"{store.root}/model", store.options)

    assert there.clusters().tobytes() == here.clusters().tobytes()
    assert there.history() == here.history()
    assert len(there.checkpoints()) > 1


def test_a_fit_goes_on_from_the_model_on_a_store(store, tmp_path_factory):
    here = fit(X, str(tmp_path_factory.mktemp("here")), {})
    config = RunConfig(num_workers=0, storage_options=store.options)
    for steps in (2, 4):
        km = KMeansClustering(5, f"{store.root}/model", use_mini_batch=False, config=config)
        km.fit(X, steps=steps)

    assert km.clusters().tobytes() == here.clusters().tobytes()


def test_a_fit_reads_by_http(tmp_path, tmp_path_factory):
    (tmp_path / "x.npy").write_bytes(as_npy(X))
    here = fit(X, str(tmp_path_factory.mktemp("here")), {})

    with http_files(tmp_path) as place:
        there = fit(f"{place.root}/x.npy", str(tmp_path_factory.mktemp("there")), {})

    assert there.clusters().tobytes() == here.clusters().tobytes()


def test_a_directory_and_a_glob_name_files_on_every_store(store):
    for name in ("a/1.npy", "a/2.npy", "a/b/3.npy", "c/4.npy", "a/_hidden/5.npy"):
        store.put(name, as_npy(np.full((1, 2), int(name[-5]))))

    def rows(url):
        source = open_source(url, storage_options=store.options)
        return [int(part[0, 0]) for _, part in source.read(source.describe().blocks)]

    assert rows(f"{store.root}/a") == [1, 2, 3]
    assert rows(f"{store.root}/a/") == [1, 2, 3]
    assert rows(f"{store.root}/*/[124].npy") == [1, 2, 4]
    assert rows([f"{store.root}/c/4.npy", f"{store.root}/a/1.npy"]) == [4, 1]


def test_a_place_that_is_not_there(store):
    store.put("there/1.npy", as_npy(X[:1]))

    for url in (f"{store.root}/not", f"{store.root}/ther", f"{store.root}/there/2.npy"):
        with pytest.raises(NoDataError, match="does not exist"):
            open_source(url, storage_options=store.options)


def test_storage_options_reach_fsspec_unchanged(monkeypatch):
    seen = {}

    def url_to_fs(url, **options):
        seen.update(options)
        return fsspec.filesystem("memory"), url

    given = {"key": "k", "client_kwargs": {"endpoint_url": "u", "verify": False}, "x": [1, (2,)]}
    monkeypatch.setattr(fsspec.core, "url_to_fs", url_to_fs)

    assert Remote("s3://bucket/x", given).fs.protocol == "memory"
    assert seen == {**given, "use_listings_cache": False}


def test_the_query_of_a_url_is_no_part_of_the_name_of_its_file(tmp_path):
    (tmp_path / "x.npy").write_bytes(as_npy(X[:3]))

    with http_files(tmp_path) as place:
        source = open_source(f"{place.root}/x.npy?X-Amz-Signature=0123abcd")
        [block] = source.describe().blocks
        [(_, rows)] = source.read([block])
        assert block.file == f"{place.root}/x.npy"
        assert rows.tobytes() == X[:3].tobytes()

        with pytest.raises(ConfigError, match=r"two URLs of .*/x\.npy differ after '\?' alone"):
            open_source([f"{place.root}/x.npy?v=1", f"{place.root}/x.npy?v=2"])


def test_a_server_that_ignores_ranges_is_an_error_that_says_so(tmp_path):
    (tmp_path / "x.npy").write_bytes(as_npy(X))

    with http_files(tmp_path, ranges=False) as place, pytest.raises(DataError, match="ranges"):
        open_source(f"{place.root}/x.npy").describe()


def test_a_url_that_is_not_there(tmp_path):
    with http_files(tmp_path) as place, pytest.raises(NoDataError, match="does not exist"):
        open_source(f"{place.root}/x.npy")
