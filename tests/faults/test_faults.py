"""A store that fails now and then is waited for; one that stays down is named, and soon."""

from __future__ import annotations

import itertools
import time
import uuid
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import s3fs
from fsspec.implementations.local import LocalFileSystem

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.data.opening import open_source
from ray_kmeans.demo import DATA
from ray_kmeans.errors import StoreError
from ray_kmeans.io import publish, retry
from ray_kmeans.io.remote import Remote
from ray_kmeans.store.model_dir import ModelDir
from tests.support.faults import (
    CUT,
    CUT_BODY,
    DELAY,
    LOST,
    ONWARD,
    SLOW_DOWN,
    STALL,
    Shares,
    faulty,
)
from tests.support.files import put_table, rows_of
from tests.support.servers import free_port
from tests.support.store_contract import assert_same, state_at
from tests.support.stores import s3_at

FAULTS = [SLOW_DOWN, CUT, CUT_BODY, STALL, DELAY, LOST]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(retry, "PATIENT", retry.Policy(longest_pause_s=0.05))
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)  # the patience is to be ours


@contextmanager
def through(store, fate):
    """Give the store as it is seen through a proxy, by a client that tries once."""
    with faulty(fate, store.endpoint) as endpoint:
        yield replace(store, options=impatient_client(endpoint).options)


def impatient_client(endpoint):
    once = {"retries": {"max_attempts": 0}, "connect_timeout": 1, "read_timeout": 0.4}
    return s3_at(endpoint, config_kwargs=once, skip_instance_cache=True)


@pytest.fixture(scope="module")
def wordnet(s3):
    """Put the embeddings of the demo on the store; return where they are."""
    place = replace(s3, root=f"{s3.root}/wordnet/data")
    for path in sorted(Path(DATA).glob("*.parquet")):
        place.put(path.name, path.read_bytes())
    return place


@pytest.fixture(scope="module")
def fitted_here(tmp_path_factory):
    return fit(rows_of(DATA), tmp_path_factory.mktemp("here"), {})


def fit(x, model_dir, options):
    config = RunConfig(num_workers=0, storage_options=options, save_checkpoints_steps=1)
    km = KMeansClustering(8, str(model_dir), use_mini_batch=False, config=config)
    return km.fit(x, steps=3)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_request_that_fails_once_is_made_again(s3, fault):
    url = s3.put(f"{uuid.uuid4().hex}/x", b"0123456789")
    seen = []

    def once(request):
        seen.append(request)
        return fault if len(seen) == 1 else ONWARD

    with through(s3, once) as store:
        there = Remote(url, store.options)
        assert there.fs.cat_file(there.path, start=2, end=5) == b"234"

    assert len(seen) > (fault not in (DELAY,))


@pytest.mark.long(kind="write that fails")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_write_that_fails_now_and_then_is_whole(s3, fault):
    requests = itertools.count()

    def every_fourth(request):
        return fault if next(requests) % 4 == 3 else ONWARD

    with through(s3, every_fourth) as store:
        model = ModelDir.at(f"{s3.root}/{uuid.uuid4().hex}", store.options, keep=1)
        for iteration in (1, 2):
            model.save(state_at(iteration))
            assert_same(model.latest(), state_at(iteration))

    assert next(requests) > 20


@pytest.mark.parametrize("fault", [LOST, CUT, SLOW_DOWN])
def test_a_creation_whose_answer_was_lost_is_known_as_ours(s3, fault):
    seen = []

    def once(request):
        seen.append(request)
        return fault if len(seen) == 1 else ONWARD

    with through(s3, once) as store:
        place = Remote(f"{s3.root}/{uuid.uuid4().hex}", store.options)
        assert publish.create(place.fs, place.path, b"mine")
        assert not publish.create(place.fs, place.path, b"of another")
        assert place.fs.cat_file(place.path) == b"mine"

    assert seen[0] == seen[1]  # it was made again


def test_a_fit_through_a_store_that_fails_two_requests_in_ten_has_the_same_bits(
    s3, wordnet, fitted_here
):
    shares = Shares(0, {SLOW_DOWN: 0.1, CUT: 0.04, CUT_BODY: 0.04, STALL: 0.01, LOST: 0.01})
    model_dir = wordnet.root.replace("/data", "/model")

    with through(wordnet, shares) as store:
        there = fit(f"{wordnet.root}/*.parquet", model_dir, store.options)

        assert there.clusters().tobytes() == fitted_here.clusters().tobytes()
        assert there.history() == fitted_here.history()
    failed = sum(shares.met.values()) - shares.met[ONWARD]
    assert failed > 0.05 * sum(shares.met.values())
    assert len(shares.met) > 3


class Outage:
    """The store is down for some seconds from the request that `begins` tells."""

    def __init__(self, begins, fate, seconds=1.5):
        self._begins, self._fate, self._seconds = begins, fate, seconds
        self._ends = None
        self.failed = 0

    def __call__(self, request):
        if self._ends is None and self._begins(request):
            self._ends = time.monotonic() + self._seconds
        if self._ends is None or time.monotonic() >= self._ends:
            return ONWARD
        self.failed += 1
        return self._fate


@pytest.mark.long(kind="store that is down")
@pytest.mark.parametrize(
    ("begins", "fate"),
    [
        (lambda request: request.startswith("PUT") and "-iteration-2.json" in request, CUT),
        (lambda request: request.startswith("PUT") and "centers.npy" in request, SLOW_DOWN),
        (lambda request: request.startswith("GET") and "part-1.parquet" in request, CUT),
    ],
    ids=["commit", "arrays", "reading"],
)
def test_a_fit_waits_for_a_store_that_is_down_and_goes_on(
    wordnet, fitted_here, monkeypatch, caplog, begins, fate
):
    monkeypatch.setattr(retry, "PATIENT", replace(retry.PATIENT, quiet_s=0.5))
    outage = Outage(begins, fate)
    model_dir = wordnet.root.replace("/wordnet/data", f"/{uuid.uuid4().hex}")

    with through(wordnet, outage) as store:
        there = fit(f"{wordnet.root}/*.parquet", model_dir, store.options)

        assert there.clusters().tobytes() == fitted_here.clusters().tobytes()
        assert there.history() == fitted_here.history()
        assert len(there.checkpoints()) == 4
    assert outage.failed > 1
    assert "it is made again for up to 90 s" in caplog.text


@pytest.mark.parametrize("where", ["", "/*.parquet", "/**/*.parquet", "/part-1.parquet"])
@pytest.mark.parametrize("seed", range(2))
def test_no_file_is_missed_where_requests_fail(wordnet, where, seed):
    names = sorted(path.name for path in Path(DATA).glob(where[1:] or "*.parquet"))

    with through(wordnet, Shares(seed, {SLOW_DOWN: 0.3})) as store:
        source = open_source(f"{wordnet.root}{where}", storage_options=store.options)

    assert [file.path.rsplit("/", 1)[-1] for file in source.files] == names


@pytest.mark.parametrize("where", ["", "/**/*.parquet"])
def test_a_folder_that_cannot_be_listed_is_an_error_not_an_empty_one(where, monkeypatch, tmp_path):
    for name in ("a", "b"):
        put_table(tmp_path, f"{name}/x.parquet", pa.table({"v": [1.0]}))
    ls = LocalFileSystem.ls

    def broken(fs, path, *args, **kwargs):
        if path.endswith("/b"):
            raise OSError(5, "Input/output error")
        return ls(fs, path, *args, **kwargs)

    monkeypatch.setattr(LocalFileSystem, "ls", broken)

    with pytest.raises(StoreError, match=r"cannot be listed.*Input/output error"):
        open_source(f"{tmp_path}{where}")


def down(outcome):
    """Give a store that is down in some way, and what its clients say of it."""
    if outcome == "refused":
        return faulty(lambda _: CUT), f"http://127.0.0.1:{free_port()}"
    return faulty(lambda _: outcome), None


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        (SLOW_DOWN, "reduce your request rate|Service Unavailable"),
        (CUT, "Error"),
        ("refused", "onnect"),
    ],
)
def test_a_store_that_stays_down_is_named_with_attempts_and_cause(
    outcome, cause, monkeypatch, tmp_path
):
    monkeypatch.setattr(retry, "PATIENT", replace(retry.PATIENT, patience_s=0.0, attempts=2))
    proxy, endpoint = down(outcome)
    began = time.monotonic()

    with proxy as answering:
        options = impatient_client(endpoint or answering).options
        for call in (
            lambda: open_source("s3://bucket/data", storage_options=options),
            lambda: open_source("s3://bucket/*.npy", storage_options=options),
            lambda: fit("s3://bucket/data/x.npy", tmp_path, options),
            lambda: fit(np.ones((9, 2)), "s3://bucket/model", options),
        ):
            with pytest.raises(StoreError, match=rf"after 2 attempts: .*({cause})") as caught:
                call()
            assert "s3://bucket/" in str(caught.value)

    assert time.monotonic() - began < 60


def test_a_store_that_goes_down_while_it_is_read_is_named(wordnet, monkeypatch):
    monkeypatch.setattr(retry, "PATIENT", replace(retry.PATIENT, patience_s=0.0, attempts=2))
    up = [True]

    with through(wordnet, lambda _: ONWARD if up[0] else SLOW_DOWN) as store:
        source = open_source(wordnet.root, storage_options=store.options)
        blocks = source.describe().blocks
        up[0] = False
        with pytest.raises(StoreError, match=r"part-0\.parquet failed after 2 attempts: .*"):
            list(source.read(blocks))


def test_the_same_requests_meet_the_same_fate():
    requests = [f"GET /x bytes={n}" for n in range(200)] * 2
    first, second = Shares(3, {503: 0.2}), Shares(3, {503: 0.2})

    fates = list(map(first, requests))

    assert fates == list(map(second, requests))
    assert sorted(map(Shares(3, {503: 0.2}), reversed(requests)), key=str) == sorted(fates, key=str)
    assert 0.15 < fates.count(503) / len(fates) < 0.25


def test_what_is_here_is_asked_for_once(monkeypatch, tmp_path):
    calls = []

    def broken(fs, path, **kwargs):
        calls.append(path)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(LocalFileSystem, "cat_file", broken)

    with pytest.raises(StoreError, match=r"x failed: OSError.*Input/output error"):
        Remote(str(tmp_path), {}).fs.cat_file("x")
    assert calls == ["x"]
