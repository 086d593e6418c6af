"""The growing sample of nested mini-batches: which rows are in it, and when it grows.

Newling, Fleuret, Nested mini-batch k-means, NIPS 2016 (arXiv 1602.02934). There, as here, a row
stays in all later mini-batches and counts once, for its newest label: what it added by an older one
is taken away. So the centers after a step are the means of the sample's rows by their newest
labels, which is one iteration of Lloyd over the sample. Two things differ from the paper. The
sample grows when at least half of the centers did not move (the limit of the paper's rule for a
large rho, which needs no variances) or when a fit of the sample would end by itself. And it doubles
up to an eighth of the rows only; then it becomes all of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm import draws
from ray_kmeans.algorithm.state import FitState, Iteration, Sample
from ray_kmeans.algorithm.stopping import StopRule, why_settled

FEWEST_HALVINGS = 3
"""Number of halvings of the largest sample that is not all rows: workers hold a copy of its rows,
whose memory is below what they hold of all rows later."""


def first_sample(rows: int, batch_rows: int, iteration: int) -> Sample:
    """Return the sample that begins at this iteration, of about `batch_rows` of all rows or more.

    >>> first_sample(100_000, 5_000, 0).halvings, first_sample(100_000, 50_000, 0).halvings
    (4, 0)
    """
    halvings = max(rows // max(batch_rows, 1), 1).bit_length() - 1
    return Sample(halvings if halvings >= FEWEST_HALVINGS else 0, iteration)


def key_of(seed: int) -> np.uint64:
    """Return the key of the draw of rows by a random seed."""
    return np.uint64(draws.words(seed, "nested", size=1)[0])


def is_in(numbers: NDArray[np.int64], halvings: int, key: np.uint64) -> NDArray[np.bool_]:
    """Return whether each row is in the sample, by its number, (n,); each halving leaves half.

    A sample of fewer halvings holds all rows of one of more.
    """
    if halvings == 0:
        return np.ones(len(numbers), np.bool_)
    bits = draws.mix(numbers.astype(np.uint64), key)
    return np.asarray(bits >> np.uint64(64 - halvings) == 0)


def lines_of(state: FitState) -> tuple[Iteration, ...]:
    """Return the lines of the history that are of this fit and of the newest sample."""
    assert state.sample is not None
    count = state.iteration - max(state.sample.since, state.began_at)
    return state.history[len(state.history) - count :]


def grown(state: FitState, before: NDArray[np.float32], rule: StopRule) -> FitState:
    """Return the state after a step from the centers `before`, (k, d), with the next sample."""
    sample = state.sample
    assert sample is not None
    still = int((state.centers == before).all(axis=1).sum())
    if sample.halvings == 0 or (
        2 * still < len(before) and why_settled(lines_of(state), rule) is None
    ):
        return state
    fewer = sample.halvings - 1
    halvings = fewer if fewer >= FEWEST_HALVINGS else 0
    return replace(state, sample=Sample(halvings, state.iteration))
