"""Batches that come one after the other: each is a step, seen once, and none is lost or kept."""

from __future__ import annotations

import weakref

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_kmeans import KMeansClustering
from ray_kmeans.algorithm.state import Stop
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import (
    ConfigError,
    DataError,
    NonFiniteError,
    TooFewRowsError,
)
from ray_kmeans.observe.monitors import Monitor
from tests.support.tf_minibatch import COSINE, EUCLIDEAN, HERE, PLACES, Seed, check, model

X = np.random.default_rng(3).integers(-8, 8, size=(60, 3)).astype(np.float32)
SIZES = [20, 1, 7, 32]
PARTS = np.split(X, np.cumsum(SIZES)[:-1])
VECTORS = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 3)


class Loader:
    """Gives the same batches every time, as data loaders do."""

    def __init__(self, batches):
        self.batches = batches
        self.opened = 0

    def __iter__(self):
        self.opened += 1
        return iter(self.batches)


class CallableLoader(Loader):
    def __call__(self):
        raise AssertionError("it is no input_fn")


def columns(rows):
    return {"b": rows[:, 1], "a": rows[:, 0], "c": rows[:, 2]}


STREAMS = {
    "iterator": lambda: iter(PARTS),
    "generator": lambda: (rows for rows in PARTS),
    "list of arrays": lambda: PARTS,
    "loader": lambda: Loader(PARTS),
    "callable loader": lambda: CallableLoader(PARTS),
    "map": lambda: map(np.asarray, PARTS),
    "pairs": lambda: ((rows, None) for rows in PARTS),
    "tables": lambda: (pa.table(dict(sorted(columns(rows).items()))) for rows in PARTS),
    "record batches": lambda: iter(pa.table({"v": VECTORS}).to_batches(max_chunksize=20)),
    "dicts": lambda: (columns(rows) for rows in PARTS),
    "pairs of dicts": lambda: ((columns(rows), None) for rows in PARTS),
    "lists of lists": lambda: (rows.tolist() for rows in PARTS),
    "float64": lambda: (rows.astype(np.float64) for rows in PARTS),
    "sources": lambda: (open_source(rows) for rows in PARTS),
    "with empty ones": lambda: iter([X[:0], PARTS[0], X[:0], X[:0], *PARTS[1:], X[:0]]),
}


def seeded(k, initial="random", **params):
    return KMeansClustering(k, next(PLACES), initial, config=HERE, **params)


def sizes_of(name):
    return [20, 20, 20] if name == "record batches" else SIZES


def trained(km):
    return km.clusters().tobytes(), km.counts().tolist(), km.history(), km.why_stopped()


def rows_of(km):
    return [line.rows for line in km.history()]


def expected_of(sizes, m=1):
    """The model after steps over these rows, made by fits on one batch each."""
    km = model(X[:4], m)
    for rows in np.split(X, np.cumsum(sizes)[:-1]):
        km.fit(iter([rows]))
    return km


@pytest.mark.parametrize("call", ["fit", "partial_fit"])
@pytest.mark.parametrize("name", STREAMS)
def test_any_stream_gives_a_step_for_each_batch(name, call):
    km = model(X[:4])
    steps = {} if call == "fit" else {"steps": None}

    getattr(km, call)(STREAMS[name](), **steps)

    expected = expected_of(sizes_of(name))
    assert rows_of(km) == sizes_of(name)
    assert km.why_stopped() is Stop.END_OF_INPUT
    assert km.history() == expected.history()
    np.testing.assert_array_equal(km.clusters(), expected.clusters())
    np.testing.assert_array_equal(km.counts(), expected.counts())


@pytest.mark.parametrize("name", ["generator", "loader", "pairs", "list of arrays"])
def test_input_fn_may_return_a_stream(name):
    for call in ({"input_fn": STREAMS[name]}, {"x": STREAMS[name]}):
        km = model(X[:4]).fit(**call)

        assert trained(km) == trained(model(X[:4]).fit(iter(PARTS)))


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    m=st.integers(1, 3),
    metric=st.sampled_from([EUCLIDEAN, COSINE]),
)
def test_a_stream_makes_the_seeds_equations_on_its_batches(sizes, m, metric):
    rng = np.random.default_rng(sum(sizes) + m)
    initial = rng.normal(size=(3, 2)).astype(np.float32)
    batches = [rng.normal(size=(n, 2)).astype(np.float32) for n in sizes]
    km, seed = model(initial, m, metric), Seed(initial, m, metric)

    km.fit(iter(batches))

    for batch in batches:
        seed.step(batch)
    if seed.margin > 1e-4:
        check(km, seed)
    assert rows_of(km) == sizes


def test_a_later_stream_goes_on_within_an_iteration():
    km = model(X[:4], 3).fit(iter(PARTS[:2]))
    assert km.get_variable_value("update_in_steps") == 1
    np.testing.assert_array_equal(km.clusters(), X[:4])

    km.fit(iter(PARTS[2:]))

    assert km.history() == model(X[:4], 3).fit(iter(PARTS)).history()
    assert km.get_variable_value("update_in_steps") == 2


@pytest.mark.parametrize("m", [1, 3])
def test_batches_may_have_other_values_than_those_before(m):
    """The grid of a batch is its own: neither a tiny nor a huge one spoils the others."""
    scales = [1e-12, 1.0, 1e12]
    parts = [((np.abs(X[:20]) + 8) * scale).astype(np.float32) for scale in scales]
    initial = (np.full((3, 3), 9.0) * np.array(scales)[:, None]).astype(np.float32)

    km, seed = model(initial, m).fit(iter(parts)), Seed(initial, m)

    for rows in parts:
        seed.step(rows)
    np.testing.assert_allclose(km.clusters(), seed.master, rtol=1e-5)
    np.testing.assert_allclose([line.inertia for line in km.history()], seed.losses, rtol=1e-5)


# --- how many batches are taken --------------------------------------------------------------


class Counted:
    """An iterator that knows how many batches were taken, and how many of them still live."""

    def __init__(self, sizes):
        self.sizes = sizes
        self.taken = 0
        self.living = []
        self._made = []

    def __iter__(self):
        for n in self.sizes:
            self.living.append(sum(batch() is not None for batch in self._made))
            self.taken += 1
            yield self._batch(n)

    def _batch(self, n):
        batch = np.random.default_rng(self.taken).normal(size=(n, 3)).astype(np.float32)
        self._made.append(weakref.ref(batch))
        return batch


def test_partial_fit_takes_one_batch_of_an_iterator():
    batches = Counted([10] * 5)
    stream = iter(batches)
    km = model(X[:4])

    for calls in (1, 2, 3):
        km.partial_fit(stream)

        assert (batches.taken, len(km.history()), km.why_stopped()) == (calls, calls, Stop.STEPS)
    km.partial_fit(stream, steps=None)
    assert (batches.taken, len(km.history()), km.why_stopped()) == (5, 5, Stop.END_OF_INPUT)


def test_no_more_batches_are_taken_than_steps_are_made():
    batches = Counted([10] * 9)
    stream = iter(batches)
    km = model(X[:4], 2)

    km.fit(stream, steps=3)
    assert (batches.taken, km.why_stopped()) == (3, Stop.STEPS)
    km.fit(stream, max_steps=5)
    assert (batches.taken, km.why_stopped()) == (5, Stop.STEPS)
    km.fit(stream, max_steps=5)
    assert batches.taken == 5
    km.fit(stream, steps=100)
    assert (batches.taken, km.why_stopped()) == (9, Stop.END_OF_INPUT)


def test_a_stream_without_an_end_ends_by_steps_tolerance_or_a_monitor():
    def endless():
        while True:
            yield X

    class Fifth(Monitor):
        def after_step(self, state):
            return state.iteration == 5

    assert len(model(X[:4]).fit(endless(), steps=4).history()) == 4
    settled = model(X[:4], relative_tolerance=1e9).fit(endless())
    assert (len(settled.history()), settled.why_stopped()) == (2, Stop.TOLERANCE)
    stopped = model(X[:4]).fit(endless(), monitors=[Fifth()])
    assert (len(stopped.history()), stopped.why_stopped()) == (5, Stop.MONITOR)


def test_a_loader_is_opened_once_per_fit():
    loader = Loader(PARTS)

    km = model(X[:4]).fit(loader).fit(loader)

    assert loader.opened == 2
    assert rows_of(km) == SIZES * 2


@pytest.mark.parametrize("initial", ["given", "random"])
def test_about_one_batch_is_in_memory_at_a_time(initial):
    batches = Counted([50] * 12)

    seeded(4, X[:4] if initial == "given" else "random").fit(iter(batches))

    assert batches.taken == 12
    assert max(batches.living) <= 2  # the one before, which is being trained on or just was


def test_the_batches_that_seeds_came_from_are_let_go():
    batches = Counted([2] * 20)

    km = seeded(11).fit(iter(batches))

    assert rows_of(km) == [2] * 20
    assert max(batches.living[:6]) == 5  # 11 rows for the seeds
    assert batches.living[-1] <= 2


# --- seeds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("initial", ["random", "kmeans_plus_plus", "kmc2", "kmeans_parallel"])
@pytest.mark.parametrize("k", [4, 20, 21, 25, 28, 29])
def test_seeds_come_from_the_first_batches_that_have_enough_rows_and_none_is_lost(initial, k):
    x = X + np.arange(60, dtype=np.float32)[:, None] * 100  # no two rows are equal
    parts = np.split(x, np.cumsum(SIZES)[:-1])
    needed = next(n for n in np.cumsum(SIZES) if n >= k)

    km = seeded(k, initial).fit(iter(parts))

    seeds = seeds_of(seeded(k, initial).fit(x[:needed], steps=1))
    from_there = model(seeds).fit(iter(parts))
    assert rows_of(km) == SIZES
    assert trained(km) == trained(from_there)


def seeds_of(km):
    """The centers that a model began at: those of its first checkpoint."""
    return km._state(km.checkpoints()[0].rsplit("/", 1)[-1]).centers


def test_a_function_that_chooses_the_seeds_sees_the_first_batches():
    samples = []

    def first_rows(sample, missing):
        samples.append(sample)
        return sample[:missing]

    km = seeded(3, first_rows).fit(iter(PARTS))

    np.testing.assert_array_equal(samples[0], PARTS[0])
    assert trained(km) == trained(model(X[:3]).fit(iter(PARTS)))


def test_given_centers_and_a_model_that_is_there_need_no_rows_to_choose_from():
    km = model(X[:30]).fit(iter(PARTS[1:]))

    assert rows_of(km) == SIZES[1:]
    km.fit(iter([X[:1]]))
    assert rows_of(km) == [*SIZES[1:], 1]


@pytest.mark.parametrize("use_mini_batch", [True, False])
@pytest.mark.parametrize("rows", [1, 10])
def test_a_stream_with_fewer_rows_than_clusters_is_refused(rows, use_mini_batch):
    km = seeded(11, use_mini_batch=use_mini_batch)

    with pytest.raises(TooFewRowsError, match=f"num_clusters=11 .* {rows} rows") as caught:
        km.fit(X[row : row + 1] for row in range(rows))

    assert (caught.value.rows, caught.value.num_clusters) == (rows, 11)
    with pytest.raises(ValueError, match="no model"):
        km.clusters()


@pytest.mark.parametrize("use_mini_batch", [True, False])
@pytest.mark.parametrize("stream", [[], [X[:0], X[:0]]])
def test_a_stream_without_a_row_is_refused(stream, use_mini_batch):
    with pytest.raises(DataError, match=r"no rows|0 rows"):
        seeded(2, use_mini_batch=use_mini_batch).fit(iter(stream))


# --- full batch ------------------------------------------------------------------------------


@pytest.mark.parametrize("initial", ["given", "random"])
@pytest.mark.parametrize("name", ["generator", "dicts", "with empty ones"])
def test_full_batch_over_a_stream_equals_the_array_of_all(name, initial):
    initial = X[:4] if initial == "given" else "random"

    km = seeded(4, initial, use_mini_batch=False).fit(STREAMS[name]())

    once = seeded(4, initial, use_mini_batch=False).fit(X)
    assert trained(km) == trained(once)
    assert set(rows_of(km)) == {60}


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("use_mini_batch", [True, False])
def test_a_batch_of_another_width_is_refused_by_its_number(use_mini_batch):
    km = model(X[:4], use_mini_batch=use_mini_batch)

    with pytest.raises(DataError, match=r"batch 4 has 2 features .* have 3"):
        km.fit(iter([PARTS[0], X[:0], PARTS[1], X[:, :2], PARTS[2]]))

    if use_mini_batch:
        assert (rows_of(km), km.why_stopped()) == (SIZES[:2], None)


def test_a_stream_of_another_width_than_the_model_is_refused():
    km = seeded(4).fit(iter(PARTS))
    before = trained(km)

    with pytest.raises(ConfigError, match=r"4 clusters of 3 features.*2 features"):
        km.fit(iter([X[:, :2]]))

    assert trained(km) == before


@pytest.mark.parametrize("m", [1, 3])
def test_a_batch_that_is_not_finite_is_refused_and_the_steps_before_it_are_kept(m):
    bad = PARTS[2].copy()
    bad[3, 1] = np.nan
    km = model(X[:4], m)

    with pytest.raises(NonFiniteError, match="1 rows hold NaN"):
        km.fit(iter([*PARTS[:2], bad, PARTS[3]]))

    assert (rows_of(km), km.why_stopped()) == (SIZES[:2], None)
    assert trained(km)[:3] == trained(model(X[:4], m).fit(iter(PARTS[:2])))[:3]
    km.fit(iter(PARTS[2:]))
    expected = model(X[:4], m).fit(iter(PARTS))
    assert trained(km) == trained(expected)


def test_an_error_of_the_stream_itself_keeps_the_steps_before_it_too():
    def breaks():
        yield from PARTS[:3]
        raise OSError("the disk is gone")

    km = model(X[:4])

    with pytest.raises(OSError, match="the disk is gone"):
        km.fit(breaks())

    assert rows_of(km) == SIZES[:3]


@pytest.mark.parametrize("call", ["fit", "partial_fit"])
def test_a_batch_size_has_no_meaning_for_a_stream(call):
    km = model(X[:4])

    with pytest.raises(ConfigError, match="batch_size=7 has no meaning for an iterator"):
        getattr(km, call)(iter(PARTS), batch_size=7)
    with pytest.raises(ConfigError, match="batch_size=7 has no meaning with input_fn"):
        getattr(km, call)(input_fn=lambda: iter(PARTS), batch_size=7)


@pytest.mark.parametrize("targets", [X[:, 0], np.float32(1)])
def test_targets_are_refused(targets):
    with pytest.raises(ConfigError, match="targets"):
        model(X[:4]).fit(iter([(X, targets)]))


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ((row for row in X), r"shape \(3,\)"),
        (iter([X[None]]), r"shape \(1, 60, 3\)"),
        (iter([X, "no/such/place.parquet"]), "does not exist"),
        (iter([None]), "shape"),
        (iter([X, X.astype(complex)]), "complex"),
    ],
)
def test_what_is_no_batch_is_refused(stream, message):
    with pytest.raises((DataError, ConfigError), match=message):
        model(X[:4]).fit(stream)


def test_the_batches_are_not_changed():
    parts = [rows.copy() for rows in PARTS]
    for rows in parts:
        rows.flags.writeable = False

    model(X[:4]).fit(iter(parts))

    np.testing.assert_array_equal(np.concatenate(parts), X)
