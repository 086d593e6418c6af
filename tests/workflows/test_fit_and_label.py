"""Fit and label over one reading: the files that two calls write, whatever is killed between."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, Layout, RunConfig, Stop, cut, errors, open_source
from ray_kmeans.observe import events as ev
from tests.support.labelled_files import Cut as Killed

HERE = RunConfig(num_workers=0, progress=False)
X = np.random.default_rng(5).normal(size=(20_000, 3)).astype(np.float32)


class Counted:
    """An array as a source that counts how many rows were read."""

    only_here = True

    def __init__(self):
        self.rows_read = 0

    def describe(self):
        return Layout(tuple(cut("x", [len(X)], features=3)), features=3)

    def read(self, blocks):
        for block in blocks:
            self.rows_read += block.rows
            yield block, X[block.start : block.start + block.rows]

    def columns_of(self, block, names):
        raise errors.ConfigError(f"no columns {list(names)}")


def estimator(place, **more):
    how = {"use_mini_batch": False, "relative_tolerance": 1e-2, "config": HERE} | more
    return KMeansClustering(5, str(place), **how)


@pytest.mark.parametrize(
    "way", [{}, {"second": True}, {"by_cluster": True}, {"nearest": 3}], ids=str
)
def test_the_rows_are_those_of_two_calls(tmp_path, way):
    km = estimator(tmp_path / "m")
    counts = km.fit_and_label(X, str(tmp_path / "one"), **way)
    assert counts == estimator(tmp_path / "n").fit(X).label(X, str(tmp_path / "two"), **way)

    assert pq.read_table(tmp_path / "one").equals(pq.read_table(tmp_path / "two"))


@pytest.mark.parametrize("more", [{}, {"n_init": 3}], ids=["one fit", "restarts"])
def test_the_data_are_read_once(tmp_path, more):
    data = Counted()

    estimator(tmp_path / "m", **more).fit_and_label(data, str(tmp_path / "out"))

    assert data.rows_read == len(X)


@pytest.mark.parametrize("kind", [ev.IterationDone, ev.FitEnded, ev.PhaseMoved])
def test_the_same_call_again_does_what_a_killed_one_left(tmp_path, kind):
    km = estimator(tmp_path / "m")

    def kill(event):
        if isinstance(event, kind) and getattr(event, "phase", None) is not ev.Phase.READING:
            raise Killed

    km._listeners.append(kill)
    with pytest.raises(Killed):
        km.fit_and_label(X, str(tmp_path / "one"))
    km._listeners.clear()
    km.fit_and_label(X, str(tmp_path / "one"))
    estimator(tmp_path / "n").fit_and_label(X, str(tmp_path / "two"))

    assert pq.read_table(tmp_path / "one").equals(pq.read_table(tmp_path / "two"))


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ({"keep_columns": ["id"]}, "id"),
        ({"keep_columns": ["row"]}, "the output has columns of these names itself"),
    ],
    ids=["a column that is not there", "a column of the output"],
)
def test_an_output_that_no_fit_can_write_is_refused_before_the_fit(tmp_path, how, part):
    data = open_source(X)

    with pytest.raises((errors.ConfigError, errors.DataError), match=part):
        estimator(tmp_path / "m").fit_and_label(data, str(tmp_path / "out"), **how)

    assert not (tmp_path / "m/checkpoints").exists()


def test_an_output_that_is_not_ours_ends_no_finished_fit(tmp_path):
    (tmp_path / "out").write_text("mine")
    km = estimator(tmp_path / "m")

    with pytest.raises(errors.StoreError):
        km.fit_and_label(X, str(tmp_path / "out"))

    assert (tmp_path / "out").read_text() == "mine"
    assert km.why_stopped() is Stop.TOLERANCE
