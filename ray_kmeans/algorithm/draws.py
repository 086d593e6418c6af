"""Addressed randomness: every draw is a function of (seed, purpose), never of who drew first.

A fit uses only the raw words of a Philox generator. NumPy promises that these stay the same between
versions, which it does not for the distributions built on them.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray


def words(seed: int, purpose: str, *address: int, size: int) -> NDArray[np.uint64]:
    """Return `size` random 64-bit words that belong to this address.

    >>> bool((words(0, "random", size=4) == words(0, "random", size=9)[:4]).all())
    True
    """
    return np.asarray(_philox(seed, purpose, *address).random_raw(size), dtype=np.uint64)


def normals(seed: int, purpose: str, *address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return standard normal numbers that belong to this address, of this shape.

    They are the same in one version of NumPy; so no fit uses them.
    """
    generator = np.random.Generator(_philox(seed, purpose, *address))
    return generator.standard_normal(shape, np.float32)


def _philox(seed: int, purpose: str, *address: int) -> np.random.Philox:
    """Return the generator of this address."""
    entropy = (abs(seed), int(seed < 0), zlib.crc32(purpose.encode()), len(address), *address)
    return np.random.Philox(np.random.SeedSequence(entropy))


def uniforms(seed: int, purpose: str, *address: int, size: int) -> NDArray[np.float64]:
    """Return `size` numbers from [0, 1) that belong to this address, multiples of 2**-53."""
    return fractions(words(seed, purpose, *address, size=size))


def fractions(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return 64-bit words as numbers from [0, 1) of the same shape, multiples of 2**-53."""
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53)


def mix(values: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each value under a key, of the same shape; values may be row numbers.

    The finalizer of SplitMix64 (Steele, Lea, Flood, 2014), after a multiplication by the key.
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64
        x = (values + np.uint64(1)) * (key | np.uint64(1)) + (key >> np.uint64(32))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


def distinct_rows(
    n_rows: int, size: int, seed: int, purpose: str, *address: int
) -> NDArray[np.int64]:
    """Draw `size` different rows of `n_rows`, each set equally likely; in ascending order.

    Memory and time O(size), also where `n_rows` is large.
    """
    if 2 * size > n_rows:
        left_out = _few_distinct(n_rows, n_rows - size, seed, purpose, *address)
        return np.setdiff1d(np.arange(n_rows), left_out, assume_unique=True)
    return np.sort(_few_distinct(n_rows, size, seed, purpose, *address))


def _few_distinct(
    n_rows: int, size: int, seed: int, purpose: str, *address: int
) -> NDArray[np.int64]:
    """Draw `size` different rows, at most half of all, in the order of the draws.

    Three draws for each row leave too few different ones with a chance that is negligible beyond
    tiny sizes. Then more are drawn, of which the first ones are those that were drawn before.
    """
    n_words = 3 * size + 16
    while True:
        # The bias of the remainder is below n_rows / 2**64.
        drawn = words(seed, purpose, *address, size=n_words) % np.uint64(n_rows)
        _, first = np.unique(drawn, return_index=True)
        if len(first) >= size:
            chosen: NDArray[np.int64] = drawn[np.sort(first)[:size]].astype(np.int64)
            return chosen
        n_words *= 2
