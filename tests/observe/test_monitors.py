"""What the user hangs into a fit: the base class, early stopping, and how the run calls them."""

from __future__ import annotations

import logging
from collections import UserList
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.errors import ConfigError
from ray_kmeans.observe.monitors import (
    EarlyStopping,
    Monitor,
    Monitors,
    check_monitors,
)
from tests.support.log_lines import step_line
from tests.support.refusals import named

START = FitState.initial(np.zeros((2, 3), np.float32))


def step(state, loss, rows=200):
    """The state after one more step, whose rows lie at this squared distance on average."""
    line = step_line(state.iteration + 1, loss * rows, rows)
    return replace(state, iteration=line.iteration, history=(*state.history, line))


def fit(monitor, losses, state=START, rows=200):
    """Fit until the monitor says stop; return the state then, or after all losses."""
    state = replace(state, began_at=state.iteration)
    monitor.begin(state)
    for loss in losses:
        state = step(state, loss, rows)
        if monitor.after_step(state):
            break
    monitor.end(state)
    return state


class Recorder(Monitor):
    """Writes down who was called with which state, and raises where it is told to."""

    def __init__(self, calls, name="m", *, raises=(), stop=None):
        self.calls, self.name, self.raises, self.stop = calls, name, raises, stop

    def _called(self, what, state):
        self.calls.append((self.name, what, state.iteration))
        if what in self.raises:
            raise ArithmeticError(f"{what} of {self.name}")

    def begin(self, state):
        self._called("begin", state)

    def after_step(self, state):
        self._called("after_step", state)
        return self.stop

    def end(self, state):
        self._called("end", state)


class Duck:
    """No Monitor by birth."""

    def begin(self, state): ...
    def after_step(self, state): ...
    def end(self, state): ...


class SessionRunHook:
    """Looks as the seed's monitors do."""

    def begin(self): ...
    def before_run(self, run_context): ...
    def after_run(self, run_context, run_values): ...
    def end(self, session): ...


def test_a_monitor_that_overrides_nothing_changes_nothing():
    state = fit(Monitor(), [3.0, 3.0, 3.0])

    assert state.iteration == 3
    assert not Monitors([Monitor()]).after_step(state)


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "steps"),
    [
        ([5, 4, 3, 2, 1], 1, 0.0, 5),  # it falls to the end
        ([5, 5, 5, 5, 5], 1, 0.0, 2),
        ([5, 5, 5, 5, 5], 3, 0.0, 4),
        ([5, 6, 5, 4, 4, 4, 4], 3, 0.0, 7),  # progress starts the count anew
        ([5, 6, 5.5, 5.2, 1], 3, 0.0, 4),  # lower than the one before is not enough
        ([100, 90, 80], 1, 0.1, 2),  # by exactly min_delta is no progress
        ([100, 89, 80], 1, 0.1, 3),
        ([100, 95, 89, 85, 80], 2, 0.1, 5),  # small gains add up
        ([0, 0, 0, 0], 2, 0.0, 3),
        ([1e-30, 9e-31, 8e-31], 1, 0.05, 3),  # relative: the unit of the data does not count
    ],
)
def test_early_stopping_ends_after_so_many_steps_without_progress(
    losses, patience, min_delta, steps
):
    assert fit(EarlyStopping(patience, min_delta), losses).iteration == steps


def without_progress(losses, patience, min_delta):
    """The definition, in its own words: the number of steps after which the fit ends."""
    best = 0  # the step of the last progress
    for now in range(1, len(losses)):
        if losses[best] - losses[now] > min_delta * losses[best]:
            best = now
        if now - best == patience:
            return now + 1
    return len(losses)


@given(
    losses=st.lists(st.integers(1, 9).map(float), min_size=1, max_size=30),
    patience=st.integers(1, 5),
    min_delta=st.sampled_from([0.0, 0.25, 0.5]),
)
def test_early_stopping_is_its_definition(losses, patience, min_delta):
    steps = fit(EarlyStopping(patience, min_delta), losses).iteration

    assert steps == without_progress(losses, patience, min_delta)


def test_early_stopping_compares_losses_per_row():
    state, monitor = START, EarlyStopping(patience=1)
    monitor.begin(state)
    for loss, rows in [(3.0, 100), (2.0, 900), (1.0, 10_000)]:
        state = step(state, loss, rows)
        assert not monitor.after_step(state)

    assert monitor.after_step(step(state, 1.5, 10))


def test_every_fit_has_its_patience_anew():
    monitor = EarlyStopping(patience=3)
    first = fit(monitor, [1.0, 1.0, 1.0])

    second = fit(monitor, [9.0] * 9, first)

    assert second.iteration == 3 + 4


@pytest.mark.parametrize("cut", range(5))
def test_early_stopping_of_a_fit_that_was_cut_off_ends_where_that_would_have(cut):
    losses = [5.0, 4.0, 4.5, 4.2, 4.1, 4.0, 3.0]
    whole = fit(EarlyStopping(patience=3), losses, fit(EarlyStopping(), [0.5, 0.5]))
    state = replace(whole, iteration=2 + cut, history=whole.history[: 2 + cut])
    monitor = EarlyStopping(patience=3)

    monitor.begin(state)
    for loss in losses[cut:]:
        state = step(state, loss)
        if monitor.after_step(state):
            break

    assert whole.iteration == state.iteration == 2 + 5


def test_early_stopping_counts_a_step_that_is_done_again_once():
    monitor = EarlyStopping(patience=3)
    second = step(step(START, 5.0), 5.0)
    monitor.begin(START)

    for state in [second, second, second, step(second, 5.0)]:
        assert not monitor.after_step(state)
    assert monitor.after_step(step(step(second, 5.0), 5.0))


@pytest.mark.parametrize("patience", [0, -1, 1.5, True, None, "3"])
def test_a_patience_that_is_no_number_of_steps_is_refused(patience):
    with pytest.raises(ConfigError, match=f"patience={patience!r} "):
        EarlyStopping(patience)


@pytest.mark.parametrize("min_delta", [-0.1, 1.0, float("nan"), float("inf"), False, None, "0"])
def test_a_min_delta_that_is_no_part_of_a_loss_is_refused(min_delta):
    with pytest.raises(ConfigError, match=f"min_delta={min_delta!r} "):
        EarlyStopping(min_delta=min_delta)


def test_numbers_of_numpy_are_numbers():
    monitor = EarlyStopping(np.int64(3), np.float32(0.5))

    # A float32 would make the comparison one of float32.
    assert (type(monitor.patience), type(monitor.min_delta)) == (int, float)


def test_all_monitors_see_all_states_in_order():
    calls = []
    monitors = Monitors([Recorder(calls, "a"), Recorder(calls, "b")])

    fit(monitors, [2.0, 1.0])

    expected = [("begin", 0), ("after_step", 1), ("after_step", 2), ("end", 2)]
    assert calls == [(name, what, i) for what, i in expected for name in "ab"]


@pytest.mark.parametrize("answers", [(True, None, False), (None, True, None), (False, None, True)])
def test_one_monitor_ends_the_fit_and_the_others_are_asked_all_the_same(answers):
    calls = []
    monitors = Monitors([Recorder(calls, i, stop=stop) for i, stop in enumerate(answers)])

    assert monitors.after_step(START) is True
    assert [name for name, _, _ in calls] == [0, 1, 2]


@pytest.mark.parametrize("answers", [(), (None,), (False, None)])
def test_a_fit_goes_on_where_no_monitor_ends_it(answers):
    assert Monitors([Recorder([], stop=stop) for stop in answers]).after_step(START) is False


def test_where_a_begin_raises_those_before_it_end_and_no_other():
    calls = []
    monitors = Monitors(
        [
            Recorder(calls, "a"),
            Recorder(calls, "b", raises=["end"]),
            Recorder(calls, "c", raises=["begin"]),
            Recorder(calls, "d"),
        ]
    )

    with pytest.raises(ArithmeticError, match="begin of c"):
        monitors.begin(START)
    monitors.end(START)

    assert [(name, what) for name, what, _ in calls] == [
        *(("a", "begin"), ("b", "begin"), ("c", "begin")),
        *(("a", "end"), ("b", "end")),
    ]


def test_all_monitors_end_though_some_raise_and_no_error_is_lost(caplog):
    calls = []
    monitors = Monitors(
        [Recorder(calls, "a"), *(Recorder(calls, name, raises=["end"]) for name in "bc")]
    )
    monitors.begin(START)
    calls.clear()

    with pytest.raises(ArithmeticError, match="end of b"):
        monitors.end(START)

    assert [name for name, _, _ in calls] == ["a", "b", "c"]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "end of c" in str(record.exc_info[1])


@pytest.mark.parametrize("n", [0, 1, 3])
def test_the_run_can_ask_whether_somebody_looks_on(n):
    assert len(Monitors([Monitor()] * n)) == n


def test_a_monitor_ends_once():
    calls = []
    monitors = Monitors([Recorder(calls, "a")])
    fit(monitors, [])

    monitors.end(START)

    assert [what for _, what, _ in calls] == ["begin", "end"]


def test_monitors_serve_one_fit_after_the_other():
    calls = []
    monitors = Monitors([Recorder(calls)])

    fit(monitors, [2.0], fit(monitors, [1.0]))

    assert [what for _, what, _ in calls] == ["begin", "after_step", "end"] * 2


@pytest.mark.parametrize("kind", [list, tuple, UserList])
def test_whatever_has_the_three_methods_is_a_monitor(kind):
    given = [Duck(), EarlyStopping(), Monitor()]

    assert check_monitors(kind(given)) == tuple(given)


@pytest.mark.parametrize("monitors", [None, [], ()])
def test_no_monitors_are_no_monitors(monitors):
    assert check_monitors(monitors) == ()


@pytest.mark.parametrize(
    ("monitors", "message"),
    [
        (Duck(), r"monitors=<.*Duck.*> must be a list.*monitors=\[\.\.\.\]"),
        (EarlyStopping, r"monitors=<class .*EarlyStopping.* must be a list"),
        ("", "monitors='' must be a list"),
        (3, "monitors=3 must be a list"),
        (iter([Duck()]), "monitors=.*iterator.* must be a list"),
        ([Duck(), EarlyStopping], r"monitors\[1\]=<class .*is a class.*EarlyStopping\(\.\.\.\)"),
        ([SessionRunHook()], r"monitors\[0\]=<.*SessionRunHook.* hook of TensorFlow.*after_step"),
        ([Duck(), 3], r"monitors\[1\]=3 has no method begin and no after_step and no end"),
        (["early"], r"monitors\[0\]='early' has no method begin and no after_step and no end"),
        ([None], r"monitors\[0\]=None has no method"),
    ],
    ids=named,
)
def test_what_is_no_list_of_monitors_is_refused_with_what_is_needed(monitors, message):
    with pytest.raises(ConfigError, match=message):
        check_monitors(monitors)


@pytest.mark.parametrize("missing", ["begin", "after_step", "end"])
def test_a_method_that_is_missing_or_no_method_is_named(missing):
    duck = Duck()
    setattr(duck, missing, None)

    with pytest.raises(ConfigError, match=rf"has no method {missing}\. .*Monitor"):
        check_monitors([duck])
