"""Checkpoints of the current format, as they were written once: they must stay readable.

A change of the format gets a new number and a folder of its own here; the old folders stay, and
with them the code that reads them, or a test that says by which error they are refused.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.state import (
    Accumulators,
    FitState,
    Iteration,
    Stop,
)
from ray_kmeans.store.checkpoint import FORMAT
from ray_kmeans.store.model_dir import ModelDir
from tests.support.store_contract import assert_same

COSINE = Metric.COSINE

STORED = Path(__file__).parents[1] / "checkpoints"
STATES = {
    "full_batch": FitState(
        centers=np.array([[0.5, -1.25], [3e38, 1e-45], [-0.0, 7.0]], np.float32),
        counts=np.array([2, 2**40, 0], np.int64),
        iteration=2,
        history=(
            Iteration(1, 2**40 + 2, 1 / 3, 0.1, empty=0, digest="0123456789abcdef"),
            Iteration(2, 2**40 + 2, 0.25, 0.0, empty=1, digest="fedcba9876543210"),
        ),
        stop=Stop.CONVERGED,
        data_name="c0ffee",
        request="steps=None, 1 per iteration",
    ),
    "mini_batch": FitState(
        centers=np.array([[0.6, 0.8], [1.0, 0.0]], np.float32),
        counts=np.array([5, 9], np.int64),
        metric=COSINE,
        iteration=3,
        began_at=1,
        history=(Iteration(3, 14, 2.5, 0.0, empty=0, digest="0123456789abcdef"),),
        data_name="c0ffee in batches of 14, seed 0",
        request="steps=7, 4 per iteration",
        data_since=1,
        accumulators=Accumulators(
            4, 3, np.array([[[3.1, -4.0], [9.0, 1e300]], [[1e-17, 0.0], [0.0, -1e280]]])
        ),
    ),
}


def folder_of(name):
    return STORED / f"v{FORMAT}" / name


@pytest.mark.parametrize("name", STATES)
def test_a_stored_checkpoint_is_read_bit_for_bit(name):
    assert_same(ModelDir.at(str(folder_of(name)), {}, 5).latest(), STATES[name])


@pytest.mark.parametrize("name", STATES)
def test_a_fit_that_goes_on_from_a_stored_checkpoint_saves_beside_it(name, tmp_path):
    shutil.copytree(folder_of(name), tmp_path, dirs_exist_ok=True)
    store = ModelDir.at(str(tmp_path), {}, 5)

    store.save(STATES[name])

    assert len(store.checkpoints()) == 2
    assert_same(store.latest(), STATES[name])
