"""A mini-batch fit has the same bits however it is cut up, goes on where it was, and stops."""

from __future__ import annotations

import pickle
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.batch_rows import Batches
from ray_kmeans.algorithm.exact_float_sum import as_float
from ray_kmeans.algorithm.state import Stop
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data import sharding
from ray_kmeans.data.array import ArraySource
from ray_kmeans.engine import batch_sweeps
from ray_kmeans.engine.fit_loop import run_fit
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.row_cache import CacheOptions
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.monitors import Monitor, Monitors
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit as runs
from ray_kmeans.workflows import worker_plan as resources
from ray_kmeans.workflows.parameters import FitParams
from tests.support.files import in_blocks
from tests.support.short_fits import CutOff, cutting_off_at
from tests.support.tf_minibatch import COSINE, EUCLIDEAN, HERE, Seed, check, model

N = 53
SCALES = 10.0 ** np.array([0, -6, 4, 0])


def rows(seed, n=N, scale=1.0):
    """Rows whose columns differ in scale and offset, so that few sums of floats are exact."""
    rng = np.random.default_rng(seed)
    return ((rng.normal(size=(n, 4)) + rng.integers(0, 3, 4)) * SCALES * scale).astype(np.float32)


def wide_rows(seed, scale=1.0):
    """Rows whose sums need all bits of the grid."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(N, 4)) * 10.0 ** rng.uniform(-9, 0, (N, 4)) * scale).astype(np.float32)


X = rows(1)


class Looker(Monitor):
    """Looks on, and cuts the fit off after a step if told so."""

    def __init__(self, cut_off_at=None):
        self.cut_off_at = cut_off_at
        self.seen = []

    def after_step(self, state):
        self.seen.append(state.iteration)
        if state.iteration == self.cut_off_at:
            raise CutOff


class Kept:
    """A store in memory."""

    def __init__(self):
        self.states = []

    def latest(self):
        return self.states[-1] if self.states else None

    def save(self, state):
        self.states.append(state)
        return str(len(self.states))


def run(store, x, steps, *, m=1, metric=EUCLIDEAN, size=10, shards=1, block=7, every=None,
        looker=None, emit=lambda event: None, rule=None, pool=LocalPool, **setup):  # fmt: skip
    """Fit as the estimator does, on blocks and shards of this size and number."""
    config = RunConfig(num_workers=0, progress=False, save_checkpoints_steps=every)
    params = FitParams(
        **model(X[:5], m, metric, place="nowhere", config=config).get_params(deep=False)
    )
    planned = runs.plan_fit(params, config, rule or StopRule(steps), size)
    sizes = [min(block, len(x) - begin) for begin in range(0, len(x), block)]
    blocks = sharding.cut("x", sizes, x.shape[1])
    workers = pool(ArraySource.of(x), sharding.split(blocks, shards), WorkerSetup(metric, **setup))
    return run_fit(planned, workers, store, emit, Monitors((looker,) if looker else ()))


class FarPool(LocalPool):
    """A pool of one worker that only sees copies of what it is given, as in another process."""

    has_one_far_worker = True

    def step_batches(self, state, *rest):
        moved, watch = super().step_batches(*pickle.loads(pickle.dumps((state, *rest))))
        calls.append(moved.iteration - state.iteration)
        return moved, watch


calls = []
"""Number of steps of each call of a `FarPool`."""


def bits(state):
    running = state.accumulators
    rest = (running.steps_per_iteration, running.done, running.sums.tobytes()) if running else None
    arrays = state.centers.tobytes(), state.counts.tobytes()
    return *arrays, state.iteration, state.history, state.stop, rest


def state_of(km):
    return ModelDir.at(km.model_dir, {}, 5).latest()


def bits_of(km):
    return bits(state_of(km))


def losses_of(km):
    return [line.inertia for line in km.history()]


# --- the same bits ---------------------------------------------------------------------------


WAYS = {
    "m": st.integers(1, 4),
    "metric": st.sampled_from([EUCLIDEAN, COSINE]),
    "size": st.sampled_from([1, 10, 26, N]),
}


@given(
    fits=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    shards=st.sampled_from([1, 2, 3, 5]),
    block=st.sampled_from([1, 7, 20]),
    every=st.none() | st.integers(1, 5),
    looked_at=st.booleans(),
    wide=st.booleans(),
    **WAYS,
)
def test_no_way_to_cut_a_fit_up_changes_one_bit(
    fits, shards, block, every, looked_at, wide, m, metric, size
):
    x = wide_rows(7) if wide else X
    whole = run(Kept(), x, sum(fits), m=m, metric=metric, size=size)
    store = Kept()
    for steps in fits:
        looker = Looker() if looked_at else None
        parts = run(store, x, steps, m=m, metric=metric, size=size, shards=shards, block=block,
                    every=every, looker=looker)  # fmt: skip

    assert bits(parts) == bits(whole)
    assert bits(store.latest()) == bits(whole)


@given(
    steps=st.integers(1, 12),
    cuts=st.lists(st.tuples(st.booleans(), st.integers(1, 12)), max_size=4),
    every=st.none() | st.integers(1, 5),
    **WAYS,
)
def test_a_fit_that_is_cut_off_and_run_again_equals_one_that_was_not(
    steps, cuts, every, m, metric, size
):
    whole = run(Kept(), X, steps, m=m, metric=metric, size=size)
    store, same = Kept(), {"m": m, "metric": metric, "size": size}
    for by_monitor, at in cuts:
        way = {"looker": Looker(at)} if by_monitor else {"emit": cutting_off_at(at)}
        before = store.latest()
        try:
            run(store, X, steps, every=every, **way, **same)
        except CutOff:
            assert store.latest().stop is None
            assert store.latest().iteration > (before.iteration if before else 0)
            continue
        return
    state = run(store, X, steps, every=every, **same)

    assert bits(state) == bits(whole)
    assert state.began_at == whole.began_at


RULES = {
    "steps": StopRule(23),
    "tolerance": StopRule(40, relative_tolerance=0.05),
    "no improvement": StopRule(),
    "epochs": StopRule(max_epochs=2),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("metric", [EUCLIDEAN, COSINE])
@pytest.mark.parametrize("every", [None, 1, 4])
def test_steps_that_a_far_worker_makes_in_one_call_are_those_of_many_calls(
    monkeypatch, rule, metric, every
):
    monkeypatch.setattr(batch_sweeps, "STEPPING_S", 60.0)
    calls.clear()
    fits = []
    for pool in (LocalPool, FarPool):
        store, events = Kept(), []
        same = {"metric": metric, "every": every, "rule": RULES[rule], "emit": events.append}
        for x in (X, X, rows(2)):
            run(store, x, None, pool=pool, **same)
        lines = [(each.line, each.line.smoothed) for each in events
                 if isinstance(each, ev.IterationDone)]  # fmt: skip
        fits.append(([bits(state) for state in store.states], lines))

    assert fits[1] == fits[0]
    assert not calls if every == 1 else 1 < max(calls) <= (every or 100)


def test_a_monitor_sees_each_step_of_a_far_worker():
    looker = Looker()

    run(Kept(), X, 7, looker=looker, pool=FarPool)

    assert looker.seen == [1, 2, 3, 4, 5, 6, 7]


def test_a_far_worker_makes_steps_for_a_limited_time(monkeypatch):
    monkeypatch.setattr(batch_sweeps, "STEPPING_S", -1.0)
    calls.clear()

    run(Kept(), X, 7, pool=FarPool)

    assert calls == [1] * 6  # the last one is left alone


@pytest.mark.parametrize("cache", ["memory", "disk", "source"])
@pytest.mark.parametrize(("m", "size"), [(1, 26), (4, 3), (3, N)])
def test_threads_that_share_a_batch_change_no_bit(monkeypatch, tmp_path, m, size, cache):
    whole = run(Kept(), X, 9, m=m, size=size, kernel="reference")
    monkeypatch.setattr(batch_sweeps, "PIECE_ROWS", 5)
    monkeypatch.setattr(batch_sweeps, "LEAST_PIECE_ROWS", 2)

    row_cache = CacheOptions(cache, str(tmp_path))
    parts = run(Kept(), X, 9, m=m, size=size, shards=2, threads=3, row_cache=row_cache)

    assert bits(parts) == bits(whole)


def test_a_batch_that_was_drawn_ahead_is_used_only_for_its_step(monkeypatch):
    """A worker that is asked for other steps than the next ones draws these."""
    monkeypatch.setattr(batch_sweeps, "LEAST_PIECE_ROWS", 2)
    blocks = sharding.cut("x", [7] * 7 + [4], X.shape[1])
    pool = LocalPool(ArraySource.of(X), sharding.split(blocks, 1), WorkerSetup(EUCLIDEAN))
    pool.summarize()

    for seed, step in [(0, 0), (0, 1), (0, 1), (0, 5), (1, 6), (0, 6)]:
        batches = Batches(N, 10, seed)
        seen = pool.sweep_batches(X[:1], batches, step, 1)

        numbers = batches.numbers(step)
        assert seen.partials.counts.tolist() == [len(numbers)]
        loss = ((X[numbers].astype(np.float64) - X[0]) ** 2).sum()
        assert as_float(seen.losses[0]) == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("shards", [2, 3, 5])
@pytest.mark.parametrize("m", [1, 3])
def test_the_estimator_has_the_same_bits_on_any_shards(monkeypatch, m, shards):
    whole = bits_of(model(X[:5], m).fit(X, steps=11, batch_size=10))

    dealt = []
    monkeypatch.setattr(
        resources,
        "split",
        lambda blocks, *_: dealt.append(sharding.split(blocks, shards)) or dealt[-1],
    )
    km = model(X[:5], m).fit(in_blocks(X, 7), steps=11, batch_size=10)

    assert bits_of(km) == whole
    assert len(dealt[0]) == shards


@pytest.mark.parametrize("m", [1, 2, 3, 7])
def test_an_open_fit_has_the_same_bits_whoever_looks_on(m):
    config = RunConfig(num_workers=0, progress=False, save_checkpoints_steps=2)

    plain = model(X[:5], m).fit(X, batch_size=26)
    looked_at = model(X[:5], m).fit(X, batch_size=26, monitors=[Looker()])
    saved = model(X[:5], m, config=config).fit(X, batch_size=26)

    assert plain.why_stopped() is Stop.NO_IMPROVEMENT
    assert bits_of(looked_at) == bits_of(plain)
    assert bits_of(saved) == bits_of(plain)


@pytest.mark.parametrize("m", [1, 2, 5, 7])
def test_a_last_epoch_that_ends_within_an_iteration_is_the_same_for_all(m):
    same = {"m": m, "size": 26, "rule": StopRule(max_epochs=4)}

    plain = run(Kept(), X, None, **same)
    looked_at = run(Kept(), X, None, looker=Looker(), **same)
    saved = run(Kept(), X, None, every=2, **same)

    assert plain.stop is Stop.EPOCHS
    assert bits(looked_at) == bits(plain)
    assert bits(saved) == bits(plain)


@given(
    first=st.integers(1, 4),
    then=st.integers(1, 9),
    m=st.integers(2, 15),
    exponent=st.sampled_from([-60, -25, 0, 25, 60]),
)
@example(first=3, then=4, m=8, exponent=-60)
@example(first=3, then=4, m=8, exponent=-25)
@example(first=3, then=4, m=8, exponent=60)
def test_steps_on_other_data_within_an_iteration_may_be_made_at_once(first, then, m, exponent):
    """Sums of data of another scale live on another grid."""
    results = []
    for looker in (None, Looker()):
        store = Kept()
        run(store, wide_rows(1), first, m=m)
        other = wide_rows(3, scale=2.0**exponent)
        results.append(run(store, other, then, m=m, looker=looker))

    assert bits(results[0]) == bits(results[1])


def test_a_monitor_sees_every_step_and_none_is_made_beyond_the_one_it_stops_at():
    class Third(Looker):
        def after_step(self, state):
            super().after_step(state)
            return state.iteration == 3

    looker = Third()

    km = model(X[:5], 2).fit(X, steps=9, batch_size=10, monitors=[looker])

    assert looker.seen == [1, 2, 3]
    assert (len(km.history()), km.why_stopped()) == (3, Stop.MONITOR)
    assert km.get_variable_value("update_in_steps") == 1


def test_what_steps_there_were_is_saved_when_a_fit_is_cut_off():
    km = model(X[:5], 4)

    with pytest.raises(CutOff):
        km.fit(X, steps=20, batch_size=10, monitors=[Looker(7)])

    assert (len(km.history()), km.why_stopped()) == (7, None)
    assert km.get_variable_value("update_in_steps") == 1
    km.fit(X, steps=20, batch_size=10)
    assert bits_of(km) == bits_of(model(X[:5], 4).fit(X, steps=20, batch_size=10))


# --- a tail, other data, another m -----------------------------------------------------------


def test_a_tail_is_not_visible_but_kept():
    km = model(X[:5], 3).fit(X, steps=3, batch_size=10)
    synced = km.clusters()

    km.fit(X, steps=2, batch_size=10)

    np.testing.assert_array_equal(km.clusters(), synced)
    once = model(synced).fit(X, steps=1)
    assert km.score(X) == pytest.approx(losses_of(once)[0], rel=1e-12)
    assert km.get_variable_value("update_in_steps") == 1
    assert km.counts().sum() == 20
    assert not np.array_equal(km.get_variable_value("clusters_updated"), synced)
    km.fit(X, steps=1, batch_size=10)
    assert not np.array_equal(km.clusters(), synced)
    assert km.counts().tolist() == [0] * 5
    assert bits_of(km) == bits_of(model(X[:5], 3).fit(X, steps=6, batch_size=10))


@pytest.mark.parametrize("metric", [EUCLIDEAN, COSINE])
def test_a_tail_goes_on_with_other_data(metric):
    rng = np.random.default_rng(0)
    first, other = (rng.normal(size=(n, 3)).astype(np.float32) for n in (40, 23))
    km, seed = model(first[:4], 3, metric), Seed(first[:4], 3, metric)

    km.fit(first, steps=2, batch_size=15)
    km.fit(other, steps=3, batch_size=9)
    km.fit(iter([first[:7]]))

    for step in range(2):
        seed.step(first[Batches(40, 15, 0).numbers(step)])
    for step in range(3):  # of an epoch of its own
        seed.step(other[Batches(23, 9, 0).numbers(step)])
    seed.step(first[:7])
    assert seed.margin > 1e-4
    check(km, seed)


def test_another_batch_size_begins_an_epoch_of_its_own():
    km, seed = model(X[:5]), Seed(X[:5], 1)

    km.fit(X, steps=2, batch_size=10).fit(X, steps=2, batch_size=11).fit(X, steps=1, batch_size=11)

    for size, step in [(10, 0), (10, 1), (11, 0), (11, 1), (11, 2)]:
        seed.step(X[Batches(N, size, 0).numbers(step)])
    np.testing.assert_allclose(losses_of(km), seed.losses, rtol=1e-5)
    assert km.counts().tolist() == seed.counts.tolist()


def test_full_batch_forgets_the_counts_of_mini_batch_and_mini_batch_begins_them_anew(tmp_path):
    place = str(tmp_path / "m")
    rng = np.random.default_rng(4)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    model(x[:4], place=place, use_mini_batch=False).fit(x, steps=2)
    full = model(x[:4], place=place)
    start = full.clusters()

    for m in (1, 3):
        km = model(x[:4], m, place=place).fit(x, steps=2, batch_size=10)

        seed = Seed(start, m)
        for step in range(2):
            seed.step(x[Batches(40, 10, 0).numbers(step)])
        assert seed.margin > 1e-4
        np.testing.assert_allclose(losses_of(km)[-2:], seed.losses, rtol=1e-5)
        np.testing.assert_allclose(km.clusters(), seed.master, rtol=1e-5, atol=1e-6)
        assert km.counts().tolist() == seed.counts.tolist()

        back = model(x[:4], place=place, use_mini_batch=False)
        centers = back.clusters()
        back.fit(x, steps=1)

        assert back.get_variable_names() == ["clusters", "global_step", "initialized"]
        assert state_of(back).accumulators is None
        once = model(centers, use_mini_batch=False).fit(x, steps=1)
        np.testing.assert_array_equal(back.clusters(), once.clusters())
        np.testing.assert_array_equal(back.counts(), once.counts())
        start = back.clusters()


@pytest.mark.parametrize(("m", "other"), [(1, 2), (2, 1), (2, 3)])
def test_another_m_warns_and_begins_anew_at_the_centers(tmp_path, m, other):
    place = str(tmp_path / "m")
    rng = np.random.default_rng(5)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    first = model(x[:4], m, place=place).fit(x, steps=3, batch_size=10)
    start = first.clusters()

    km = model(x[:4], other, place=place)
    with pytest.warns(UserWarning, match=f"mini_batch_steps_per_iteration={m}.*begin anew"):
        km.fit(x, steps=5, batch_size=10)

    seed = Seed(start, other)
    for step in range(3, 8):  # the data are the same: the epoch goes on
        seed.step(x[Batches(40, 10, 0).numbers(step)])
    assert seed.margin > 1e-4
    np.testing.assert_allclose(km.clusters(), seed.master, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses_of(km)[3:], seed.losses, rtol=1e-5)
    assert km.counts().tolist() == seed.counts.tolist()
    km.fit(x, steps=1, batch_size=10)  # and warns no more: a warning is an error here


def test_steps_with_another_m_before_a_cut_off_are_no_iteration_to_compare_with(tmp_path):
    place = str(tmp_path / "m")
    with pytest.raises(CutOff):
        model(X[:5], 2, place=place).fit(X, batch_size=10, monitors=[Looker(3)])

    km = model(X[:5], 3, place=place, relative_tolerance=1e9)
    with pytest.warns(UserWarning, match="begin anew"):
        km.fit(X, batch_size=10)

    assert (len(km.history()), km.why_stopped()) == (3 + 2 * 3, Stop.TOLERANCE)


# --- when it stops ---------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 3])
def test_steps_add_and_max_steps_is_a_total(m):
    km = model(X[:5], m)
    counted = []
    limits = [{"steps": 4}, {"steps": 1}, {"max_steps": 7}, {"max_steps": 7}, {"max_steps": 2}]
    for limit in limits:
        km.fit(X, batch_size=10, **limit)
        counted.append((len(km.history()), km.why_stopped()))

    assert [steps for steps, _ in counted] == [4, 5, 7, 7, 7]
    assert {reason for _, reason in counted} == {Stop.STEPS}
    assert [line.iteration for line in km.history()] == list(range(1, 8))
    assert bits_of(km) == bits_of(model(X[:5], m).fit(X, max_steps=7, batch_size=10))


def test_a_number_of_steps_is_made_also_where_nothing_improves():
    x = np.ones((8, 2), np.float32)

    km = model(x[:1]).fit(x, steps=300)
    assert (len(km.history()), km.why_stopped()) == (300, Stop.STEPS)

    km = model(x[:1]).fit(x, max_steps=150)
    assert (len(km.history()), km.why_stopped()) == (150, Stop.STEPS)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_relative_tolerance_compares_iterations_and_is_strict(m):
    def fitted(tolerance):
        return model(X[:5], m, relative_tolerance=tolerance).fit(X, steps=20 * m, batch_size=10)

    lines = losses_of(fitted(None))
    assert len(lines) == 20 * m
    totals = np.array(lines).reshape(20, m).sum(axis=1).tolist()
    changes = [abs(b - a) / (1 + abs(a)) for a, b in pairwise(totals)]
    lowest = int(np.argmin(changes[:-3]))

    at_it, above_it = fitted(changes[lowest]), fitted(np.nextafter(changes[lowest], 1))

    assert above_it.why_stopped() is Stop.TOLERANCE
    assert losses_of(above_it) == lines[: (lowest + 2) * m]
    later = next((i for i, c in enumerate(changes) if c < changes[lowest]), 18)
    assert losses_of(at_it) == lines[: (later + 2) * m]
    assert len(losses_of(at_it)) > len(losses_of(above_it))


@pytest.mark.parametrize("m", [1, 3])
def test_every_fit_makes_two_iterations_before_the_tolerance_can_end_it(m):
    km = model(X[:5], m, relative_tolerance=1e9)
    for calls in (1, 2, 3):
        km.fit(X[calls:], batch_size=10)

        assert (len(km.history()), km.why_stopped()) == (2 * m * calls, Stop.TOLERANCE)
    if m > 1:  # a fit that begins within an iteration ends it first
        km.fit(X, steps=1, batch_size=10).fit(X, batch_size=10)
        assert len(km.history()) == 6 * m + 3 * m


def test_a_tolerance_of_0_never_ends_a_fit():
    x = np.ones((8, 2), np.float32)

    km = model(x[:1], relative_tolerance=0).fit(x, steps=40)
    assert (len(km.history()), km.why_stopped()) == (40, Stop.STEPS)

    km = model(x[:1], relative_tolerance=1e-300).fit(x)
    assert (len(km.history()), km.why_stopped()) == (2, Stop.TOLERANCE)


@pytest.mark.parametrize("m", [1, 4])
def test_an_open_fit_ends_after_ten_iterations_without_improvement(m):
    x = np.ones((8, 2), np.float32)

    km = model(x[:1], m).fit(x, batch_size=4)

    assert (len(km.history()), km.why_stopped()) == (11 * m, Stop.NO_IMPROVEMENT)
    km.fit(x[:6], batch_size=4)  # and a later one on other data begins to wait anew
    assert len(km.history()) == 22 * m


@pytest.mark.parametrize(("size", "steps"), [(4, 100), (2, 200)])
def test_an_open_fit_that_goes_on_improving_ends_after_a_hundred_epochs(size, steps):
    x = np.array([[0.0], [0.25], [0.5], [0.125]], np.float32)

    km = model(np.array([[1000.0]])).fit(x, batch_size=size)

    assert (len(km.history()), km.why_stopped()) == (steps, Stop.EPOCHS)


def test_an_iterator_ends_a_fit_with_its_end():
    x = np.ones((8, 2), np.float32)

    km = model(x[:1]).fit(x for _ in range(40))

    assert (len(km.history()), km.why_stopped()) == (40, Stop.END_OF_INPUT)


def test_an_open_fit_that_is_cut_off_waits_as_long_as_one_that_was_not():
    x = np.ones((8, 2), np.float32)
    km = model(x[:1])

    with pytest.raises(CutOff):
        km.fit(x, monitors=[Looker(6)])
    km.fit(x)

    assert (len(km.history()), km.why_stopped()) == (11, Stop.NO_IMPROVEMENT)


# --- rows of a batch -------------------------------------------------------------------------


def rows_of(km):
    return [line.rows for line in km.history()]


def test_a_batch_has_65536_rows_by_default_and_partial_fit_takes_all():
    x = np.arange(70_000, dtype=np.float32).reshape(-1, 1)

    assert rows_of(model(x[:1]).fit(x, steps=3)) == [65_536, 4_464, 65_536]
    assert rows_of(model(x[:1]).partial_fit(x)) == [70_000]
    assert rows_of(model(x[:1]).partial_fit(x, steps=2, batch_size=50_000)) == [50_000, 20_000]


def test_a_batch_has_at_most_all_rows():
    a = model(X[:5]).fit(X, steps=2)
    b = model(X[:5]).fit(X, steps=2, batch_size=N)
    c = model(X[:5]).fit(X, steps=1, batch_size=N + 1)
    c.fit(X, steps=1, batch_size=10 * N)
    d = model(X[:5]).partial_fit(X).partial_fit(X)

    assert rows_of(a) == [N, N]
    assert bits_of(a) == bits_of(b) == bits_of(c) == bits_of(d)


def test_a_full_batch_visits_all_rows_and_has_no_batch_size():
    km = model(X[:5], use_mini_batch=False)

    assert rows_of(km.fit(X, steps=2)) == [N, N]
    with pytest.raises(ValueError, match=r"batch_size=10 .* use_mini_batch=False"):
        km.fit(X, batch_size=10)


def test_the_seed_decides_the_batches():
    fits = {
        seed: losses_of(model(X[:5], random_seed=seed).fit(X, steps=4, batch_size=10))
        for seed in range(4)
    }

    assert len({tuple(losses) for losses in fits.values()}) == 4
    again = model(X[:5], random_seed=2).fit(X, steps=4, batch_size=10)
    assert losses_of(again) == fits[2]


def test_a_plain_mini_batch_fit_warns_of_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        km = KMeansClustering(3, str(tmp_path / "m"), config=HERE).fit(X)

    assert km.clusters().shape == (3, 4)


@pytest.mark.parametrize(("batch_size", "told"), [(None, 1), (len(X), 1), (len(X) - 1, 0)])
def test_mini_batch_of_everything_is_told_of_once(tmp_path, caplog, batch_size, told):
    config = RunConfig(num_workers=0, progress=False)
    km = KMeansClustering(5, str(tmp_path), X[:5], config=config)

    km.fit(X, batch_size=batch_size, steps=3)

    said = [r.getMessage() for r in caplog.records if "visits everything" in r.getMessage()]
    assert len(said) == told
    assert all("--no-use-mini-batch" in text for text in said)


def test_the_smoothed_loss_of_a_step_stays_and_begins_anew_with_each_fit(tmp_path):
    config = RunConfig(num_workers=0, progress=False)

    def fit(name, *steps):
        for each in steps:
            km = KMeansClustering(5, str(tmp_path / name), X[:5], config=config)
            km.fit(X, batch_size=10, max_steps=each)
        return km.history()

    whole, parts = fit("whole", 9), fit("parts", 4, 9)
    assert whole == parts
    assert [line.smoothed for line in parts[:4]] == [line.smoothed for line in whole[:4]]
    for line in (whole[0], parts[0], parts[4]):
        assert line.smoothed == line.loss_per_row
    assert whole[4].smoothed != whole[4].loss_per_row
