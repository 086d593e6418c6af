"""The stop rules of mini-batch: pure functions of the losses, however often they are asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_kmeans.algorithm.batch_rows import Batches
from ray_kmeans.algorithm.state import (
    Accumulators,
    FitState,
    Iteration,
    Stop,
)
from ray_kmeans.algorithm.stopping import (
    MAX_EPOCHS,
    PATIENCE,
    LossWatch,
    StopRule,
)

TOLERANCES = st.sampled_from([None, 0, 0.1, 0.5, 1.0])
LOSSES = st.lists(st.integers(0, 6), max_size=60) | st.lists(st.floats(0, 1e6), max_size=60)


def start(m=1, done=0, lines=()):
    """A state between two fits, `done` steps after the last update of the centers."""
    state = FitState.initial(np.zeros((1, 1), np.float32)).begin("data")
    state = replace(state, accumulators=Accumulators(m, done, np.zeros((2, 1, 1))))
    return after(state, *lines)


def after(state, *losses, rows=10):
    """The state after steps with these losses, given as numbers or as (loss, rows)."""
    for each in losses:
        loss, n = each if isinstance(each, tuple) else (each, rows)
        line = Iteration(state.iteration + 1, n, float(loss), 1.0, 0, "d")
        running = state.accumulators
        running = replace(running, done=(running.done + 1) % running.steps_per_iteration)
        history = (*state.history, line)
        state = replace(state, iteration=line.iteration, history=history, accumulators=running)
    return state


def iterations_of(lines, m, done):
    """Return (loss, rows) of each whole iteration of a fit that began `done` steps into one."""
    first = (m - done) % m
    whole = [lines[begin : begin + m] for begin in range(first, len(lines) - m + 1, m)]
    return [tuple(map(sum, zip(*iteration, strict=True))) for iteration in whole]


def plain_settled(losses, tolerance):
    if tolerance is None or len(losses) < 2:
        return False
    last, loss = losses[-2:]
    return abs(loss - last) / (1 + abs(last)) < tolerance


def plain_smoothed(iterations, n):
    """Return the smoothed loss per row after each iteration."""
    smoothed = []
    for loss, rows in iterations:
        share = min(1.0, 2 * rows / (n + 1))
        last = smoothed[-1] if smoothed else loss / rows
        smoothed.append(last + share * (loss / rows - last))
    return smoothed


def plain_stale(iterations, n):
    """Return how many iterations ago the smoothed loss per row was lower than ever before."""
    smoothed = plain_smoothed(iterations, n)
    lowest = [
        number
        for number, value in enumerate(smoothed)
        if value < min(smoothed[:number] or [np.inf])
    ]
    return len(smoothed) - 1 - lowest[-1] if smoothed else 0


def plain_reason(lines, m, done, rule, batches):
    """The stop rules in their own words, over the whole fit, at the end of an iteration."""
    iterations = iterations_of(lines, m, done)
    if plain_settled([loss for loss, _ in iterations], rule.relative_tolerance):
        return Stop.TOLERANCE
    if rule.steps is not None or rule.max_steps is not None:
        over = rule.steps is not None and len(lines) >= rule.steps
        over |= rule.max_steps is not None and len(lines) >= rule.max_steps
        return Stop.STEPS if over else None
    if batches is None:
        return None
    if plain_stale(iterations, batches.rows) >= PATIENCE:
        return Stop.NO_IMPROVEMENT
    return Stop.EPOCHS if len(lines) >= MAX_EPOCHS * batches.per_epoch else None


@pytest.mark.parametrize("kind", ["data", "stream"])
@settings(max_examples=300)
@given(
    losses=LOSSES,
    m=st.integers(1, 4),
    done=st.integers(0, 3),
    n=st.integers(1, 40),
    size=st.integers(1, 40),
    tolerance=TOLERANCES,
    steps=st.none() | st.integers(1, 30),
    max_steps=st.none() | st.integers(1, 30),
)
def test_the_watch_decides_as_the_rules_over_the_whole_fit(
    kind, losses, m, done, n, size, tolerance, steps, max_steps
):
    done %= m
    rule = StopRule(steps, max_steps, tolerance)
    batches = Batches(n, min(size, n), seed=0)
    lines = [(loss, batches.rows_in(step)) for step, loss in enumerate(losses)]
    batches = batches if kind == "data" else None
    state = start(m, done)
    watch = LossWatch(rule, state, batches)
    for number, line in enumerate(lines, start=1):
        state = after(state, line)
        watch.see(state.history[-1])

        rebuilt = LossWatch(rule, state, batches)
        assert rebuilt.why_stop(state) is watch.why_stop(state)
        if state.accumulators.done == 0:
            expected = plain_reason(lines[:number], m, done, rule, batches)
            assert watch.why_stop(state) is expected
            if expected is not None:
                return


@given(
    m=st.integers(1, 3),
    done=st.integers(0, 2),
    before=st.lists(st.integers(0, 9), max_size=5),
    losses=LOSSES,
)
def test_lines_of_an_earlier_fit_count_for_nothing(m, done, before, losses):
    rule = StopRule(relative_tolerance=0.3)
    batches = Batches(40, 10, seed=0)
    done %= m
    fresh = start(m, done)
    later = replace(after(start(m), *before), accumulators=fresh.accumulators)
    later = replace(later, began_at=later.iteration)
    for loss in losses:
        fresh, later = after(fresh, loss), after(later, loss)

        reasons = [LossWatch(rule, state, batches).why_stop(state) for state in (fresh, later)]

        assert reasons[0] is reasons[1]


def reason(losses, m=1, batches=None, done=0, **rule):
    state = start(m, done, losses)
    return LossWatch(StopRule(**rule), state, batches).why_stop(state)


@pytest.mark.parametrize(
    ("losses", "tolerance", "expected"),
    [
        ([10.0], 1e9, None),  # nothing to compare with
        ([9.0, 8.0], 0.1, None),  # exactly it is not below it
        ([9.0, 8.0], np.nextafter(0.1, 1), Stop.TOLERANCE),
        ([9.0, 10.0], np.nextafter(0.1, 1), Stop.TOLERANCE),  # a rise is a change, too
        ([0.0, 0.0], 1e-9, Stop.TOLERANCE),  # a loss of 0 is a loss
        ([0.0, 0.0], 0, None),
        ([0.5, 0.1], 0.3, Stop.TOLERANCE),  # relative to 1 + loss
        ([5.0, 5.0, 1.0], 0.3, None),  # the last two
    ],
)
def test_the_tolerance_is_strict_and_relative_to_one_plus_the_loss(losses, tolerance, expected):
    assert reason(losses, relative_tolerance=tolerance) is expected


def test_the_tolerance_compares_whole_iterations_only():
    losses = [5.0, 5.0, 5.0, 1.0]

    assert reason(losses[:2], m=2, relative_tolerance=0.2) is None
    assert reason(losses[:3], m=2, relative_tolerance=0.2) is None
    assert reason(losses, m=2, relative_tolerance=4 / 11) is None
    assert reason(losses, m=2, relative_tolerance=4.1 / 11) is Stop.TOLERANCE
    assert reason([7.0, *losses], m=2, done=1, relative_tolerance=4.1 / 11) is Stop.TOLERANCE
    assert reason([7.0, *losses[:2]], m=2, done=1, relative_tolerance=9) is None


@pytest.mark.parametrize("m", [1, 3])
def test_ten_iterations_without_a_lower_loss_end_an_open_fit(m):
    batches = Batches(10, 10, seed=0)
    losses = [5.0, 4.0, *[4.0] * 10]
    for number in range(1, 12):
        assert reason(np.repeat(losses[:number], m).tolist(), m, batches) is None

    assert reason(np.repeat(losses, m).tolist(), m, batches) is Stop.NO_IMPROVEMENT
    assert reason(np.repeat([*losses[:-1], 3.9], m).tolist(), m, batches) is None
    assert reason(np.repeat([3.0, *losses[1:-1], 3.1], m).tolist(), m, batches) is not None


def test_the_loss_per_row_counts_so_that_a_small_last_batch_is_no_progress():
    batches = Batches(25, 10, seed=0)
    lines = [(10.0, 10), (10.0, 10), (5.0, 5)] * 4

    assert reason(lines, batches=batches) is Stop.NO_IMPROVEMENT


def test_the_loss_is_smoothed_over_about_an_epoch():
    batches = Batches(199, 1, seed=0)  # a batch has a share of one in a hundred
    noisy = [(1.0, 1)] + [(0.9, 1), (1.2, 1)] * 5
    falling = [(1.0, 1)] + [(0.9, 1), (1.05, 1)] * 30

    assert reason(noisy, batches=batches) is None  # the best one is 9 iterations old
    assert reason([*noisy, (1.0, 1)], batches=batches) is Stop.NO_IMPROVEMENT
    assert reason(falling, batches=batches) is None


def test_a_hundred_epochs_end_an_open_fit():
    batches = Batches(20, 10, seed=0)
    falling = np.linspace(1e6, 1, 200).tolist()

    assert reason(falling[:199], batches=batches) is None
    assert reason(falling, batches=batches) is Stop.EPOCHS


@pytest.mark.parametrize("given", [{"steps": 500}, {"max_steps": 500}])
def test_a_number_of_steps_leaves_no_other_reason_than_the_tolerance(given):
    batches = Batches(10, 10, seed=0)

    assert reason([1.0] * 499, batches=batches, **given) is None
    assert reason([1.0] * 500, batches=batches, **given) is Stop.STEPS
    assert reason([1.0] * 2, batches=batches, relative_tolerance=1, **given) is Stop.TOLERANCE


def test_a_stream_has_no_last_epoch_and_no_patience():
    assert reason([1.0] * 1000) is None


def test_a_state_that_has_stopped_says_why():
    state = replace(start(lines=[1.0]), stop=Stop.MONITOR)

    assert LossWatch(StopRule(), state, None).why_stop(state) is Stop.MONITOR


@given(
    losses=st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 40)), max_size=30),
    m=st.integers(1, 4),
    done=st.integers(0, 3),
)
def test_a_line_that_ends_an_iteration_has_the_smoothed_loss(losses, m, done):
    state = start(m, done % m)
    watch = LossWatch(StopRule(), state, Batches(40, 10, seed=0))

    seen = [watch.see(line) for line in after(state, *losses).history]

    first = (m - done % m) % m
    ends = range(first + m - 1, len(losses), m)
    assert [seen[end] for end in ends] == plain_smoothed(iterations_of(losses, m, done % m), 40)
    assert [each for n, each in enumerate(seen) if n not in ends] == [None] * (
        len(losses) - len(ends)
    )
