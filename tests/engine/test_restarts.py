"""Restarts: the best of several fits, each with the bits of a fit alone, whatever is killed."""

from __future__ import annotations

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig, errors
from ray_kmeans.observe import events as ev

HERE = RunConfig(num_workers=0, progress=False)
X = (
    np.random.default_rng(5).normal(size=(900, 3))
    + np.random.default_rng(6).integers(0, 9, 900)[:, None]
).astype(np.float32)


class Killed(Exception):
    """Ends a fit from the outside."""


def restarted(model_dir, **more):
    how = {"use_mini_batch": False, "random_seed": 11, "n_init": 3, "config": HERE} | more
    return KMeansClustering(9, str(model_dir), **how)


def alone(tmp_path, seed, **more):
    km = restarted(tmp_path / f"alone {seed}", random_seed=seed, n_init=1, **more)
    return km.fit(X, batch_size=200 if more.get("use_mini_batch") else None)


@pytest.mark.parametrize("more", [{}, {"use_mini_batch": True}], ids=["full batch", "mini-batch"])
def test_the_model_is_the_best_of_the_fits_that_each_seed_gives_alone(tmp_path, more):
    km = restarted(tmp_path / "m", **more).fit(
        X, batch_size=200 if more.get("use_mini_batch") else None
    )

    fits = [alone(tmp_path, seed, **more) for seed in (11, 12, 13)]
    losses = [fit.score(x=X) for fit in fits]
    best = fits[int(np.argmin(losses))]
    assert [each.inertia for each in km.restarts()] == losses
    assert [each.random_seed for each in km.restarts()] == [11, 12, 13]
    assert np.array_equal(km.clusters(), best.clusters())
    assert km.history() == best.history()
    assert km.why_stopped() == best.why_stopped()


def test_of_equal_restarts_the_first_stays(tmp_path):
    km = restarted(tmp_path / "m", initial_clusters=lambda rows, missing: X[:missing]).fit(X)

    assert len({each.inertia for each in km.restarts()}) == 1
    assert np.array_equal(km.clusters(), alone(tmp_path, 11, initial_clusters=X[:9]).clusters())


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_killed_run_makes_no_restart_again_that_had_ended(tmp_path, number):
    whole = restarted(tmp_path / "whole").fit(X)
    cut = restarted(tmp_path / "cut", config=RunConfig(0, save_checkpoints_steps=1, progress=False))
    ended, begun = [], []

    def kill(event):
        if isinstance(event, ev.RestartEnded):
            ended.append(event.number)
        if isinstance(event, ev.IterationDone) and len(ended) == number - 1:
            begun.append(event.line.iteration)
            if len(begun) == 3:
                raise Killed
        if isinstance(event, ev.RestartEnded) and event.number == 3 and number == 3:
            raise Killed

    cut._listeners.append(kill)
    with pytest.raises(Killed):
        cut.fit(X)
    steps = []
    cut._listeners[:] = [lambda event: steps.append(event) if _is_step(event) else None]
    cut.fit(X)

    assert np.array_equal(cut.clusters(), whole.clusters())
    assert cut.restarts() == whole.restarts()
    left = sum(each.iterations for each in whole.restarts()[number - 1 :])
    assert len(steps) < left


def _is_step(event):
    return isinstance(event, ev.IterationDone)


def test_what_other_data_or_another_plan_has_left_is_not_continued(tmp_path):
    def kill(event):
        if isinstance(event, ev.RestartEnded) and event.number == 2:
            raise Killed

    for left in ({}, {"relative_tolerance": 0.5}):
        km = restarted(tmp_path / "m", **left)
        km._listeners.append(kill)
        with pytest.raises(Killed):
            km.fit(X[::2])
    km = restarted(tmp_path / "m").fit(X)

    assert km.restarts() == restarted(tmp_path / "other").fit(X).restarts()
    assert not list((tmp_path / "m/restarts").rglob("*"))


def test_a_file_that_is_not_ours_stays_beside_the_restarts(tmp_path):
    note = tmp_path / "m/restarts/abc/11/checkpoints/data/note.txt"
    note.parent.mkdir(parents=True)
    note.write_text("mine")

    restarted(tmp_path / "m").fit(X)

    assert note.read_text() == "mine"


def test_a_model_that_is_there_is_continued_by_one_fit(tmp_path):
    km = restarted(tmp_path / "m").fit(X, steps=2)
    before = km.restarts()

    assert len(km.fit(X, steps=2).history()) == 4
    assert km.restarts() == before
    assert km.fit(X).fit(X).why_stopped().name == "CONVERGED"


def test_a_session_serves_restarts(tmp_path):
    from ray_kmeans import open_session

    with open_session(X, config=HERE) as session:
        km = session.fit(restarted(tmp_path / "m"))

    assert km.restarts() == restarted(tmp_path / "alone").fit(X).restarts()


@pytest.mark.parametrize(
    ("more", "x", "part"),
    [
        ({"n_init": 0}, X, "n_init=0 must be a whole number of at least 1"),
        ({"initial_clusters": X[:9]}, X, "each restart would be the same"),
        ({"use_mini_batch": True}, iter([X]), "whose batches are seen once"),
    ],
    ids=["none", "given centers", "a stream"],
)
def test_restarts_that_make_no_sense_are_refused(tmp_path, more, x, part):
    with pytest.raises(errors.ConfigError, match=part):
        restarted(tmp_path / "m", **more).fit(x)
