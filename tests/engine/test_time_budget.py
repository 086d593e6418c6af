"""A fit ends when its time is over, and the time changes nothing else."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, Monitor, RunConfig, cli
from ray_kmeans.algorithm.state import Stop
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.engine import time_budget
from ray_kmeans.errors import ConfigError
from ray_kmeans.workflows.fit import plan_fit
from ray_kmeans.workflows.parameters import FitParams

HERE = RunConfig(num_workers=0, progress=False)
X = np.random.default_rng(3).normal(size=(240, 3)).astype(np.float32)
FULL = {"use_mini_batch": False}
FAR = np.concatenate([X[:3], np.full((3, 3), 99, np.float32)])
WAYS = {  # parameters, arguments of fit
    "full batch": (FULL, {}),
    "tolerance": ({**FULL, "relative_tolerance": 0.003}, {}),
    "steps": (FULL, {"steps": 7}),
    "split": ({**FULL, "empty_clusters": "split_largest", "initial_clusters": FAR}, {}),
    "mini-batch": ({}, {"batch_size": 120}),
    "mini-batch, m=3": ({"mini_batch_steps_per_iteration": 3}, {"batch_size": 120}),
    "mini-batch, max_steps": ({"mini_batch_steps_per_iteration": 3}, {"max_steps": 10}),
}


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by a second whenever it is read."""
    seconds = itertools.count()
    monkeypatch.setattr(time_budget, "monotonic", lambda: next(seconds))


def model(place, **params):
    initial = params.pop("initial_clusters", X[:6])
    return KMeansClustering(6, str(place), initial, config=HERE, **params)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("way", WAYS)
def test_a_fit_in_many_short_times_has_the_bits_of_a_fit_without_a_limit(tmp_path, way):
    params, how = WAYS[way]
    whole = model(tmp_path / "whole", **params).fit(X, **how)

    km, stops = model(tmp_path / "parts", **params), []
    while stops[-1:] in ([], [Stop.SECONDS]):
        km.fit(X, **how, max_seconds=3)
        stops.append(km.why_stopped())

    assert len(stops) >= 2
    assert stops[-1] is whole.why_stopped()
    assert km.clusters().tobytes() == whole.clusters().tobytes()
    assert km.history() == whole.history()
    smoothed = [[line.smoothed for line in each.history()] for each in (km, whole)]
    assert smoothed[0] == smoothed[1]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("m", "seconds", "steps"), [(1, 0.1, 1), (1, 5, 4), (1, 6, 5), (3, 5, 12)])
def test_no_iteration_begins_that_has_no_room_and_none_is_cut_off(tmp_path, m, seconds, steps):
    """An iteration takes one second, and the first of them begins after one."""
    km = model(tmp_path, mini_batch_steps_per_iteration=m)

    km.fit(X, batch_size=20, max_seconds=seconds, monitors=[Monitor()])  # which sees each step

    assert (len(km.history()), km.why_stopped()) == (steps, Stop.SECONDS)
    assert len(km.checkpoints()) == 2  # of the first centers, and of the end


def test_the_next_coordinator_gets_the_time_that_is_left():
    params = FitParams(**KMeansClustering(6, "m").get_params(deep=False))
    plan = plan_fit(params, HERE, StopRule(), None)
    hour = replace(plan, max_seconds=3600.0)

    assert hour.taken_over(600).max_seconds == 3000
    assert hour.taken_over(600).in_danger
    assert plan.taken_over(600).max_seconds is None
    assert hour.name == plan.name  # who follows a detached fit need not know its time


@pytest.mark.parametrize("wrong", [0, -1, True, "60", float("inf"), float("nan")])
def test_what_is_no_time_is_refused_before_anything_is_made(tmp_path, wrong):
    with pytest.raises(ConfigError, match=r"max_seconds=.* must be None or a number above 0"):
        model(tmp_path / "m").fit(X, max_seconds=wrong)

    assert not (tmp_path / "m").exists()


@pytest.mark.usefixtures("clock")
def test_the_command_says_how_to_go_on(tmp_path, capsys):
    np.save(tmp_path / "x.npy", X)
    words = ["fit", str(tmp_path / "x.npy"), str(tmp_path / "m"), "--num-clusters", "4"]

    cli.main([*words, "--num-workers", "0", "--no-use-mini-batch", "--max-seconds", "3"])

    assert "stopped: max_seconds were over; the same call again goes on" in capsys.readouterr().out
