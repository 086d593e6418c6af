from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ray_kmeans.algorithm.lloyd import update
from ray_kmeans.algorithm.state import (
    Accumulators,
    FitState,
    Iteration,
    Stop,
)
from ray_kmeans.algorithm.stopping import StopRule, why_stop
from tests.conftest import labels_of, partials_of, summary_of
from tests.support import oracle


def sweep_and_update(state, X, summary):
    labels = labels_of(X, state.centers)
    seen = partials_of(X, labels, len(state.centers), summary.grid)
    return update(state, seen, summary)


def fit(X, state, cut_off_after=None, **rule):
    """Fit as the coordinator does; `cut_off_after` iterations it is killed, so no stop is noted."""
    summary = summary_of(X)
    state = state.begin(summary.digest)
    done = 0
    while (stop := why_stop(state, StopRule(**rule))) is None:
        if done == cut_off_after:
            return state
        state = sweep_and_update(state, X, summary)
        done += 1
    return replace(state, stop=stop)


def inertias(state):
    return [line.inertia for line in state.history]


@pytest.fixture
def blobs():
    rng = np.random.default_rng(3)
    middles = rng.normal(size=(6, 2)) * 3
    return (middles[rng.integers(0, 6, 300)] + rng.normal(size=(300, 2))).astype(np.float32)


def test_a_fit_equals_the_oracle(lattice):
    centers, history = oracle.lloyd(lattice, lattice[:5], 5)

    state = fit(lattice, FitState.initial(lattice[:5]), steps=5)

    np.testing.assert_array_equal(state.centers, centers)
    assert inertias(state) == pytest.approx(history, rel=1e-12)


def test_one_update_says_what_it_did(lattice):
    start = np.vstack([lattice[:3], np.full((1, 3), 1e6, np.float32)])

    state = sweep_and_update(FitState.initial(start), lattice, summary_of(lattice))

    [line] = state.history
    labels = oracle.labels(lattice, start)
    assert (state.iteration, line.iteration, line.empty) == (1, 1, 1)
    assert line.rows == len(lattice)
    assert state.counts.tolist() == np.bincount(labels, minlength=4).tolist()
    assert line.inertia == oracle.inertia(lattice, start, labels)
    assert line.shift == np.abs(state.centers.astype(np.float64) - start).max()
    assert line.shift > 0


def test_centers_that_a_policy_has_placed_stand_for_the_means(lattice):
    state, summary = FitState.initial(lattice[:3]), summary_of(lattice)
    seen = partials_of(lattice, labels_of(lattice, state.centers), 3, summary.grid)

    placed = update(state, seen, summary, centers=lattice[3:6])
    means = update(state, seen, summary)

    np.testing.assert_array_equal(placed.centers, lattice[3:6])
    [line], [other] = placed.history, means.history
    assert line.shift == np.abs(lattice[3:6] - lattice[:3]).max()
    assert line.digest == update(state, seen, summary, lattice[3:6].copy()).history[0].digest
    assert line.digest != other.digest
    assert replace(line, shift=other.shift, digest=other.digest) == other


def test_an_update_ends_what_mini_batch_had_begun(lattice):
    running = Accumulators(1, 0, np.zeros((2, 3, 3)))
    state = replace(FitState.initial(lattice[:3]), accumulators=running)

    assert sweep_and_update(state, lattice, summary_of(lattice)).accumulators is None


def test_the_shift_is_the_largest_move_in_any_direction():
    start = np.zeros((1, 2), np.float32)
    for move in ([1.0, -3.0], [-1.0, 3.0]):
        X = np.array([move], np.float32)

        state = sweep_and_update(FitState.initial(start), X, summary_of(X))

        assert state.history[0].shift == 3


def test_the_digest_of_an_iteration_names_its_centers(lattice):
    summary = summary_of(lattice)
    a, b = (FitState.initial(lattice[rows]) for rows in ([0, 1, 2], [0, 1, 3]))

    a, a_again, b = (sweep_and_update(state, lattice, summary) for state in (a, a, b))

    assert a.history[-1].digest == a_again.history[-1].digest
    assert a.history[-1].digest != b.history[-1].digest


def test_inertia_never_rises(lattice, blobs):
    for X in (lattice, blobs):
        state = fit(X, FitState.initial(X[:7]))

        assert len(state.history) > 3
        assert inertias(state) == sorted(inertias(state), reverse=True)


def test_a_fit_ends_where_no_center_moves(lattice):
    state = fit(lattice, FitState.initial(lattice[:5]))

    again = sweep_and_update(state, lattice, summary_of(lattice))

    assert state.stop is Stop.CONVERGED
    assert [line.shift == 0 for line in state.history] == [False] * (state.iteration - 1) + [True]
    np.testing.assert_array_equal(again.centers, state.centers)


def test_a_fit_ends_after_the_steps_asked_for(blobs):
    state = fit(blobs, FitState.initial(blobs[:6]), steps=3)

    assert (state.iteration, state.stop) == (3, Stop.STEPS)


def test_no_step_is_no_step(blobs):
    state = fit(blobs, FitState.initial(blobs[:6]), steps=0)

    assert (state.iteration, state.stop, state.history) == (0, Stop.TREE, ())


def test_max_steps_counts_over_all_fits_and_steps_within_one(blobs):
    first = fit(blobs, FitState.initial(blobs[:6]), steps=3)
    second = fit(blobs, first, steps=3)
    third = fit(blobs, second, steps=3, max_steps=7)
    fourth = fit(blobs, third, steps=3, max_steps=7)

    assert [state.iteration for state in (first, second, third, fourth)] == [3, 6, 7, 7]
    assert fourth.stop is Stop.STEPS
    assert [line.iteration for line in fourth.history] == [1, 2, 3, 4, 5, 6, 7]


def test_a_fixed_point_is_a_better_reason_than_the_last_step(lattice):
    n_iter = fit(lattice, FitState.initial(lattice[:5])).iteration

    state = fit(lattice, FitState.initial(lattice[:5]), steps=n_iter)

    assert state.stop is Stop.CONVERGED


def test_a_fit_ends_when_the_loss_changes_by_less_than_the_tolerance(blobs):
    loss = inertias(fit(blobs, FitState.initial(blobs[:6])))
    changes = [abs(b - a) / (1 + abs(a)) for a, b in pairwise(loss)]
    tolerance = 0.02
    first = next(i for i, change in enumerate(changes) if change < tolerance)

    state = fit(blobs, FitState.initial(blobs[:6]), relative_tolerance=tolerance)

    assert first > 0
    assert (state.stop, state.iteration) == (Stop.TOLERANCE, first + 2)


def line(iteration, *, inertia=1.0, shift=1.0, digest=None):
    digest = digest or f"centers {iteration}"
    return Iteration(iteration, 300, inertia, shift, empty=0, digest=digest)


def state_with(*lines, began_at=0):
    centers = np.zeros((1, 1), np.float32)
    return FitState(
        centers,
        np.zeros(1, np.int64),
        iteration=len(lines),
        began_at=began_at,
        history=tuple(lines),
        data_name="data",
    )


def test_centers_that_come_back_are_a_cycle():
    apart = state_with(line(1), line(2), line(3))
    back = state_with(line(1, digest="a"), line(2), line(3, digest="a"))

    assert why_stop(apart, StopRule()) is None
    assert why_stop(back, StopRule()) is Stop.CYCLE


def test_the_change_of_the_loss_is_relative_to_one_plus_the_loss():
    small, large = (state_with(line(1, inertia=a), line(2, inertia=a * 0.9)) for a in (0.01, 100))
    rule = StopRule(relative_tolerance=0.05)

    assert why_stop(small, rule) is Stop.TOLERANCE
    assert why_stop(large, rule) is None


def test_a_reason_to_stop_is_not_taken_from_an_earlier_fit():
    lines = [line(1, digest="a"), line(2, shift=0.0), line(3, digest="a")]
    rule = StopRule(steps=2, relative_tolerance=0.5)

    assert why_stop(state_with(*lines[:2], began_at=2), rule) is None  # the shift of iteration 2
    assert why_stop(state_with(*lines, began_at=2), rule) is None  # loss and centers of iteration 1
    assert why_stop(state_with(*lines, began_at=1), rule) is not None


def test_a_state_that_has_stopped_says_why():
    stopped = replace(state_with(line(1)), stop=Stop.TOLERANCE)

    assert why_stop(stopped, StopRule()) is Stop.TOLERANCE


@pytest.mark.parametrize("killed_after", [0, 1, 3])
def test_a_fit_that_was_cut_off_equals_one_that_was_not(blobs, killed_after):
    whole = fit(blobs, FitState.initial(blobs[:6]), steps=5)
    cut_off = fit(blobs, FitState.initial(blobs[:6]), cut_off_after=killed_after, steps=5)

    continued = fit(blobs, cut_off, steps=5)

    assert cut_off.iteration == killed_after
    np.testing.assert_array_equal(continued.centers, whole.centers)
    np.testing.assert_array_equal(continued.counts, whole.counts)
    assert continued.history == whole.history
    assert (continued.began_at, continued.stop) == (0, Stop.STEPS)


def test_a_fit_on_other_data_starts_anew_from_the_centers(blobs, lattice):
    converged = fit(blobs, FitState.initial(blobs[:6]))
    cut_off = fit(blobs, FitState.initial(blobs[:6]), cut_off_after=2, steps=5)

    for before in (converged, cut_off):
        state = fit(np.ascontiguousarray(lattice[:, :2]), before, steps=2)

        assert (state.began_at, state.iteration) == (before.iteration, before.iteration + 2)
        assert state.history[: before.iteration] == before.history


def test_the_first_epoch_of_data_begins_where_a_fit_first_saw_them(blobs, lattice):
    other = np.ascontiguousarray(lattice[:, :2])

    first = fit(blobs, FitState.initial(blobs[:6]), steps=2)
    again = fit(blobs, first, steps=2)
    cut_off = fit(other, again, cut_off_after=1, steps=3)
    continued = fit(other, cut_off, steps=3)
    back = fit(blobs, continued, steps=1)

    states = (first, again, cut_off, continued, back)
    assert [state.iteration for state in states] == [2, 4, 5, 7, 8]
    assert [state.data_since for state in states] == [0, 0, 4, 4, 7]


def test_data_without_a_name_are_always_other_data(blobs):
    state = replace(fit(blobs, FitState.initial(blobs[:6])), data_name="")

    for before in (state, replace(state, stop=None)):
        begun = before.begin("")

        assert (begun.began_at, begun.data_since) == (state.iteration, state.iteration)
        assert begun.stop is None
        assert begun.lines == ()


def test_the_lines_of_a_fit_are_those_since_it_began():
    lines = (line(1), line(2), line(3))

    assert [state_with(*lines, began_at=began).lines for began in range(4)] == [
        lines[began:] for began in range(4)
    ]


def test_a_fit_at_its_fixed_point_stays_there(lattice):
    state = fit(lattice, FitState.initial(lattice[:5]))

    again = fit(lattice, state, steps=4)

    for name, value in vars(state).items():  # of arrays, == of the whole tells nothing
        np.testing.assert_array_equal(getattr(again, name), value)


def test_the_negative_of_the_data_is_other_data(lattice):
    state = fit(lattice, FitState.initial(lattice[:5]))

    mirrored = fit(-lattice, state)

    labels = oracle.labels(-lattice, mirrored.centers)
    np.testing.assert_array_equal(
        mirrored.centers, oracle.means(-lattice, labels, mirrored.centers)
    )
