"""Monitors of a fit: they see every step, can end it, and change no bit of it."""

from __future__ import annotations

import numpy as np
import pytest

from ray_kmeans import (
    EarlyStopping,
    KMeansClustering,
    Monitor,
    RunConfig,
)
from ray_kmeans.algorithm.state import FitState, Stop
from ray_kmeans.errors import ConfigError

HERE = RunConfig(num_workers=0, progress=False)
X = np.random.default_rng(7).normal(size=(200, 5)).astype(np.float32)
K = 6
STEPS = 7
WAYS = {
    "full batch": ({"use_mini_batch": False}, {}),
    "mini-batch": ({}, {"batch_size": 40}),
    "mini-batch, m = 3": ({"mini_batch_steps_per_iteration": 3}, {"batch_size": 40}),
    "cosine": ({"distance_metric": "cosine"}, {"batch_size": 40}),
}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def way(request):
    return request.param


@pytest.fixture
def new(tmp_path, way):
    """Return a maker of models that train in one of the ways."""

    def make(name, config=HERE, **params):
        params = {"initial_clusters": X[:K], "config": config, **way[0], **params}
        return KMeansClustering(K, f"memory:/{tmp_path}/{name}", **params)

    return make


@pytest.fixture
def fit(way):
    """Return what fits a model in that way."""
    return lambda km, x=X, **more: km.fit(x, **({} if "input_fn" in more else way[1]), **more)


def everything(km):
    return (
        km.history(),
        km.why_stopped(),
        {name: km.get_variable_value(name).tolist() for name in km.get_variable_names()},
    )


def model_of(km):
    """All but why the last fit ended."""
    history, _, values = everything(km)
    return history, values


def global_step(km):
    return km.get_variable_value("global_step").item()


class Recorder(Monitor):
    """Writes down who was called with which state; raises or asks to stop where it is told to."""

    def __init__(self, calls, name="m", *, at=None, failure=None, stop_at=None):
        self.calls, self.name, self.at, self.failure = calls, name, at, failure
        self.stop_at = stop_at
        self.states = []

    def _called(self, what, state):
        self.calls.append((self.name, what, state.iteration))
        self.states.append(state)
        if self.failure is not None and self.at in (what, (what, state.iteration)):
            raise self.failure

    def begin(self, state):
        self._called("begin", state)

    def after_step(self, state):
        self._called("after_step", state)
        return None if self.stop_at is None else state.iteration >= self.stop_at

    def end(self, state):
        self._called("end", state)


def a_fit(names, first, last):
    """The calls of one whole fit from one step to another."""
    whats = [("begin", first)]
    whats += [("after_step", i) for i in range(first + 1, last + 1)] + [("end", last)]
    return [(name, what, i) for what, i in whats for name in names]


# --- what is called --------------------------------------------------------------------------


def test_all_are_called_in_order_before_after_and_at_the_end_of_every_step(new, fit):
    calls = []

    fit(new("a"), steps=STEPS, monitors=[Recorder(calls, "a"), Recorder(calls, "b")])

    assert calls == a_fit("ab", 0, STEPS)


def test_the_state_is_that_of_the_model_then(new, fit):
    monitor = Recorder([])
    fit(new("a"), steps=4, monitors=[monitor])

    assert [state.iteration for state in monitor.states] == [0, 1, 2, 3, 4, 4]
    for number, state in enumerate(monitor.states):
        assert type(state) is FitState
        km = new(f"call {number}")
        if state.iteration == 0:
            assert state.history == ()
            continue
        fit(km, steps=state.iteration)
        np.testing.assert_array_equal(state.centers, km.clusters())
        np.testing.assert_array_equal(state.counts, km.counts())
        assert state.history == km.history()
        assert state.history[-1].iteration == state.iteration


def test_a_second_fit_begins_where_the_first_one_ended(new, fit):
    calls = []
    km = fit(new("a"), steps=2, monitors=[Recorder(calls)])
    calls.clear()

    fit(km, steps=3, monitors=[Recorder(calls)])

    assert calls == a_fit("m", 2, 5)


def test_partial_fit_calls_them_too(new):
    calls = []
    km = new("a")

    km.partial_fit(X, monitors=[Recorder(calls)])
    km.partial_fit(X[:100], monitors=[Recorder(calls)])

    assert calls == a_fit("m", 0, 1) + a_fit("m", 1, 2)


def test_a_stream_calls_them_after_every_batch(tmp_path):
    calls = []
    km = KMeansClustering(K, str(tmp_path), X[:K], config=HERE)

    km.fit((X[i : i + 50] for i in range(0, 200, 50)), monitors=[Recorder(calls)])

    assert calls == a_fit("m", 0, 4)
    assert km.why_stopped() is Stop.END_OF_INPUT


@pytest.mark.parametrize("every", [1, 2, 5])
def test_monitors_do_not_change_any_bit(new, fit, every):
    config = RunConfig(num_workers=0, progress=False, save_checkpoints_steps=every)
    alone = fit(new("alone", config), steps=STEPS)

    watched = fit(new("watched", config), steps=STEPS, monitors=[Monitor(), Recorder([])])

    assert everything(watched) == everything(alone)


def test_monitors_do_not_change_when_an_open_fit_ends(new, fit):
    alone = fit(new("alone"))

    assert everything(fit(new("watched"), monitors=[Monitor()])) == everything(alone)


def test_a_fit_that_has_nothing_to_do_calls_nobody(new, fit):
    calls = []
    km = fit(new("a"), max_steps=2)

    fit(km, max_steps=2, monitors=[Recorder(calls)])

    assert calls == []


@pytest.mark.parametrize("none", [None, [], ()])
def test_no_monitors_are_no_monitors(new, fit, none):
    assert global_step(fit(new("a"), steps=2, monitors=none)) == 2


# --- who ends a fit --------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_a_monitor_ends_the_fit_after_its_step(new, fit, at):
    calls = []
    km = new("a")

    fit(km, steps=STEPS, monitors=[Recorder(calls, "a"), Recorder(calls, "b", stop_at=at)])

    assert km.why_stopped() is Stop.MONITOR
    assert calls == a_fit("ab", 0, at)
    assert model_of(km) == model_of(fit(new("as many"), steps=at))


def test_a_fit_that_a_monitor_ended_goes_on(new, fit):
    whole = fit(new("whole"), steps=5)
    km = fit(new("a"), monitors=[Recorder([], stop_at=2)])

    fit(km, steps=3)

    assert everything(km) == everything(whole)


def test_a_monitor_that_stops_at_once_leaves_one_step_in_every_fit(new, fit):
    km = new("a")

    for done in (1, 2, 3):
        fit(km, monitors=[Recorder([], stop_at=0)])

        assert global_step(km) == done
        assert km.why_stopped() is Stop.MONITOR


def test_at_the_last_step_the_number_of_steps_is_the_reason(new, fit):
    km = fit(new("a"), steps=3, monitors=[Recorder([], stop_at=3)])

    assert km.why_stopped() is Stop.STEPS


def test_early_stopping_ends_a_fit_as_a_monitor(tmp_path):
    km = KMeansClustering(K, str(tmp_path), X[:K], use_mini_batch=False, config=HERE)
    unbounded = KMeansClustering(K, str(tmp_path / "b"), X[:K], use_mini_batch=False, config=HERE)
    losses = [line.inertia for line in unbounded.fit(X).history()]
    bound = 0.01
    small = next(i for i in range(1, len(losses)) if losses[i] >= losses[i - 1] * (1 - bound))
    assert small + 1 < len(losses)

    km.fit(X, monitors=[EarlyStopping(patience=1, min_delta=bound)])

    assert km.why_stopped() is Stop.MONITOR
    assert [line.inertia for line in km.history()] == losses[: small + 1]


def test_early_stopping_ends_an_endless_stream(tmp_path):
    km = KMeansClustering(K, str(tmp_path), X[:K], config=HERE)

    def forever():
        for _ in range(100):
            yield X
        pytest.fail("it does not end")

    km.fit(forever, monitors=[EarlyStopping(patience=2, min_delta=0.05)])

    assert km.why_stopped() is Stop.MONITOR
    assert global_step(km) > 2


# --- what goes wrong in a monitor ------------------------------------------------------------


class Failure(Exception):
    pass


@pytest.mark.parametrize("kind", [Failure, KeyboardInterrupt, StopIteration, SystemExit])
@pytest.mark.parametrize("at", ["begin", ("after_step", 1), ("after_step", 4), "end"])
def test_an_exception_of_any_hook_ends_the_fit_as_it_is(tmp_path, at, kind):
    km = KMeansClustering(K, str(tmp_path), X[:K], use_mini_batch=False, config=HERE)
    failure = kind("of the user")

    with pytest.raises(kind) as caught:
        km.fit(X, steps=STEPS, monitors=[Recorder([], at=at, failure=failure)])

    assert caught.value is failure


@pytest.mark.parametrize("kind", [Failure, KeyboardInterrupt, SystemExit])
def test_steps_before_an_exception_of_any_kind_are_kept(tmp_path, kind):
    km = KMeansClustering(K, str(tmp_path), X[:K], use_mini_batch=False, config=HERE)
    calls = []

    with pytest.raises(kind):
        km.fit(X, monitors=[Recorder(calls, at=("after_step", 3), failure=kind())])

    assert global_step(km) == 3
    assert calls[-1] == ("m", "end", 3)


@pytest.mark.parametrize("at", [1, 2, 3, 4, 6, STEPS])
def test_after_a_failure_the_steps_made_are_kept_all_end_and_the_next_fit_goes_on(new, fit, at):
    undisturbed = fit(new("undisturbed"), steps=STEPS)
    km, calls = new("a"), []
    failing = Recorder(calls, "b", at=("after_step", at), failure=Failure())

    with pytest.raises(Failure):
        fit(km, steps=STEPS, monitors=[Recorder(calls, "a"), failing, Recorder(calls, "c")])

    assert global_step(km) == at
    assert km.why_stopped() is None
    assert model_of(km) == model_of(fit(new("as many"), steps=at))
    assert [call for call in calls if call[1] == "end"] == [(name, "end", at) for name in "abc"]
    fit(km, steps=STEPS)
    assert everything(km) == everything(undisturbed)


def test_a_failure_at_the_begin_leaves_the_model_as_it_was(new, fit):
    undisturbed = fit(fit(new("undisturbed"), steps=2), steps=3)
    km, calls = fit(new("a"), steps=2), []
    before = everything(km)
    monitors = [Recorder(calls, "a"), Recorder(calls, "b", at="begin", failure=Failure())]

    with pytest.raises(Failure):
        fit(km, steps=3, monitors=monitors)

    assert everything(km) == before
    assert calls == [("a", "begin", 2), ("b", "begin", 2), ("a", "end", 2)]
    fit(km, steps=3)
    assert everything(km) == everything(undisturbed)


def test_a_failure_at_the_end_loses_no_step(new, fit):
    undisturbed = fit(new("undisturbed"), max_steps=STEPS)
    km, calls = new("a"), []
    monitors = [Recorder(calls, "a", at="end", failure=Failure()), Recorder(calls, "b")]

    with pytest.raises(Failure):
        fit(km, max_steps=STEPS, monitors=monitors)

    assert calls == a_fit("ab", 0, STEPS)
    assert global_step(km) == STEPS
    fit(km, max_steps=STEPS)
    assert model_of(km) == model_of(undisturbed)


def test_of_two_failures_the_first_is_heard(new, fit):
    first, second = Failure("first"), Failure("second")
    monitors = [Recorder([], at="end", failure=second)]
    monitors += [Recorder([], at=("after_step", 2), failure=first)]

    with pytest.raises(Failure) as caught:
        fit(new("a"), steps=STEPS, monitors=monitors)

    assert caught.value is first


def test_a_stream_that_a_monitor_cut_off_goes_on_with_the_rest(tmp_path):
    def model(name):
        return KMeansClustering(K, str(tmp_path / name), X[:K], config=HERE)

    undisturbed = model("undisturbed").fit(X[i : i + 40] for i in range(0, 200, 40))
    km, stream = model("a"), (X[i : i + 40] for i in range(0, 200, 40))

    with pytest.raises(Failure):
        km.fit(stream, monitors=[Recorder([], at=("after_step", 2), failure=Failure())])
    assert global_step(km) == 2
    km.fit(stream)

    assert everything(km) == everything(undisturbed)


def test_failures_at_every_step_cost_nothing_but_the_calls(new, fit):
    undisturbed = fit(new("undisturbed"), steps=4)
    km = new("a")

    for at in (1, 2, 3):
        monitor = Recorder([], at=("after_step", at), failure=Failure())
        with pytest.raises(Failure):
            fit(km, steps=4, monitors=[monitor])
        assert global_step(km) == at
    fit(km, steps=4)

    assert everything(km) == everything(undisturbed)


# --- wrong monitors --------------------------------------------------------------------------


class SessionRunHook:
    def before_run(self, context): ...
    def end(self, session): ...


@pytest.mark.parametrize("call", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    ("monitors", "message"),
    [
        (Monitor(), r"monitors=<.*> must be a list of monitors"),
        ("early", "monitors='early' must be a list"),
        ([Monitor], r"monitors\[0\]=<class .*> is a class; give an instance: Monitor\("),
        ([Monitor(), object()], r"monitors\[1\]=<object .* has no method begin"),
        ([SessionRunHook()], r"monitors\[0\]=.* hook of TensorFlow"),
    ],
    ids=["one", "text", "class", "object", "hook"],
)
def test_wrong_monitors_are_refused_before_anything_is_written(tmp_path, call, monitors, message):
    km = KMeansClustering(K, str(tmp_path / "m"), X[:K], config=HERE)

    with pytest.raises(ConfigError, match=message):
        getattr(km, call)(X, monitors=monitors)

    assert not (tmp_path / "m").exists()
