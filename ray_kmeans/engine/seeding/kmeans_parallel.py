"""Seeding for many rows, in a few visits of the data: k-means|| and AFK-MC^2."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ray_kmeans import kernels
from ray_kmeans.algorithm import draws
from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.metric import without_direction
from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.engine.pool import Pool
from ray_kmeans.engine.progress import Moved, ignore
from ray_kmeans.engine.seeding.kmeans_plus_plus import PoolField, rows_in_any_order
from ray_kmeans.engine.seeding.potential import SEEDING_METRIC
from ray_kmeans.engine.seeding.recluster import recluster
from ray_kmeans.engine.worker import ShardWorker

ROUNDS = 5
"""Number of rounds of k-means|| in which rows join the candidates."""
OVERSAMPLING = 2
"""Number of rows that are expected to join in a round, as a multiple of k."""
SUM_VALUES = 2**20
"""Number of values of sums that a worker returns at once, if that is more than for k centers."""
CHAIN = 200
"""Number of candidates in the chain of a center of AFK-MC^2."""
WALKED = 64
"""Number of chains that are walked before the later ones are compared with the new seeds."""
CHAIN_VALUES = 2**24
"""Number of values of candidates that are fetched at once."""


def kmeans_parallel(
    pool: Pool, summary: Summary, k: int, seed: int, moved: Moved = ignore
) -> NDArray[np.float32]:
    """Return up to k seeds by k-means|| (Bahmani et al., VLDB 2012).

    Rounds in which rows join with a chance like their distance; then the candidates are clustered
    by the means and counts of the rows nearest to each (the paper takes the candidates themselves
    and the counts). Costs about 10 iterations of Lloyd over the data; the coordinator clusters
    about 10 k candidates, see `recluster`. Its part costs little beside these up to k = 1,000; for
    k = 10,000 it cost as much as to label 3 million rows of 32 columns, whatever the number of
    rows.
    """
    field = PoolField(pool, summary)
    candidates = field.first(draws.uniforms(seed, "kmeans_parallel first", size=1))
    field.add(candidates)
    for number, key in enumerate(draws.words(seed, "kmeans_parallel", size=ROUNDS)):
        moved(number)
        if field.total == 0:
            break
        joined = np.concatenate(pool.ask(ShardWorker.join, key, OVERSAMPLING * k / field.total))
        if len(joined):
            field.add(joined)
            candidates = np.concatenate([candidates, joined])
    near = _sums_near(pool, candidates, k)
    return recluster(candidates, near, summary, k, seed)


def _sums_near(
    pool: Pool, candidates: NDArray[np.float32], k: int, most_values: int = SUM_VALUES
) -> Partials:
    """Return the sums over the rows nearest to each of the candidates, (c, d).

    They are asked for in parts of up to k candidates, or of `most_values` values if that is more.
    """
    at_once = max(k, most_values // candidates.shape[1])
    return Partials.joined(
        [
            pool.total(ShardWorker.sums_near, candidates[first : first + at_once], first)
            for first in range(0, len(candidates), at_once)
        ]
    )


def markov_chains(
    pool: Pool,
    summary: Summary,
    k: int,
    seed: int,
    moved: Moved = ignore,
    length: int = CHAIN,
    most_values: int = CHAIN_VALUES,
) -> NDArray[np.float32]:
    """Return k seeds by AFK-MC^2 (Bachem et al., Fast and provably good seedings, NIPS 2016).

    One look at all rows, then a chain of `length` candidates for each center: with 200 of them
    O(n d + 200 k^2 d), of which this process does as much as 100 k / n sweeps: more than one where
    k > n / 100. At most `most_values` values of candidates are fetched at once, but one
    chain at least.
    """
    field = PoolField(pool, summary)
    seeds = field.first(draws.uniforms(seed, "kmc2 first", size=1))
    field.add(seeds)
    at_once = max(most_values // (length * seeds.shape[1]), 1)
    while len(seeds) < k and field.total > 0:
        chains = range(len(seeds), min(len(seeds) + at_once, k))
        rows, times, chances = _proposals(pool, field, summary.rows, chains, seed, length)
        times[without_direction(rows, summary.metric)] = 0
        ratios = times / chances
        for begin in range(0, len(chains), WALKED):
            part = slice(begin * length, (begin + WALKED) * length)
            some = chains[begin : begin + WALKED]
            seeds = _walk(seeds, rows[part], ratios[part], some, seed, length)
            moved(len(seeds))
    return seeds


def _proposals(
    pool: Pool, field: PoolField, n: int, chains: range, seed: int, length: int
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Draw the candidates of some chains: rows (m, d), how often each counts, and its chance.

    Half of them are drawn by their distance to the first seed, half uniformly; the chance is that
    of the mixture.
    """
    u = np.concatenate([draws.uniforms(seed, "kmc2 rows", i, size=length) for i in chains])
    coin = np.concatenate([draws.uniforms(seed, "kmc2 coins", i, size=length) for i in chains])
    numbers = (u * n).astype(np.int64)
    numbers[coin < 0.5] = field.numbers(u[coin < 0.5])
    ascending, places = np.unique(numbers, return_inverse=True)
    parts, own = zip(*pool.ask(ShardWorker.weights_at, ascending), strict=True)
    weights, times = np.concatenate(parts)[places], np.concatenate(own)
    counted = times[places].astype(np.float64) if len(times) else np.ones(len(places))
    rows = rows_in_any_order(pool, numbers)
    return rows, counted, 0.5 * weights / field.total + 0.5 / n


def _walk(
    seeds: NDArray[np.float32],
    rows: NDArray[np.float32],
    ratios: NDArray[np.float64],
    chains: range,
    seed: int,
    length: int,
) -> NDArray[np.float32]:
    """Walk each chain to its end; return the seeds so far and the rows where the chains ended.

    `rows` (m, d) are the candidates, one chain after the other, and `ratios` (m,) how often each
    counts over its chance to be drawn.
    """
    kernel = kernels.load()
    labels = np.empty(len(rows), np.int32)
    kernel.assign(rows, kernel.prepare(seeds, SEEDING_METRIC), labels)
    nearest = kernel.distances_to(rows, seeds, labels, SEEDING_METRIC)
    newest = np.empty((len(rows), 1))
    for chain, first in zip(chains, range(0, len(rows), length), strict=True):
        u = draws.uniforms(seed, "kmc2 steps", chain, size=length)
        here, ratio = first, nearest[first] * ratios[first]
        for step in range(1, length):
            there = nearest[first + step] * ratios[first + step]
            if there > u[step] * ratio:
                here, ratio = first + step, there
        seeds = np.concatenate([seeds, rows[here : here + 1]])
        left = slice(first + length, None)  # the chains that are not walked yet
        kernel.distances(rows[left], rows[here : here + 1], SEEDING_METRIC, newest[left])
        nearest[left] = np.minimum(nearest[left], newest[left, 0])
    return seeds
