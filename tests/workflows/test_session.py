"""A session reads once, and every call through it gives what the call gives with the data."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pytest

from ray_kmeans import KMeansClustering, Monitor, RunConfig, open_session, open_source
from ray_kmeans.data.sharding import Layout, cut, split
from ray_kmeans.data.worker_memory import Footprint
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import ConfigError, StoreError
from ray_kmeans.store.labelled import MANIFEST
from ray_kmeans.store.model_dir import ModelDir
from tests.support.files import in_blocks, put_table
from tests.support.labelled_files import Cut, cut_after, files_of

HERE = RunConfig(num_workers=0, cpus_per_worker=2, progress=False)
N, D = 600, 4
RNG = np.random.default_rng(19)
X = (RNG.integers(-3, 4, (N, 1)) * 5 + RNG.normal(size=(N, D))).astype(np.float32)
WEIGHT = RNG.integers(0, 4, N) / 4
COLUMNS = [f"c{number}" for number in range(D)]


def pairs_of_rows(sample, missing):
    """Return centers of which every other one is a copy, so that half of the clusters are empty."""
    return np.repeat(sample[: missing // 2 + 1], 2, axis=0)[:missing]


FULL, MINI = {"use_mini_batch": False}, {"use_mini_batch": True}
FITS = {
    "random": (7, FULL | {"initial_clusters": "random"}, {"steps": 6}),
    "k-means++": (3, FULL | {"initial_clusters": "kmeans_plus_plus"}, {}),
    "k-means||": (9, FULL | {"initial_clusters": "kmeans_parallel"}, {"steps": 5}),
    "AFK-MC2, mini-batch": (
        2,
        MINI | {"initial_clusters": "kmc2"},
        {"batch_size": 150, "steps": 9},
    ),
    "mini-batch, m=3": (
        *(8, MINI | {"initial_clusters": "random", "mini_batch_steps_per_iteration": 3}),
        {"batch_size": 140, "steps": 12},
    ),
    "farthest": (
        *(8, FULL | {"initial_clusters": pairs_of_rows, "empty_clusters": "farthest"}),
        {"steps": 4},
    ),
    "k-means++ again": (6, FULL | {"initial_clusters": "kmeans_plus_plus"}, {"steps": 2}),
}
"""Clusters, arguments of the constructor, and arguments of `fit`; no order of k."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return files of columns, weights and a name, in many blocks."""
    folder = tmp_path_factory.mktemp("session") / "data"
    for number, part in enumerate(np.array_split(np.arange(N), 3)):
        table = pa.table(
            {name: X[part, at] for at, name in enumerate(COLUMNS)}
            | {"w": WEIGHT[part], "id": part, "lang": np.where(part % 3, "en", "de")}
        )
        put_table(folder, f"{number}.parquet", table, row_group_size=70)
    return str(folder)


@pytest.fixture
def source(data):
    return open_source(data, COLUMNS)


def estimator(model_dir, k=4, metric="squared_euclidean", config=HERE, **params):
    params = FULL | {"initial_clusters": "kmeans_plus_plus", "random_seed": 3} | params
    return KMeansClustering(k, str(model_dir), distance_metric=metric, config=config, **params)


def bits(model_dir):
    """Return all of a model that the law of equal bits speaks of."""
    state = ModelDir.at(str(model_dir), {}, 5).latest()
    sums = state.accumulators and state.accumulators.sums.tobytes()
    return (
        (state.centers.tobytes(), state.counts.tobytes(), sums, state.history, state.shift),
        (state.iteration, state.began_at, state.stop, state.data_name, state.data_since),
        (state.rows, state.origin),
    )


def fit_all(x, place, metric):
    """Fit in every way; return the bits of each."""
    for name, (k, params, arguments) in FITS.items():
        estimator(place / name, k, metric, **params).fit(x, **arguments)
    estimator(place / "partial", 5, metric, use_mini_batch=True).partial_fit(x, steps=3)
    estimator(place / "partial", 5, metric, use_mini_batch=True).partial_fit(x, batch_size=99)
    return {name: bits(place / name) for name in [*FITS, "partial"]}


def answers(km, x):
    """Return what every method that takes data says, besides fits and labelled output."""
    loss = km.evaluate(x, name="x", metrics={"mean": lambda rows, _: float(rows.mean())})
    found = km.evaluation(x)
    return [
        *(loss, km.evaluate(x, batch_size=130), km.score(x), km.score(x=x, batch_size=7)),
        *(found, found.sizes.tolist(), str(found)),
        {name: each.tobytes() for name, each in km.predict(x, as_iterable=False).items()},
        *([*km.predict_cluster_idx(x=x)], km.transform(x).tobytes()),
        *(km.explain(x), km.explain(x, "label")),
    ]


LABELS = {
    "flat": {},
    "second and columns": {"second": True, "keep_columns": ["id", "lang"]},
    "by cluster": {"by_cluster": True, "keep_columns": ["id"]},
}


def labelled(km, x, output, **options):
    """Label the rows; return the counts and all files."""
    counts = km.label(x, str(output), **options)
    found = files_of(str(output))
    return counts, {name: found[name] for name in found if not name.startswith("_lease/")}


@pytest.mark.parametrize(
    ("cache", "metric"),
    [("memory", "squared_euclidean"), ("disk", "cosine"), ("source", "squared_euclidean")],
)
def test_every_call_through_a_session_gives_what_it_gives_with_the_data(
    source, cache, metric, tmp_path
):
    config = RunConfig(num_workers=0, cpus_per_worker=2, progress=False, cache=cache)
    alone = fit_all(source, tmp_path / "alone", metric)
    km = estimator(tmp_path / "alone" / "random", 7, metric, config=config)

    with open_session(source, config=config, distance_metric=metric) as session:
        assert fit_all(session, tmp_path / "through", metric) == alone
        assert answers(km, session) == answers(km, source)
        for name, options in LABELS.items():
            through = labelled(km, session, tmp_path / f"{name} through", **options)
            assert through == labelled(km, source, tmp_path / f"{name} alone", **options)
        estimator(tmp_path / "again", 7, metric, initial_clusters="random").fit(session, steps=6)
        assert bits(tmp_path / "again") == alone["random"]


@pytest.mark.parametrize(
    "how",
    [
        {"sample_weight": "w"},
        {"filters": [("lang", "=", "en")], "sample_weight": "w"},
        {"center": True},
    ],
)
def test_weights_filters_and_a_shift_are_those_of_the_sessions_source(data, how, tmp_path):
    source = open_source(data, COLUMNS, **how)
    alone = fit_all(source, tmp_path / "alone", "squared_euclidean")
    km = estimator(tmp_path / "alone" / "random", 7)

    with open_session(source, config=HERE) as session:
        assert fit_all(session, tmp_path / "through", "squared_euclidean") == alone
        assert answers(km, session) == answers(km, source)
        through = labelled(km, session, tmp_path / "flat through")
        assert through == labelled(km, source, tmp_path / "flat alone")


def test_the_sessions_own_methods_and_weights_are_those_of_the_estimator(tmp_path):
    km = estimator(tmp_path / "alone").fit(X, sample_weight=WEIGHT)

    with open_session(X, config=HERE, sample_weight=WEIGHT) as session:
        through = session.fit(estimator(tmp_path / "through"))
        assert bits(tmp_path / "through") == bits(tmp_path / "alone")
        assert session.evaluate(through) == km.evaluation(X, sample_weight=WEIGHT)
        counts = session.label(through, str(tmp_path / "out"), second=True)
        assert (counts.rows, counts.left_out) == (N, int((WEIGHT == 0).sum()))
        assert repr(session) == f"<Session of {N} rows x {D}, squared_euclidean, open>"
    assert repr(session).endswith("ended>")


class Counted:
    """Rows that count how often each block of them is read."""

    def __init__(self):
        self.reads = []

    def describe(self):
        return Layout(tuple(cut("counted", [200, 200, 200], features=D)), features=D)

    def read(self, blocks):
        for block in blocks:
            self.reads.append(block.index)
            yield block, X[block.first : block.first + block.rows]

    def columns_of(self, block, names):
        return pa.table({"id": np.arange(block.first, block.first + block.rows)}).select(names)


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_five_fits_their_losses_and_labels_read_each_block_once(cache, tmp_path):
    rows = Counted()
    config = RunConfig(num_workers=0, progress=False, cache=cache)

    with open_session(rows, config=config) as session:
        for k in (3, 9, 2, 5, 4):
            km = session.fit(estimator(tmp_path / str(k), k))
            session.evaluate(km)
        session.label(km, str(tmp_path / "out"), second=True, keep_columns=["id"])
        session.label(km, str(tmp_path / "by"), by_cluster=True)

    assert sorted(rows.reads) == [block.index for block in rows.describe().blocks] == [0, 1, 2]


# --- calls that end early


class Raises(Monitor):
    """Raises after some steps."""

    def after_step(self, state):
        if state.iteration == 3:
            raise ValueError("stop here")


@contextmanager
def interrupted(monkeypatch, method, calls):
    """Let a method of the worker do its work some times, and then end the call as Ctrl-C does."""
    real, seen = getattr(ShardWorker, method.__name__), []

    def wrapped(*args, **kwargs):
        found = real(*args, **kwargs)
        seen.append(1)
        if len(seen) >= calls:
            raise KeyboardInterrupt
        return found

    wrapped.__name__ = method.__name__
    with monkeypatch.context() as patch:
        patch.setattr(ShardWorker, method.__name__, wrapped)
        yield
    assert len(seen) >= calls


def test_a_call_after_one_that_raised_is_as_good_as_alone(source, tmp_path, monkeypatch):
    alone = fit_all(source, tmp_path / "alone", "squared_euclidean")
    km = estimator(tmp_path / "alone" / "random", 7)
    kept = answers(km, source)
    other = estimator(tmp_path / "alone" / "k-means++", 3)
    other.label(source, str(tmp_path / "of others"))

    def sound(session, name):
        """Hold all calls of a session against those alone."""
        assert fit_all(session, tmp_path / name, "squared_euclidean") == alone
        assert answers(km, session) == kept

    with open_session(source, config=HERE) as session:
        for number, arguments in enumerate(({}, {"batch_size": 50})):
            batches = estimator(tmp_path / f"r{number}", 9, use_mini_batch=bool(arguments))
            with pytest.raises(ValueError, match="stop here"):
                batches.fit(session, monitors=[Raises()], **arguments)
        sound(session, "after a monitor")
        for method, calls in ((ShardWorker.weigh, 2), (ShardWorker.sweep, 2)):
            with interrupted(monkeypatch, method, calls), pytest.raises(KeyboardInterrupt):
                estimator(tmp_path / method.__name__, 9).fit(session)
            again = tmp_path / f"seeds after {method.__name__}"  # no seed is left of those before
            k, params, arguments = FITS["k-means++"]
            estimator(again, k, **params).fit(session, **arguments)
            assert bits(again) == alone["k-means++"]
            sound(session, f"after {method.__name__}")
        with pytest.raises(StoreError, match="of others' already holds"):
            km.label(session, str(tmp_path / "of others"))
        sound(session, "after a label")
        # what a fit that was interrupted had reached goes on in the session
        estimator(tmp_path / "sweep", 9).fit(session)
        estimator(tmp_path / "whole", 9).fit(source)
        assert bits(tmp_path / "sweep")[0] == bits(tmp_path / "whole")[0]


@pytest.mark.parametrize("options", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("first", ["data", "session"])
def test_an_output_that_was_begun_is_completed_by_a_session_and_the_other_way_round(
    data, options, first, tmp_path, monkeypatch
):
    x = in_blocks(data, 35, COLUMNS)
    km = estimator(tmp_path / "model").fit(x)
    with monkeypatch.context() as patch:
        written = cut_after(patch, 10**6)
        whole = labelled(km, x, tmp_path / "whole", **options)
    out = tmp_path / "out"

    with open_session(x, config=HERE) as session:
        begun, completed = (x, session) if first == "data" else (session, x)
        with monkeypatch.context() as patch:
            cut_after(patch, 9)
            with pytest.raises(Cut):
                km.label(begun, str(out), **options)
        assert not (out / MANIFEST).exists()
        with monkeypatch.context() as patch:
            again = cut_after(patch, 10**6)
            assert labelled(km, completed, out, **options) == whole
        # a plan of folders is tried again
        assert len(again) <= len(written) - 9 + ("by_cluster" in options)
        with monkeypatch.context() as patch:
            once_more = cut_after(patch, 10**6)
            assert labelled(km, begun, out, **options) == whole
        assert not once_more


def test_a_damaged_part_is_mended_and_other_rows_are_appended_by_sessions(data, tmp_path):
    x, more = in_blocks(data, 35, COLUMNS), in_blocks(f"{data}/1.parquet", 35, COLUMNS)
    km = estimator(tmp_path / "model").fit(x)
    options = {"keep_columns": ["id"]}
    labelled(km, x, tmp_path / "alone", **options)
    _, alone = labelled(km, more, tmp_path / "alone", append=True, **options)

    with open_session(x, config=HERE) as session:
        labelled(km, session, tmp_path / "out", **options)
        part = sorted((tmp_path / "out").glob("part-*"))[3]
        part.unlink()
        labelled(km, session, tmp_path / "out", **options)
        assert part.exists()
    with open_session(more, config=HERE) as session:
        _, through = labelled(km, session, tmp_path / "out", append=True, **options)

    assert through.keys() == alone.keys()
    names = [name for name in alone if name.startswith("part-")]
    assert {name: through[name] for name in names} == {name: alone[name] for name in names}


# --- wrong calls


WRONG = {
    "another metric": (
        lambda session, place: estimator(place, metric="cosine").fit(session),
        "'squared_euclidean' distance.*distance_metric='cosine'.*Open a session with",
    ),
    "too many clusters": (
        lambda session, place: estimator(place, 11).fit(session),
        "max_clusters=10, and the call needs 11. Open it with max_clusters=11",
    ),
    "too large a batch": (
        lambda session, place: estimator(place, use_mini_batch=True).fit(session, batch_size=101),
        "max_batch_size=100, and the call needs 101. Open it with max_batch_size=101",
    ),
    "weights": (
        lambda session, place: estimator(place).fit(session, sample_weight="w"),
        "sample_weight is given with a session.*Give it to open_session",
    ),
    "an array of weights": (
        lambda session, place: estimator(place).fit(session, sample_weight=WEIGHT),
        "sample_weight is given with a session.*Give it to open_session",
    ),
    "weights of a loss": (
        lambda session, place: estimator(place).fit(X).score(x=session, sample_weight=WEIGHT),
        "sample_weight is given with a session",
    ),
    "steps of a loss": (
        lambda session, place: estimator(place).fit(X).evaluate(session, batch_size=9, steps=2),
        "steps=2 with a session.*Leave steps out, or give the data",
    ),
    "detached": (
        lambda session, place: estimator(place, config=RunConfig(detached=True)).fit(session),
        "detached=True and a session",
    ),
    "other columns": (
        lambda session, place: (
            estimator(place)
            .fit(pa.table({name: X[:, at] for at, name in enumerate("abcd")}))
            .evaluation(session)
        ),
        "fitted on the columns a, b, c, d, and the session has c0, c1, c2, c3. Open a session",
    ),
    "columns in another order": (
        lambda session, place: (
            estimator(place)
            .fit(pa.table({name: X[:, at] for at, name in enumerate(reversed(COLUMNS))}))
            .label(session, f"{place}/out")
        ),
        "columns c3, c2, c1, c0, and the session has c0, c1, c2, c3.*in its order",
    ),
    "another shift": (
        lambda session, place: (
            estimator(place).fit(open_source(X, center=True)).evaluation(session)
        ),
        r"shift their rows otherwise \(center=True\). Open a session of the data as",
    ),
    "a session of a session": (
        lambda session, place: open_session(session),
        "a session already. Use it",
    ),
}


@pytest.fixture
def small(data):
    """Give a session with small limits."""
    source = open_source(data, COLUMNS)
    with open_session(source, config=HERE, max_clusters=10, max_batch_size=100) as session:
        yield session


@pytest.mark.parametrize(("call", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_call_says_what_was_given_and_what_to_change(small, call, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        call(small, tmp_path / "model")
    assert estimator(tmp_path / "right").fit(small).clusters().shape == (4, D)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"data": iter([X])}, "iterator gives batches once.*Give an array"),
        ({"config": RunConfig(detached=True)}, "detached=True and a session"),
        ({"max_clusters": 0}, "max_clusters=0"),
        ({"max_batch_size": 1.5}, "max_batch_size=1.5"),
        ({"session_idle_timeout_s": 0}, "session_idle_timeout_s=0 must be a number above 0"),
        ({"session_idle_timeout_s": True}, "session_idle_timeout_s=True"),
        ({"session_idle_timeout_s": float("nan")}, "session_idle_timeout_s=nan"),
        ({"distance_metric": "manhattan"}, "distance_metric='manhattan' is unknown"),
    ],
)
def test_a_session_that_cannot_be_opened_says_why(arguments, words):
    with pytest.raises(ConfigError, match=words):
        open_session(**{"data": X, "config": HERE} | arguments)


def test_a_closed_session_is_refused_before_anything_is_written(tmp_path):
    km = estimator(tmp_path / "model").fit(X)
    with open_session(X, config=HERE) as session:
        pass
    session.close()

    for call in (
        lambda: estimator(tmp_path / "new").fit(session),
        lambda: km.evaluation(session),
        lambda: km.label(session, str(tmp_path / "out")),
        lambda: km.transform(session),
        lambda: km.explain(session),
    ):
        with pytest.raises(ConfigError, match=r"session has ended \(it was closed.*Open another"):
            call()
    assert not (tmp_path / "new").exists() or not any((tmp_path / "new").rglob("*.json"))
    assert not (tmp_path / "out").exists()


# --- one call at a time, and idle sessions


class Calls(Monitor):
    """Calls a function after the second step."""

    def __init__(self, call):
        self.call = call

    def after_step(self, state):
        if state.iteration == 2:
            self.call()


def test_a_call_inside_a_call_and_one_beside_it_are_refused_and_harm_nothing(source, tmp_path):
    km = estimator(tmp_path / "model").fit(source)
    refused = []

    def call():
        with pytest.raises(ConfigError, match=r"another call uses this session now\. Let it"):
            km.evaluation(session)
        refused.append(threading.get_ident())

    def call_twice():
        call()
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    with open_session(source, config=HERE) as session:
        estimator(tmp_path / "in").fit(session, monitors=[Calls(call_twice)])
        assert km.evaluation(session) == km.evaluation(source)
    estimator(tmp_path / "alone").fit(source)

    assert len(set(refused)) == 2
    assert bits(tmp_path / "in") == bits(tmp_path / "alone")


def test_a_session_that_is_closed_during_a_call_ends_with_the_call(source, tmp_path):
    with open_session(source, config=HERE) as session:
        estimator(tmp_path / "in").fit(session, monitors=[Calls(session.close)])
        with pytest.raises(ConfigError, match="session has ended"):
            session.fit(estimator(tmp_path / "in"))
    estimator(tmp_path / "alone").fit(source)

    assert bits(tmp_path / "in") == bits(tmp_path / "alone")


def test_an_idle_session_ends_and_one_in_use_does_not(tmp_path):
    # Two seconds for what takes some milliseconds between two calls, on a machine that is busy.
    session = open_session(X, config=HERE, session_idle_timeout_s=2.0)
    waits = Calls(lambda: time.sleep(2.5))
    session.fit(estimator(tmp_path / "slow"), monitors=[waits])
    assert repr(session).endswith("open>")
    session.fit(estimator(tmp_path / "next", 3))

    end = time.monotonic() + 30
    while repr(session).endswith("open>") and time.monotonic() < end:
        time.sleep(0.05)
    with pytest.raises(ConfigError, match="nobody used it for session_idle_timeout_s=2"):
        session.fit(estimator(tmp_path / "late"))


def test_a_timer_that_went_off_before_a_call_ends_nothing_after_it(tmp_path):
    with open_session(X, config=HERE) as session:
        late = session._timer
        session.fit(estimator(tmp_path / "model"))
        late.function(*late.args)
        assert repr(session).endswith("open>")
        session._timer.function(*session._timer.args)
        assert repr(session).endswith("ended>")


def test_a_session_may_wait_for_ever(capfd):
    with open_session(X, config=HERE, session_idle_timeout_s=float("inf")):
        time.sleep(0.1)
    assert "OverflowError" not in capfd.readouterr().err


# --- memory


def held_at_the_begin_of_a_call(session):
    """Return the bytes that are allocated when a call has the pool and has done nothing yet."""
    with session._lend(1, session.metric, None, None, 0):
        gc.collect()
        return tracemalloc.get_traced_memory()[0]


def call_in_all_ways(session, place):
    """Fit in two ways, label and measure."""
    for size, seeding in ((None, "kmeans_parallel"), (9_000, "kmeans_plus_plus")):
        way = {"use_mini_batch": size is not None, "initial_clusters": seeding}
        km = estimator(place / seeding, 9, **way).fit(session, batch_size=size, steps=2)
    km.label(session, str(place / "out"), second=True)
    km.evaluation(session)


def test_a_call_leaves_nothing_but_the_rows_with_the_workers(tmp_path):
    rows = np.tile(X, (40, 4))
    with open_session(rows, config=HERE) as session:
        call_in_all_ways(session, tmp_path / "first")  # what is compiled stays
    tracemalloc.start()
    try:
        with open_session(rows, config=HERE) as session:
            before = held_at_the_begin_of_a_call(session)
            call_in_all_ways(session, tmp_path / "then")
            after = held_at_the_begin_of_a_call(session)
    finally:
        tracemalloc.stop()

    assert after - before < rows.nbytes / 15  # what helps a sweep is more than a row itself


def test_a_sessions_plan_has_room_for_every_smaller_fit():
    shards = split(cut("rows", [100_000], 768), 1)
    planned = Footprint(1000, 60_000, 4, or_fewer=True).most(shards)

    assert planned >= max(Footprint(k, 60_000, 4).most(shards) for k in range(1, 1001))
    assert planned > Footprint(1000, 60_000, 4).most(shards)  # which forgets small tiles


def test_a_sessions_plan_has_room_for_batches_of_nearly_all_rows(monkeypatch):
    seen = []
    of = Footprint.of
    monkeypatch.setattr(Footprint, "of", lambda self, shard: seen.append(self) or of(self, shard))
    with open_session(X, config=HERE, max_clusters=9):
        pass
    assert seen
    assert all((each.batch_rows, each.num_clusters) == (N - 1, 9) for each in seen)


@pytest.mark.parametrize(
    "more", [{"num_clusters": 9}, {"distance_metric": "cosine"}], ids=["clusters", "metric"]
)
def test_a_fit_that_a_session_has_no_plan_for_writes_nothing(tmp_path, more):
    how = {"num_clusters": 3, "config": HERE, "use_mini_batch": False} | more
    km = KMeansClustering(model_dir=str(tmp_path / "m"), **how)

    with (
        open_session(X, config=HERE, max_clusters=4) as session,
        pytest.raises(ConfigError, match="session"),
    ):
        session.fit(km)

    assert not (tmp_path / "m").exists()
